"""Figures from results folders: tidy data first, then a drawing that is a function of these data alone."""

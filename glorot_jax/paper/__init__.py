"""Glorot & Bengio (2010), whole: its sweeps' common settings, its printed numbers, table, figures and one page."""

"""Before a cohort trains: its program, kernel, width and memory, what shares a program, and what all that takes."""

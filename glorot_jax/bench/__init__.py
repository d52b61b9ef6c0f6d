"""What the engine takes on this machine, beside what the machine could do and what others take."""

"""For those who have a file and a device: what is in it, what would run here and why. Needs no compiler and no doit."""

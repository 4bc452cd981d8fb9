"""A measure of the verifier itself: faults are planted, and counted when they are caught."""

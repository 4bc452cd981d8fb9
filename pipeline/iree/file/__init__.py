"""The file: vmfb modules, the executables in them, and what a file says of itself. Nothing else knows their formats."""

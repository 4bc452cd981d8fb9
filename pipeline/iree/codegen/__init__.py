"""Generating code: the front half, and the pieces of code, here or on a cluster."""

"""Witnesses that are asked: machines with devices that this one lacks get what was compiled, run it, and say what they saw."""

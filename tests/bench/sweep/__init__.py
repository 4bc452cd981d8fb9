"""Real models through the whole pipeline: what becomes of those that people ship in packages, and what it takes."""

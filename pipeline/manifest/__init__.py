"""What is published about a release: types, both directions, JSON Schema."""

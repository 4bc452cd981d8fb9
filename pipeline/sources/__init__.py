"""Where model bytes come from."""

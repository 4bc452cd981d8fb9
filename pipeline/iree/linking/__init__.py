"""Linking: the gates, the choice and the layout of the code, by surgery on the host's part."""

"""The commands of `vmfb`, one module each: `run` makes the calls and says what came of them."""

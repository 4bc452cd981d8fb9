"""`vmfb completion`: what a shell sources to complete the words of `vmfb`."""

from __future__ import annotations

import argparse

from pipeline.completion import shell_code


def run(arguments: argparse.Namespace) -> None:
    """Print it. PipelineError where the library for that is not installed."""
    shell_code(arguments.shell)

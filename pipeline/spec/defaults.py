"""The executable targets and bundles that this package brings: a project's own, of the same name, come before them."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def folder() -> Path:
    """Where they are: inside the package as pip installs it, beside it in a checkout."""
    installed = _PACKAGE / "targets"
    return installed if installed.is_dir() else _PACKAGE.parent / "targets"

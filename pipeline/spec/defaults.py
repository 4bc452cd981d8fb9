"""The executable targets and bundles that this package brings: a project's own, of the same name, come before them."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_CALLED = "vmfb-pipeline/targets/"  # in what is said of a release: the folder's own path is this machine's


def folder() -> Path:
    """Where they are: inside the package as pip installs it, beside it in a checkout."""
    installed = _PACKAGE / "targets"
    return installed if installed.is_dir() else _PACKAGE.parent / "targets"


def name_of(path: Path) -> str:
    """What a spec is called wherever it is: its path from the project's folder, or in the package."""
    if path.is_relative_to(folder()):
        return _CALLED + path.relative_to(folder()).as_posix()
    return path.name if path.is_absolute() else path.as_posix()


def named(name: str) -> Path:
    """The spec that is called so, here; it need not be there."""
    return folder() / name.removeprefix(_CALLED) if name.startswith(_CALLED) else Path(name)

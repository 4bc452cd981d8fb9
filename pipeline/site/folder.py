"""Pages in a folder: each appears whole or not at all, and what is there already is not written again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import disk_errors
from pipeline.files import remove_leftovers, write


def put_into(folder: Path, pages: Mapping[str, bytes]) -> int:
    """Make the folder hold these pages, by their paths, and no others; how many changed. Each appears whole or not at all."""
    with disk_errors(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(folder)
        there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        changed = [name for name, data in pages.items() if name not in there or there[name].read_bytes() != data]
        for name in changed:
            write(folder / name, pages[name])
        for name in there.keys() - pages.keys():
            there[name].unlink()
        for left in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
            if not any(left.iterdir()):
                left.rmdir()
    return len(changed)

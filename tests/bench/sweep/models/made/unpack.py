"""Files of a wheel, for scripts that make one model file of several."""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

from pipeline import wheels


def unpacked(requirement: str, *members: str) -> dict[str, bytes]:
    """The contents of `members` of the wheel `NAME==VERSION`."""
    with tempfile.TemporaryDirectory() as name:
        wheel = wheels.download(requirement, Path(name), Path(name) / "download.log")
        with zipfile.ZipFile(wheel) as archive:
            return {member: archive.read(member) for member in members}

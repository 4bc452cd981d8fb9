"""The package as pip installs it, without the folder that it was built from."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.project import ROOT


def test_a_wheel_holds_every_file_of_the_package(tmp_path: Path) -> None:
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "--quiet", ROOT, source], check=True)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        tmp_path,
        source,
    ]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    listed = subprocess.run(["git", "ls-files", "pipeline"], cwd=source, check=True, capture_output=True, text=True)
    wanted = {name for name in listed.stdout.splitlines() if not name.endswith(".md")}
    assert len(wanted) > 100
    assert not wanted - set(zipfile.ZipFile(wheel).namelist())

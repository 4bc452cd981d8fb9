"""The package as pip installs it, without the folder that it was built from."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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
    wanted = {name.replace("pipeline/vmfb/", "vmfb/") for name in listed.stdout.splitlines()}
    assert len(wanted) > 100
    assert not wanted - set(zipfile.ZipFile(wheel).namelist())


def test_the_pins_of_builders_hold_what_the_extra_asks_for() -> None:
    """Each with digests, and from no index in particular."""
    lines = (ROOT / ".ci" / "build.txt").read_text().replace("\\\n", " ").splitlines()
    pinned = {}
    for line in lines:
        requirement, *digests = line.split()
        assert digests, line
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", digest) for digest in digests), line
        name, version = requirement.split("==")
        pinned[canonicalize_name(name)] = version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(text) for text in (*project["dependencies"], *project["optional-dependencies"]["build"])]
    for one in wanted:
        assert one.specifier.contains(pinned[canonicalize_name(one.name)]), one

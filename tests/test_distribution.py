"""What is published of this project itself: a wheel and a source distribution that are whole, and types to rely on."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
import vmfb

from pipeline import __version__
from pipeline.iree.device import Device
from pipeline.iree.gates import Decision, Facts
from tests.project import ROOT


@dataclass(frozen=True)
class Distribution:
    """Both files, and the Python of an environment in which the wheel is installed, beside what this environment has."""

    source: Path
    wheel: Path
    python: Path
    folder: Path

    def run(self, *words: str | Path) -> str:
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MYPYPATH")}
        done = subprocess.run(
            [self.python, *words], cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Distribution:
    """Made of what is committed: the wheel of the source distribution, as whoever has only that would."""
    folder = tmp_path_factory.mktemp("distribution")
    subprocess.run(["git", "clone", "--quiet", ROOT, folder / "source"], check=True)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder / "source"]
    subprocess.run(build, check=True, capture_output=True)
    (source,), (wheel,) = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (packages,) = (folder / "venv" / "lib").glob("*/site-packages")
    zipfile.ZipFile(wheel).extractall(packages)
    # Behind it what else is installed here, without what makes this checkout importable.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return Distribution(source, wheel, folder / "venv" / "bin" / "python", folder)


def test_both_are_whole_and_well_described(made: Distribution) -> None:
    with tarfile.open(made.source) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    committed = subprocess.run(["git", "ls-files"], cwd=made.folder / "source", capture_output=True, text=True, check=True)
    assert set(committed.stdout.splitlines()) - inside == set()
    assert not [name for name in inside if name.endswith(".pyc")]
    check = [sys.executable, "-m", "twine", "check", "--strict", made.source, made.wheel]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_installed_package_brings_its_targets(made: Distribution) -> None:
    code = """
import vmfb, pipeline, sys
from pathlib import Path
from pipeline.spec.load import load
from pipeline import cli
assert Path(pipeline.__file__).is_relative_to(sys.prefix), pipeline.__file__
assert Path(vmfb.__file__).is_relative_to(sys.prefix), vmfb.__file__
assert cli.main(["init", "mine"]) == 0
spec = load(Path("mine/targets"))
assert "everything" in spec.bundles and spec.bundles["release"].targets == spec.bundles["desktop"].targets
from pipeline.site import documents
assert all(document.text() for document in documents.ALL)
print(*sorted(spec.executables))
"""
    told = made.run("-c", code).splitlines()[-1].split()
    assert told == sorted(path.stem for path in (ROOT / "targets" / "executables").glob("*.yaml"))


PROGRAM = """
import numpy as np
import vmfb

def scores(tokens: "np.ndarray[tuple[int, ...], np.dtype[np.int64]]") -> str:
    model = vmfb.load("attacut", store="https://example.org", device="auto")
    outputs = model(tokens)
    for choice in vmfb.explain("attacut", device="rtx-3060"):
        print(choice.variant, choice.device.title, [d.reason for d in choice.decisions])
    path = vmfb.fetch("attacut", full=True)
    try:
        model["step"].on_device(tokens)
    except vmfb.Error as error:
        print(error.what, error.where, error.hint)
    return f"{model.variant} {model.manifest.version} {path.name} {outputs[0].shape}"
"""
WRONG = {
    'vmfb.load(5)': "arg-type",
    'vmfb.fetch("x").nosuch': "attr-defined",
    'vmfb.nosuch("x")': "attr-defined",
    'vmfb.explain("x")[0].decisions[0].accepted + "1"': "operator",
}  # fmt: skip


def test_programs_that_import_vmfb_are_checked_by_their_types(made: Distribution) -> None:
    right, wrong = made.folder / "right.py", made.folder / "wrong.py"
    right.write_text(PROGRAM)
    wrong.write_text("\n".join(["import vmfb", *WRONG]))
    check = [sys.executable, "-m", "mypy", "--strict", "--python-executable", made.python, "--cache-dir", made.folder / "mypy"]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MYPYPATH")}
    done = subprocess.run([*check, right, wrong], cwd=made.folder, env=environment, capture_output=True, text=True, check=False)
    found = re.findall(r"^(\w+)\.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE)
    assert found == [("wrong", str(n), kind) for n, kind in enumerate(WRONG.values(), 2)], done.stdout + done.stderr


def test_the_changelog_has_this_version() -> None:
    heads = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heads[0].startswith(f"{__version__}, "), heads


def test_notebooks_show_what_a_device_would_do() -> None:
    device = Device("vulkan://", "A <GPU>", "vulkan", "", False, Facts("x", frozenset()))
    shown = vmfb.Choice(device, (Decision("a", True, ""), Decision("b", False, "wants <x>")), "a")._repr_html_()
    assert "<tr><th>CPU (A &lt;GPU&gt;) by vulkan://</th><td>runs a</td></tr>" in shown
    assert "<tr><th>b</th><td>wants &lt;x&gt;</td></tr>" in shown

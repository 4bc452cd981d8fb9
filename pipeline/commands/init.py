"""`vmfb init`: a project of one's own, in which `doit` works at once."""

from __future__ import annotations

import argparse
import importlib.util
import shlex
from pathlib import Path

from pipeline import __version__
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import write
from pipeline.terminal import put, say

_PACKAGE = Path(__file__).parents[1]
_FROM = _PACKAGE / "project"
_SCHEMAS = tuple(
    f"{name}.schema.json" for name in ("model", "executable", "bundle", "policy")
)  # for editors; `doit check` keeps them in step with the package
_FILES = {
    ".gitignore": "gitignore",
    "targets/models/example.yaml": "example.yaml",
    "targets/models/made/example.py": "example.py",
    "targets/bundles/release.yaml": "release.yaml",
}
_SHARED = ".gitignore"  # which a folder may have for other reasons
_LAST = {"dodo.py": "dodo.py"}  # with it, doit has something to do
CI = {
    "github": {".github/workflows/release.yaml": "workflow.yaml"},
    "gitlab": {".gitlab-ci.yml": "gitlab.yaml"},
    "none": dict[str, str](),
}


def run(arguments: argparse.Namespace) -> None:
    """Write the files of a new project. PipelineError, and nothing written, where one of them is there."""
    folder = Path(arguments.folder)
    version = __version__.encode()
    files = {folder / "targets" / ".schemas" / name: (_PACKAGE / "spec" / name).read_bytes() for name in _SCHEMAS}
    named = {**_FILES, **CI[arguments.ci], **_LAST}
    files |= {folder / name: (_FROM / source).read_bytes().replace(b"VERSION", version) for name, source in named.items()}
    with disk_errors(str(folder)):
        there = [path for path, data in files.items() if path.exists() and not (path.is_file() and path.read_bytes() == data)]
    kept = [path for path in there if path == folder / _SHARED and path.is_file()]
    there = [path for path in there if path not in kept]
    if there:
        what = f"{there[0].relative_to(folder)} is there already: this begins a new project, and changes none"
        raise PipelineError(what, where=str(folder), hint="give the name of a folder that is not there: `vmfb init models`")
    for path, data in files.items():
        if path not in kept and not path.exists():  # what is there has these bytes: that of a run which was killed
            write(path, data)
            put(path)
    for path in kept:
        say(f"note: {path} is there already, and stays: see to it that it has {', '.join(files[path].decode().split())}")
    steps = [f"cd {shlex.quote(arguments.folder)}"] if arguments.folder != "." else []
    steps += [] if importlib.util.find_spec("doit") else ["pip install 'vmfb-pipeline[build]'"]
    does = "builds, verifies and publishes the example; `doit add MODEL.onnx` adds a model of yours"
    say(f"next: {' && '.join([*steps, 'doit'])}, which {does}")

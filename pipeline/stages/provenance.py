"""What this build is made of and by: the checkout, the programs, the machine; and the two documents that tell it of a release."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pipeline
from pipeline import __version__, platforms, process
from pipeline.files import sha256_bytes, sha256_file
from pipeline.iree import toolchain
from pipeline.machine import now
from pipeline.manifest import provenance
from pipeline.manifest.types import Manifest
from pipeline.spec import defaults
from pipeline.spec.types import HttpsSource, HubSource, Model, S3Source, Source, WheelSource
from pipeline.stages.assembly import described_source
from pipeline.stages.origin import Recipe

COMPILER = "iree-base-compiler"
# What takes part in making files and test data, where it is installed; of other formats than ONNX and MLIR what reads them.
_PROGRAMS = (COMPILER, "iree-base-runtime", "numpy", "onnx", "onnxruntime")
_READERS = {
    "stablehlo": ("jax", "jaxlib"),
    "torch": ("torch",),
    "tflite": ("ai-edge-litert", "tensorflow-cpu", "tensorflow", "tf2onnx"),
}


@dataclass(frozen=True)
class Program:
    """An installed package. `sha256` is over what its RECORD lists, names and digests; empty where there is none."""

    name: str
    version: str
    sha256: str

    @property
    def purl(self) -> str:
        """The package's URL, as SBOMs name it."""
        return f"pkg:pypi/{self.name}@{self.version}"


@dataclass(frozen=True)
class Checkout:
    """The commit of the folder that was built in, and whether all in it is in that commit."""

    commit: str
    clean: bool


def checkout(folder: Path) -> Checkout | None:
    """What git says of `folder`; None where it says nothing, or keeps no file of it: another repository is around it then."""
    if not shutil.which("git"):
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain")
    if not _git(folder, "ls-files", "--", "."):
        return None
    if commit is None or changes is None or not re.fullmatch(r"[0-9a-f]{40,64}", commit.strip()):
        return None
    return Checkout(commit.strip(), not changes.strip())


def _git(folder: Path, *words: str) -> str | None:
    with tempfile.TemporaryDirectory() as name:
        log, said = Path(name) / "log", Path(name) / "said"
        ended = process.execute(["git", "-C", folder, *words], log, env={"GIT_OPTIONAL_LOCKS": "0"}, output=said)
        return None if ended.returncode else said.read_text("utf-8", "replace")


@functools.cache
def program(name: str) -> Program | None:
    """The installed package of this name."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    # Not what pip itself adds, nor scripts, which name the folder that they are in.
    listed = [f for f in found.files or () if f.hash and f.suffix != ".pyc" and not f.parts[0].endswith((".dist-info", ".."))]
    lines = sorted(f"{file.hash.mode}={file.hash.value} {file.as_posix()}\n" for file in listed if file.hash)
    return Program(name, found.version, sha256_bytes("".join(lines).encode()) if lines else "")


def needed(name: str) -> list[str]:
    """The names of the packages that an installed one needs, directly or not, in alphabetical order."""
    seen, waiting = set[str](), [name]
    while waiting:
        for text in _requires(waiting.pop()):
            match = re.match(r"[A-Za-z0-9._-]+", text)
            if match and "extra ==" not in text and (other := match[0].lower()) not in seen and program(other):
                seen.add(other)
                waiting.append(other)
    return sorted(seen)


def _requires(name: str) -> list[str]:
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def programs(format_: str) -> list[Program]:
    """What takes part in building a model of this format: the compiler first."""
    names = dict.fromkeys((*_PROGRAMS, *needed(COMPILER), *_READERS.get(format_, ())))
    return [found for name in names if (found := program(name))]


@functools.cache
def _own_digest() -> str:
    """A digest of this package's own code."""
    root = Path(pipeline.__file__).parent
    files = sorted(path for path in root.rglob("*") if path.suffix in (".py", ".j2", ".vmfb", ".json"))
    return sha256_bytes("".join(f"{sha256_file(path)}  {path.relative_to(root).as_posix()}\n" for path in files).encode())


def own() -> Program:
    """This package."""
    return Program("vmfb-pipeline", __version__, _own_digest())


def spec_digests(specs: Sequence[Path]) -> dict[str, str]:
    """The digest of each spec file, by its path from the project's folder, or in the package."""
    return {defaults.name_of(path): sha256_file(path) for path in specs}


def _uri(source: Source) -> str:
    """Where a source is to be had from anywhere; empty for what is in the checkout."""
    if isinstance(source, WheelSource):
        return f"pkg:pypi/{source.package}@{source.version}"
    if isinstance(source, HubSource):
        return f"pkg:huggingface/{source.repo}@{source.revision}"
    return source.location if isinstance(source, HttpsSource | S3Source) else ""


def _dependencies(model: Model, folder: Path) -> Iterator[dict[str, object]]:
    if found := checkout(folder):
        yield {"name": provenance.PROJECT, "digest": {"gitCommit": found.commit}, "annotations": {"clean": found.clean}}
    for one in (own(), *programs(model.format)):
        said: dict[str, object] = {"name": one.name, "uri": one.purl}
        if one.sha256:
            said |= {"digest": {"sha256": one.sha256}, "annotations": {"digestOf": "names and digests of its files"}}
        if one.name == COMPILER:
            said["annotations"] = {"digestOf": "names and digests of its files", "libraryAndLinkerSha256": toolchain.digest()}
        yield said
    for source in model.sources:
        files = {"": source.sha256, **source.data}
        uri = {"uri": _uri(source)} if _uri(source) else {}
        for name, sha256 in files.items():
            called = f"{source.location}: {name}" if name else source.location
            yield {"name": called, "digest": {"sha256": sha256}, **uri}


def definition(model: Model, manifest: Manifest, recipe: Recipe, folder: Path) -> dict[str, object]:
    """SLSA's `buildDefinition` of a release that is built in `folder`."""
    return {
        "buildType": provenance.BUILD_TYPE,
        "externalParameters": {
            "model": model.name,
            "specs": spec_digests(recipe.specs),
            "sources": [asdict(described_source(source)) for source in model.sources],
            "options": dict(recipe.options),
        },
        "internalParameters": {"flags": {artifact.bundle: list(artifact.flags) for artifact in manifest.artifacts}},
        "resolvedDependencies": list(_dependencies(model, folder)),
    }


def details(builder: str) -> dict[str, object]:
    """SLSA's `runDetails` of this run by the `builder` of this name: all that differs where the same is built again."""
    python = ".".join(map(str, sys.version_info[:3]))
    system = f"{platform.system()} {platform.release()} {platforms.machine()}"
    versions = {"vmfb-pipeline": __version__, "python": python, "system": system}
    return {"builder": {"id": builder, "version": versions}, "metadata": {"finishedOn": now()}}

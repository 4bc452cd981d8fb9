"""Small projects for tests: the repository's targets, with models that compile in seconds, in a folder of their own."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from pipeline.layout import PACKAGED_EVIDENCE, Layout
from pipeline.manifest.codec import decode
from pipeline.manifest.evidence import EvidenceDocument, EvidenceIndex, VariantProof
from pipeline.manifest.types import Manifest
from pipeline.spec.load import load
from pipeline.spec.types import Bundle, Entry, Executable, Input, Model, Source
from tests.waiting import FOREVER

ROOT = Path(__file__).parent.parent
DATA = Path(__file__).parent / "data"

INPUTS = {
    "small": [("a", [64, 128], "float32", -1, 1), ("b", [128, 64], "float32", -1, 1)],
    "half": [("a", [32, 64], "float16", -1, 1), ("b", [64, 32], "float16", -1, 1)],
    "int8": [("a", [32, 64], "int8", -128, 128), ("b", [64, 32], "int8", -128, 128)],
}


def model_of(source: Source, *inputs: Input, format: str = "onnx", function: str = "main", path: Path = Path("m.yaml")) -> Model:
    """A model of one entry point, in no bundle; ONNX Runtime gives its reference."""
    entry = Entry(function, function, source, inputs, "onnxruntime" if format == "onnx" else "baseline")
    return Model(path.stem, path, "", "", format, (entry,), ())


class Project:
    """A folder with dodo.py and targets/, whose only models are those asked for, and in which nothing is tuned."""

    def __init__(self, root: Path, *models: str, bundle: dict[str, object] | None = None) -> None:
        self._locate(root)
        shutil.copytree(ROOT / "targets", self.targets)
        shutil.copy(ROOT / "dodo.py", root)
        shutil.copy(ROOT / "pyproject.toml", root)
        shutil.rmtree(self.targets / "models")
        shutil.rmtree(self.targets / "tuning", ignore_errors=True)
        (self.targets / "models").mkdir()
        for model in models:
            self.add(model)
        if bundle:
            (self.targets / "bundles" / "desktop.yaml").write_text(yaml.safe_dump({"about": "for a test", **bundle}))

    @classmethod
    def at(cls, root: Path) -> Project:
        """The project that is at `root` already."""
        project = cls.__new__(cls)
        project._locate(root)
        return project

    def _locate(self, root: Path) -> None:
        self.root = root
        self.targets = root / "targets"
        self.layout = Layout(root / "out")

    def add(self, model: str, **changes: object) -> Path:
        """Add a model from tests/data; `changes` replace keys of its spec."""
        source = DATA / f"{model}.mlir"
        shutil.copy(source, self.targets / "models")
        spec = {
            "about": f"the test model {model}",
            "licence": "Apache-2.0",
            "format": "mlir",
            "source": {"kind": "path", "path": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()},
            "inputs": [
                {"name": n, "shape": s, "dtype": d, "low": low, "high": high} for n, s, d, low, high in INPUTS.get(model, [])
            ],
            "bundles": ["desktop"],
            **changes,
        }
        path = self.targets / "models" / f"{model}.yaml"
        path.write_text(yaml.safe_dump(spec))
        return path

    def spec(self, model: str) -> tuple[Model, Bundle, list[Executable]]:
        """The model, its first bundle, and the bundle's targets in order."""
        spec = load(self.targets)
        bundle = spec.bundles[spec.models[model].bundles[0]]
        return spec.models[model], bundle, [spec.executables[name] for name in bundle.targets]

    def command(self, *arguments: str) -> list[str]:
        """The command line of doit."""
        return [sys.executable, "-m", "doit", *arguments]

    def environment(self, **variables: str) -> dict[str, str]:
        """The environment of a run that finds this repository's package and nobody's store."""
        inherited = {k: v for k, v in os.environ.items() if k not in ("PIPELINE_STORE", "GITHUB_STEP_SUMMARY")}
        return {**inherited, "PYTHONPATH": str(ROOT), **variables}

    def doit(self, *arguments: str, timeout: float = FOREVER, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run doit to its end."""
        return subprocess.run(
            self.command(*arguments),
            cwd=self.root,
            env=self.environment(**variables),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


def manifest(project: Project) -> Manifest:
    path = project.layout.package("small") / "manifest.json"
    return decode(Manifest, path.read_bytes(), str(path))


def documents(package: Path) -> list[EvidenceDocument]:
    """The evidence in a package, in the order of its list."""
    index = decode(EvidenceIndex, (package / PACKAGED_EVIDENCE).read_bytes(), "the list")
    paths = [(package / PACKAGED_EVIDENCE).with_name(f"{sha256}.json") for sha256 in index.documents]
    return [decode(EvidenceDocument, path.read_bytes(), str(path)) for path in paths]


def evidence(project: Project, model: str = "small") -> dict[str, VariantProof]:
    """What was seen here of each variant of the model's first bundle."""
    (document,) = documents(project.layout.package(model))
    return {proof.variant: proof for proof in document.files[0].variants}


def leftovers(project: Project) -> list[Path]:
    return list(project.root.rglob("*.part"))


def store_is_whole(project: Project) -> bool:
    """Whether every release in the store has all its blobs, of the right size."""
    for path in project.layout.store.glob("releases/*/*/manifest.json"):
        for blob in decode(Manifest, path.read_bytes(), str(path)).blobs():
            if (project.layout.store / f"blobs/sha256/{blob.sha256[:2]}/{blob.sha256}").stat().st_size != blob.size:
                return False
    return True

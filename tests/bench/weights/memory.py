"""How much memory importing a model, merging it and running its reference take.

`python -m tests.bench.weights.memory MODEL.onnx` does each in a process of its own, as the stages do. `resident` counts mapped
files too, which the system takes back when it needs memory; `own` does not.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from pipeline import arrays
from pipeline.importers.child import inputs_as_text
from pipeline.spec.types import Input

_INTERVAL = 0.01


@dataclass(frozen=True)
class Peak:
    """The most of the two kinds of memory that a process had, in bytes, and how long it took."""

    resident: int
    own: int
    seconds: float

    def __str__(self) -> str:
        return f"resident {self.resident / 1e6:6.0f} MB  own {self.own / 1e6:6.0f} MB  {self.seconds:5.1f} s"


def peak(words: list[str | Path]) -> Peak:
    """Run a program to its end. Raises subprocess.CalledProcessError where it fails."""
    started, own, resident = time.monotonic(), 0, 0
    process = subprocess.Popen([str(word) for word in words])
    while process.poll() is None:
        try:
            text = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        found = {
            line.split(":")[0]: int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith(("VmHWM", "RssA"))
        }
        own, resident = max(own, found.get("RssAnon", 0)), max(resident, found.get("VmHWM", 0))
        time.sleep(_INTERVAL)
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, words)
    return Peak(resident, own, time.monotonic() - started)


def given(path: Path) -> list[Input]:
    """The inputs of a model of floats in [-1, 1), as a spec would say them."""
    graph = onnx.load(path, load_external_data=False).graph
    shapes = [(i.name, tuple(d.dim_value for d in i.type.tensor_type.shape.dim)) for i in graph.input]
    return [Input(name, shape, "float32", 0, -1.0, 1.0, None) for name, shape in shapes]


def importing(path: Path, folder: Path, options: str = "{}") -> Peak:
    """The memory that importing takes; the result is in FOLDER/main."""
    (folder / "main").mkdir(parents=True, exist_ok=True)
    call = "import sys; from pathlib import Path; from pipeline.importers import child, onnx; "
    call += "sys.exit(child._done(onnx.convert, *sys.argv[1:]))"
    return peak([sys.executable, "-c", call, path, folder / "main", inputs_as_text(given(path)), options])


def merging(folder: Path) -> Peak:
    """The memory that merging what `importing` made takes."""
    return peak([sys.executable, "-m", "pipeline.importers.merge", folder, folder / "main"])


def reference(path: Path, folder: Path) -> Peak:
    """The memory that the reference of two draws takes."""
    folder.mkdir(parents=True, exist_ok=True)
    inputs = given(path)
    for seed, name in enumerate(("given", "again")):
        generator = np.random.default_rng(seed)
        arrays.write(folder / f"{name}.inputs.npz", [generator.uniform(-1, 1, i.shape).astype(i.dtype) for i in inputs])
    words = [path, folder, folder / "result.json", inputs_as_text(inputs), "given", "again"]
    return peak([sys.executable, "-m", "pipeline.importers.onnxruntime", *words])


def main(path: Path) -> None:
    data = sum(file.stat().st_size for file in path.parent.iterdir() if file.name.startswith(path.name))
    print(f"{path}: {data / 1e6:.0f} MB")
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        folder = Path(name)
        print("import, external", importing(path, folder))
        print("merge           ", merging(folder))
        print("import, inline  ", importing(path, folder / "inline", '{"parameters": "inline"}'))
        print("reference       ", reference(path, folder / "reference"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""A model of large weights from its file to a run elsewhere: `python -m tests.bench.weights.whole FOLDER [--bytes 3e9]`.

Publishes to a SeaweedFS server, fetches from it, beside `s5cmd cp` if that is on PATH, and runs. For each stage it prints the
most memory of its own (not of files that are mapped) that one process had, and which; then what loading takes, and what a second
version sends and fetches whose code alone is another. FOLDER needs six times the model's size.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipeline.files import sha256_file
from tests import servers
from tests.bench.weights import stack
from tests.project import Project

_INTERVAL = 0.05
_STAGES = ("fetch", "import", "reference", "compile", "verify", "package", "publish")
_LOAD = """
import sys, time, numpy as np
from pathlib import Path
from pipeline.consume import load

def memory():
    text = Path("/proc/self/status").read_text()
    return {key: int(text.split(key + ":")[1].split()[0]) / 1e3 for key in ("RssAnon", "RssFile")}

def timed(act):
    started = time.monotonic()
    found = act()
    return found, time.monotonic() - started

before = memory()
model, loaded = timed(lambda: load(sys.argv[1], store=sys.argv[2]))
after, x = memory(), np.zeros((1, int(sys.argv[3])), np.float32)
runs = [timed(lambda: model(x))[1] for _ in range(2)]
then = memory()
print(f"loaded in {loaded:.2f} s, own +{after['RssAnon'] - before['RssAnon']:.0f} MB; "
      f"runs {runs[0]:.2f} and {runs[1]:.2f} s, then own +{then['RssAnon'] - before['RssAnon']:.0f} MB, "
      f"mapped +{then['RssFile'] - before['RssFile']:.0f} MB")
"""


@dataclass
class Peak:
    """The most memory of its own that a process below this one had, in bytes, and what it was."""

    own: int = 0
    name: str = ""


def _below(root: int) -> Iterator[Path]:
    """The processes that `root` started, and theirs."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            text = stat.read_text()
            parents.setdefault(int(text.rpartition(") ")[2].split()[1]), []).append(int(stat.parent.name))
    waiting = [root]
    while waiting:
        number = waiting.pop()
        yield Path(f"/proc/{number}")
        waiting += parents.get(number, [])


def _watch(process: subprocess.Popen[str], peak: Peak) -> None:
    while process.poll() is None:
        for place in _below(process.pid):
            with contextlib.suppress(OSError, IndexError):
                own = int((place / "status").read_text().split("RssAnon:")[1].split()[0]) << 10
                if own > peak.own:
                    words = (place / "cmdline").read_text().split("\0")
                    peak.own, peak.name = (
                        own,
                        " ".join(w for w in words[:4] if not w.startswith("/") or w.endswith("iree-compile")),
                    )
        time.sleep(_INTERVAL)


def run(words: Sequence[str], folder: Path, environment: dict[str, str]) -> tuple[Peak, float, str]:
    """Run a command that must succeed: its peak, its seconds, and what it said."""
    peak, started = Peak(), time.monotonic()
    process = subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    watching = threading.Thread(target=_watch, args=(process, peak))
    watching.start()
    said, _ = process.communicate()
    watching.join()
    if process.returncode:
        raise RuntimeError(f"{words}: {said}")
    return peak, time.monotonic() - started, said


def project(folder: Path, size: float, width: int) -> Project:
    """A project whose only model is a stack of products, for two levels of x86-64."""
    made = Project(folder / "project", bundle={"targets": ["x86-64-v3", "x86-64"]})
    path = stack.write(made.targets / "models", size, width)
    data = {stack.DATA: sha256_file(path.with_name(stack.DATA))}
    spec = {
        "about": "a stack of products",
        "licence": "Apache-2.0",
        "format": "onnx",
        "source": {"kind": "path", "path": path.name, "sha256": sha256_file(path), "data": data},
        "inputs": [{"name": "x", "shape": [1, width], "dtype": "float32", "low": -1, "high": 1}],
        "parameters": "external",
        "bundles": ["desktop"],
    }
    (made.targets / "models" / "stack.yaml").write_text(yaml.safe_dump(spec))
    return made


def _blobs(endpoint: str) -> dict[str, int]:
    found = servers.client_of(endpoint).list_objects_v2(Bucket=servers.BUCKET, Prefix="bench/blobs/")
    return {item["Key"]: item["Size"] for item in found.get("Contents", ())}


def _told(label: str, peak: Peak, seconds: float) -> None:
    print(f"{label:<12} own {peak.own / 1e6:6.0f} MB  {seconds:6.1f} s  {peak.name[:70]}", flush=True)


def measure(folder: Path, size: float, width: int) -> None:
    """Print all of it."""
    made = project(folder, size, width)
    (folder / "weed").mkdir()
    vmfb = str(Path(sys.executable).with_name("vmfb"))
    with servers.seaweedfs(folder / "weed") as weed:
        url = f"s3://{servers.BUCKET}/bench"
        variables = {
            "PIPELINE_STORE": url,
            "PIPELINE_CACHE_DIR": str(folder / "pieces"),
            "VMFB_CACHE": str(folder / "cache"),
            "AWS_ENDPOINT_URL_S3": weed.server.endpoint,
            "S3_ENDPOINT_URL": weed.server.endpoint,
            "AWS_ACCESS_KEY_ID": servers.OWNER[0],
            "AWS_SECRET_ACCESS_KEY": servers.OWNER[1],
            "AWS_REGION": "us-east-1",
            "NO_PROXY": "127.0.0.1",
        }
        os.environ.update(variables)
        environment = made.environment(**variables)
        for stage in _STAGES:
            peak, seconds, _ = run(made.command(stage), made.root, environment)
            _told(stage, peak, seconds)
        before = _blobs(weed.server.endpoint)
        peak, seconds, said = run([vmfb, "fetch", "stack"], made.root, environment)
        _told("vmfb fetch", peak, seconds)
        archive = max(before, key=lambda key: before[key])
        if shutil.which("s5cmd"):
            copy = ["s5cmd", "cp", f"{url}/{archive}", str(folder / "copy")]
            _, other, _ = run(copy, made.root, environment)
            print(f"s5cmd cp     {other:.1f} s: the speed of vmfb fetch is {other / seconds:.2f} of its")
            (folder / "copy").unlink()
        peak, seconds, checked = run([vmfb, "run", "stack", "--check"], made.root, environment)
        _told("vmfb run", peak, seconds)
        print(checked.strip().splitlines()[-1])
        _, _, loaded = run([sys.executable, "-c", _LOAD, "stack", url, str(width)], made.root, environment)
        print(loaded.strip())
        target = made.targets / "executables" / "x86-64-v3.yaml"
        target.write_text(target.read_text() + "flags: ['--iree-llvmcpu-target-vector-width-in-bytes=16']\n")
        run(made.command("publish"), made.root, environment)
        new = {key: count for key, count in _blobs(weed.server.endpoint).items() if key not in before}
        _, _, said = run([vmfb, "fetch", "stack"], made.root, environment)
        total = sum(before.values())
        sent = f"{sum(new.values()) / total:.3%} of {total / 1e6:.0f} MB sent"
        print(f"a second version with other code: {sent}; {_fetched(said)} fetched")


def _fetched(said: str) -> str:
    return " and ".join(bytes_ or "nothing" for bytes_, _ in re.findall(r"fetched ([\d.]+ \w+)|(nothing to fetch)", said))


def main() -> None:
    """Measure, as the command line says."""
    parser = argparse.ArgumentParser(description="A model of large weights from end to end.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bytes", type=float, default=3e9)
    parser.add_argument("--width", type=int, default=4096)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    print(f"{os.cpu_count()} cores, {arguments.bytes / 1e6:.0f} MB", flush=True)
    measure(arguments.folder, arguments.bytes, arguments.width)


if __name__ == "__main__":
    main()

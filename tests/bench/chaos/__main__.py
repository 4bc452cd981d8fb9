"""What goes wrong, counted: `python -m tests.bench.chaos [--kills 200] [--faults 2000] [--documents 100000] [--files 50000]`.

Ends with an error at the first thing that does not hold. `--only kills faults servers documents files` does some of it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests import servers
from tests.bench.chaos import documents, faults, kills
from tests.test_hostile import vmfbs

PARTS = ("documents", "files", "faults", "servers", "kills")


def main() -> None:
    """All of it, or what `--only` names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="of all steps, in a folder and a bucket, and of builds")
    parser.add_argument("--faults", type=int, default=2000)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    asked = parser.parse_args()
    for part in PARTS:
        if part in asked.only:
            started = time.monotonic()
            with tempfile.TemporaryDirectory() as name:
                _DO[part](Path(name), asked)
            print(f"  {part}: {time.monotonic() - started:.0f} s", flush=True)


def _kills(folder: Path, asked: argparse.Namespace) -> None:
    each = -(-asked.kills // 4 // len(kills.STEPS))
    print(f"kills, in a folder: {kills.steps(folder / 'steps', str(folder / 'store'), 2 * each, asked.seed)}", flush=True)
    with kills.signed_store(folder) as url:
        hits = kills.steps(folder / "signed", url, each, asked.seed, kills.SIGNED_STEPS)
        print(f"kills, in a signed store: {hits}", flush=True)
    (folder / "weed").mkdir()
    with servers.seaweedfs(folder / "weed") as weed, pytest.MonkeyPatch.context() as patch:
        servers.use_aws(patch, weed.server.endpoint)
        url = f"s3://{servers.BUCKET}/chaos"
        print(f"kills, in a bucket: {kills.steps(folder / 'remote', url, each, asked.seed)}", flush=True)
    print(f"kills of builds: {kills.builds(folder / 'builds', -(-asked.kills // 4), asked.seed)}", flush=True)


def _faults(folder: Path, asked: argparse.Namespace) -> None:
    print(f"faulty requests: {faults.faulty(folder, asked.faults, seed=asked.seed)}", flush=True)


def _servers(folder: Path, _asked: argparse.Namespace) -> None:
    faults.on_every_server(folder, lambda line: print(line, flush=True))


def _documents(_folder: Path, asked: argparse.Namespace) -> None:
    for name, (taken, refused, longest) in documents.documents(asked.documents, asked.seed).items():
        print(f"changed {name}: {taken} taken, {refused} refused, {longest:.2f} s at most", flush=True)


def _files(folder: Path, asked: argparse.Namespace) -> None:
    taken, refused = documents.files(folder, vmfbs, asked.files, asked.seed)
    print(f"changed files: {taken} taken, {refused} refused", flush=True)


_DO: dict[str, Callable[[Path, argparse.Namespace], None]] = {
    "kills": _kills,
    "faults": _faults,
    "servers": _servers,
    "documents": _documents,
    "files": _files,
}

if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main()

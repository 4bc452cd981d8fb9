"""What signatures cost: `python -m tests.bench.trust [--releases 1 1000] [--rounds 15]`: the least of each.

A store with so many releases, signed and not, from a folder and from a web server on loopback: the seconds of `vmfb fetch` into
an empty cache, with nothing known of the store's metadata, and of one when all is in the cache; the requests of both; the seconds
to sign one more release, and the bytes of the metadata.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.layout import channel_key, release_key
from pipeline.manifest.codec import decode, encode
from pipeline.manifest.types import Channel, Manifest
from pipeline.stages.publish import publish
from pipeline.store.open import open_to_publish
from pipeline.trust import anchors
from pipeline.trust.keys import VARIABLE
from pipeline.trust.setup import Setup, begin
from pipeline.trust.signed import signing
from tests import releases, web

VMFB = [str(Path(sys.executable).with_name("vmfb")), "fetch", "noise", "--full", "-q", "--store"]


def _many(root: Path, count: int, folder: Path) -> None:
    """A store of `count` releases, which differ in their versions alone."""
    store = open_to_publish(str(root))
    manifest, _ = releases.release(store, folder, 1 << 20, 1 << 16)
    found = store.get(release_key("noise", manifest.version))
    assert found
    for number in range(1, count):
        again = replace(decode(Manifest, found.data, ""), version=f"1.0.{number}")
        store.create(release_key("noise", again.version), encode(again))


def _seconds(command: Sequence[str], environment: dict[str, str]) -> tuple[float, float]:
    """The wall time and the CPU time of a command."""
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env={**os.environ, **environment}, capture_output=True, check=True)
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _measure(url: str, folder: Path, rounds: int, server: web.Web | None, root: bytes) -> list[str]:
    """Seconds and requests of a cold fetch and a warm one."""
    cold: list[tuple[float, float]] = []
    warm: list[tuple[float, float]] = []
    requests = {"cold": 0, "warm": 0}
    for number in range(rounds):
        trust, cache = folder / f"trust-{number}", folder / f"cache-{number}"
        environment = {"VMFB_CACHE": str(cache), "VMFB_TRUST_DIR": str(trust)}
        if root:
            os.environ["VMFB_TRUST_DIR"] = str(trust)
            anchors.add(url, root)
        for kind, times in (("cold", cold), ("warm", warm)):
            before = len(server.seen) if server else 0
            times.append(_seconds([*VMFB, url], environment))
            requests[kind] = len(server.seen) - before if server else 0
        shutil.rmtree(cache)
    asked = [str(requests["cold"]), str(requests["warm"])] if server else ["", ""]
    return [*_least(cold), asked[0], *_least(warm), asked[1]]


def _least(times: Sequence[tuple[float, float]]) -> list[str]:
    return [f"{min(wall for wall, _ in times):.3f}", f"{min(cpu for _, cpu in times):.3f}"]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--releases", type=int, nargs="+", default=[1, 1000])
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    print("| releases | store | cold, s | CPU | requests | warm, s | CPU | requests |\n| ---: | --- |" + " ---: |" * 6)
    for count in asked.releases:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            os.environ |= {"VMFB_TRUST_DIR": str(folder / "trust"), VARIABLE: str(folder / "keys")}
            _many(folder / "store", count, folder / "package")
            plain = shutil.copytree(folder / "store", folder / "plain")
            started = time.monotonic()
            begin(open_to_publish(str(folder / "store")), str(folder / "store"), Setup())
            begun = time.monotonic() - started
            root = (folder / "keys" / "root.json").read_bytes()
            for kind, place, told in (("not signed", plain, b""), ("signed", folder / "store", root)):
                print(f"| {count} | folder, {kind} | {' | '.join(_measure(str(place), folder, asked.rounds, None, told))} |")
                with web.serve(place) as server:
                    print(f"| {count} | http, {kind} | {' | '.join(_measure(server.url, folder, asked.rounds, server, told))} |")
                for one in folder.glob("trust-*"):
                    shutil.rmtree(one)
            os.environ["VMFB_TRUST_DIR"] = str(folder / "trust")
            releases.make(folder / "next", 1 << 20, 1 << 16, 2)
            started = time.monotonic()
            publish(folder / "next", signing(open_to_publish(str(folder / "store")), str(folder / "store")))
            signed = time.monotonic() - started
            started = time.monotonic()
            publish(folder / "next", open_to_publish(str(plain)))
            size = max(path.stat().st_size for path in (folder / "store" / "trust").glob("*.targets.json"))
            pointer = decode(Channel, (folder / "store" / channel_key("noise", "latest")).read_bytes(), "")
            assert pointer.version
            print(
                f"{count}: beginning to sign took {begun:.2f} s; a publication {signed:.2f} s, not signed"
                f" {time.monotonic() - started:.2f} s; the targets have {size} bytes",
                file=sys.stderr,
            )


if __name__ == "__main__":
    main()

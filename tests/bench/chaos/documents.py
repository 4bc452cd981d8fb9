"""Documents and files that were changed at random: each is read, or refused by an error, in a time that is bounded."""

from __future__ import annotations

import copy
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.manifest.codec import decode, embedded_evidence, encode
from pipeline.manifest.evidence import EvidenceDocument, EvidenceIndex
from pipeline.manifest.types import CHANNEL_SCHEMA, SCHEMA, Blob, Channel, Index, Manifest, PastRelease, Yank
from tests import releases
from tests.bench.chaos import require
from tests.project import ROOT

_SECONDS = 5  # for a document or a file
_PROCESSES = 2  # that look at files, at a time
_WILD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**30, 0.5, float("nan"), float("inf"), 1e308,
    "", "..", "../../x", "/etc/passwd", "a/b", "\0", "\x1b[31m", "\u202e", "\ud800", "x" * 3000, "9" * 5000, "0" * 64,
    [], {}, [[]], [None] * 1000, {"a": {"b": {}}}, "code", "cpu", "1.0", "latest",
)  # fmt: skip


def _kinds() -> dict[str, tuple[type[Any], dict[str, Any]]]:
    digest = "0" * 64
    manifest = json.loads((ROOT / "tests/golden/manifest.json").read_text()) | {"version": "1"}
    evidence = encode(releases.unseen(decode(Manifest, json.dumps(manifest).encode(), "golden")))
    manifest_ = Blob("releases/m/1/manifest.json", digest, 1)
    history = (PastRelease("0", digest, "2026-01-31T12:00:00Z", False),)
    channel = Channel(CHANNEL_SCHEMA, "m", "latest", "1", manifest_, history)
    yank = Yank(SCHEMA, "m", "1", "wrong", "2026-01-31T12:00:00Z", "")
    index = {"schema": 1, "models": [{"name": "m", "channels": [{"channel": "latest", "version": "1"}], "versions": ["1", "2"]}]}
    return {
        "manifest": (Manifest, manifest),
        "evidence": (EvidenceDocument, json.loads(evidence)),
        "list of evidence": (EvidenceIndex, {"schema": 1, "documents": [digest, "1" * 64]}),
        "index": (Index, index),
        "channel": (Channel, json.loads(encode(channel))),
        "yank": (Yank, json.loads(encode(yank))),
    }


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """End the process if the block takes longer: nothing in it could go on."""
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def _places(value: Any) -> list[tuple[Any, Any]]:
    found, todo = [], [value]
    while todo:
        one = todo.pop()
        items = list(one.items()) if isinstance(one, dict) else list(enumerate(one)) if isinstance(one, list) else []
        found += [(one, key) for key, _ in items]
        todo += [inner for _, inner in items]
    return found


def _changed(text: str, chance: random.Random) -> bytes:
    """By its values, mostly, or by its bytes."""
    if chance.random() < 0.25:
        data = bytearray(text.encode())
        for _ in range(chance.choice([1, 1, 3, 20])):
            at = chance.randrange(len(data))
            kind = chance.randrange(4)
            if kind == 0:
                data[at] = chance.randrange(256)
            elif kind == 1:
                del data[at : at + chance.randrange(1, 50)]
            elif kind == 2:
                data[at:at] = chance.choice([b"[" * 3000, b"{", b'"', b"9" * 400, b"\xff", b"\\ud800", b"1e999,", b"\0"])
            else:
                del data[at:]
            if not data:
                break
        return bytes(data)
    value = json.loads(text)
    for _ in range(chance.choice([1, 1, 2, 3])):
        if not (places := _places(value)):
            break
        place, key = chance.choice(places)
        kind = chance.randrange(4)
        if kind == 0 and isinstance(place, list):
            place.insert(chance.randrange(len(place) + 1), place[key])
        elif kind == 1:
            del place[key]
        elif kind == 2 and isinstance(place, dict):
            place[str(chance.choice(_WILD))] = place.pop(key)
        else:
            place[key] = copy.deepcopy(chance.choice(_WILD))
    return json.dumps(value).encode("utf-8", "surrogatepass")


def documents(count: int, seed: int = 0) -> dict[str, tuple[int, int, float]]:
    """Decode so many changed documents; of each kind how many were taken, and refused, and the longest time in seconds."""
    chance, result = random.Random(seed), {}
    kinds = _kinds()
    for name, (kind, value) in kinds.items():
        text = json.dumps(value)
        decode(kind, text.encode(), name)  # as it is, it is right
        taken = refused = 0
        longest = 0.0
        for _ in range(-(-count // len(kinds))):
            data = _changed(text, chance)
            started = time.monotonic()
            with within(_SECONDS):
                try:
                    found = decode(kind, data, name)
                    if isinstance(found, Manifest):
                        embedded_evidence(data, found)
                    taken += 1
                except PipelineError as error:
                    refused += 1
                    require((len(str(error)) < 20_000 and str(error).isprintable()) or "\n" in str(error), "a short message")
            longest = max(longest, time.monotonic() - started)
        result[name] = (taken, refused, longest)
    return result


CHILD = """if True:
    import random, resource, signal, sys
    from pathlib import Path
    from tests import test_hostile
    base, path, seed, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    data, chance = base.read_bytes(), random.Random(seed)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    taken = 0
    for round_ in range(count):
        path.write_bytes(test_hostile.mutate(data, chance))
        signal.alarm(5)
        taken += test_hostile.look(path)
        signal.alarm(0)
    print(taken)
"""


def files(folder: Path, made: Callable[[Path], list[bytes]], count: int, seed: int = 0) -> tuple[int, int]:
    """Look at so many changed vmfbs, in processes with 1 GiB of address space, 5 s for each; how many were taken, and refused."""
    todo = []
    for number, data in enumerate(made(folder)):
        base = folder / f"base-{number}"
        base.write_bytes(data)
        todo.append((base, seed + number, -(-count // 3)))
    taken, running = 0, []
    for base, own, rounds in todo:
        words = [sys.executable, "-c", CHILD, str(base), str(base.with_suffix(".vmfb")), str(own), str(rounds)]
        running.append(subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True))
        if len(running) >= _PROCESSES:
            taken += _ended(running.pop(0))
    taken += sum(map(_ended, running))
    return taken, sum(rounds for _, _, rounds in todo) - taken


def _ended(process: subprocess.Popen[str]) -> int:
    said, _ = process.communicate()
    require(process.returncode == 0, f"a changed file ends the process with {process.returncode}")
    return int(said)

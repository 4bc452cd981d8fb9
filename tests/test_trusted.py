"""Reading a signed store: what that costs, many at once, and damage of what is kept here and of what the store has."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.consume.api import Quiet
from pipeline.consume.cache import Cache
from pipeline.consume.fetch import fetch
from pipeline.consume.reference import Reference
from pipeline.consume.resolve import Remote
from pipeline.errors import PipelineError
from pipeline.store.open import open_to_publish
from pipeline.trust import anchors
from pipeline.trust.source import TrustedSource
from tests import trusting, web
from tests.project import ROOT
from tests.trusting import MODEL, Signed

LATEST = Reference(MODEL, channel="latest")


@pytest.fixture
def signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Signed:
    return trusting.begun(tmp_path, monkeypatch)


def test_what_is_signed_takes_three_requests_more_and_later_one(
    signed: Signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And later nothing of the library: a warm fetch takes no longer than one of a store that is not signed.

    Four are for the metadata; but whether a release was yanked needs none of its own.
    """
    seen = {}
    for kind in ("not signed", "signed"):
        with web.serve(signed.root) as server:
            if kind == "signed":
                trusting.believe(server.url, signed)
            cache, counts = tmp_path / kind, []
            for _ in range(2):
                before = len(server.seen)
                manifest = trusting.manifest_of(server.url, LATEST, cache)
                fetch(Remote(server.url), Cache(cache), manifest.artifacts[0], None, Quiet())
                counts.append(len(server.seen) - before)
                monkeypatch.setattr("pipeline.trust.client.refresh", None)
            seen[kind] = counts
            before = len(server.seen)
            trusting.manifest_of(server.url, Reference(MODEL, version=manifest.version), cache)
            assert len(server.seen) == before
        monkeypatch.undo()
        monkeypatch.setenv("VMFB_TRUST_DIR", str(tmp_path / "trust"))
    assert [b - a for a, b in zip(seen["not signed"], seen["signed"], strict=True)] == [3, 1]


def test_what_is_damaged_here_is_asked_for_again(signed: Signed, tmp_path: Path) -> None:
    """But for the root that was given: whoever changed that may have changed everything."""
    signed.publish(1)
    right = trusting.manifest_of(signed.url, LATEST, tmp_path / "cache")
    anchor = anchors.anchor_of(signed.url)
    assert anchor
    files = [path for path in anchor.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 6
    for path in files:
        before = path.read_bytes()
        for damage in (b"", b"{}", before[: len(before) // 2], b"[" * 100_000, b"\xff" * 100):
            path.write_bytes(damage)
            if path.name == "root.json" and path.parent == anchor.folder:
                with pytest.raises(PipelineError, match="metadata"):
                    _fresh(anchor, signed)
            else:
                assert trusting.manifest_of(signed.url, LATEST, tmp_path / "cache") == right
            path.write_bytes(before)


def _fresh(anchor: anchors.Anchor, signed: Signed) -> None:
    (anchor.folder / "view.json").rename(anchor.folder / "view.kept")
    try:
        TrustedSource(open_to_publish(signed.url), anchor).find("x/y")
    finally:
        (anchor.folder / "view.kept").rename(anchor.folder / "view.json")


def test_many_who_ask_at_once(signed: Signed, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: trusting.manifest_of(signed.url, LATEST, tmp_path / "cache"), range(16)))
    assert found == [found[0]] * 16


def test_who_reads_while_others_publish_never_meets_an_older_state(signed: Signed, tmp_path: Path) -> None:
    """Readers and publishers of one user share what was seen; and a reader sees each state once it was there."""
    ended = threading.Event()

    def read(number: int) -> int:
        count = 0
        while not ended.is_set() or not count:
            trusting.manifest_of(signed.url, LATEST, tmp_path / f"cache-{number}")
            count += 1
        return count

    with ThreadPoolExecutor(6) as pool:
        counts = [pool.submit(read, number) for number in range(4)]
        try:
            for _ in pool.map(lambda n: [signed.publish(n * 10 + m, f"model-{n}") for m in range(4)], range(2)):
                pass
        finally:
            ended.set()
    assert all(one.result() for one in counts)


@pytest.mark.parametrize("rounds", [100, pytest.param(20_000, marks=pytest.mark.thorough)])
def test_damaged_metadata_is_refused(rounds: int, signed: Signed, tmp_path: Path) -> None:
    """Whatever is changed of it: either what was signed is read, or it is an error that says so."""
    right, chance = trusting.manifest_of(signed.url, LATEST, tmp_path / "cache"), random.Random(5)
    anchor, files = anchors.every()[0], sorted((signed.root / "trust").rglob("*.json"))
    words = [b'"', b"{", b"[", b"1e999", b"NaN", b"-1", b"null", b"9" * 5000, b"\xed\xa0\x80", b'"\\ud800"', b"[" * 50_000]
    refused = 0
    for _ in range(rounds):
        path = chance.choice(files)
        before = path.read_bytes()
        place, end = chance.randrange(len(before)), chance.randrange(len(before))
        changed = chance.choice(
            [before[:place], before[:place] + before[end:], before[:place] + chance.choice(words) + before[place + 1 :]]
        )
        path.write_bytes(changed)
        shutil.rmtree(anchor.folder / "metadata", ignore_errors=True)
        (anchor.folder / "view.json").unlink(missing_ok=True)
        try:
            assert trusting.manifest_of(signed.url, LATEST, tmp_path / "cache") == right
        except PipelineError:
            refused += 1
        path.write_bytes(before)
    assert refused > rounds / 2


def test_as_on_windows(signed: Signed, tmp_path: Path) -> None:
    """Whoever reads a signed store needs nothing that Windows lacks."""
    words = ["-X", "warn_default_encoding", "-m", "tests.elsewhere"]
    folders = {"VMFB_CACHE": str(tmp_path / "cache"), "VMFB_TRUST_DIR": "", "APPDATA": str(tmp_path / "roaming")}
    for command in (["trust", "add", signed.url, str(signed.keys / "root.json")], ["list", signed.url]):
        done = subprocess.run(
            [sys.executable, *words, *command],
            cwd=ROOT,
            env={**os.environ, **folders},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{MODEL}  latest → ")
    assert list((tmp_path / "roaming" / "vmfb-pipeline" / "trust" / "stores").glob("*/metadata/timestamp.json"))

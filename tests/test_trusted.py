"""Reading a signed store: what that costs, many at once, and damage of what is kept here and of what the store has."""

from __future__ import annotations

import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.consume.cache import Cache
from pipeline.consume.fetch import fetch
from pipeline.consume.loaded import Quiet
from pipeline.consume.reference import Reference
from pipeline.consume.resolve import Remote
from pipeline.errors import PipelineError
from pipeline.store.open import open_to_publish
from pipeline.trust import anchors
from pipeline.trust.source import TrustedSource
from tests import trusting, web
from tests.trusting import MODEL, Signed

LATEST = Reference(MODEL, channel="latest")


@pytest.fixture
def signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Signed:
    return trusting.begun(tmp_path, monkeypatch)


def test_what_is_signed_takes_four_requests_more_and_later_two(
    signed: Signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And later nothing of the library: a warm fetch takes no longer than one of a store that is not signed."""
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
    assert [b - a for a, b in zip(seen["not signed"], seen["signed"], strict=True)] == [4, 2]


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

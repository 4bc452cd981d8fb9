"""Code of strangers in caches: whole, with a right digest, and wrong. It is passed over wherever it comes from, and told."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from pipeline import cache as caches
from pipeline import platforms, seal, wheels
from pipeline.cache import Cache, LocalCache, SharedCache
from pipeline.commands import attest
from pipeline.errors import PipelineError
from pipeline.iree.codegen.pieces import Code
from pipeline.iree.devices import runtimes
from pipeline.seal import Seal
from pipeline.store.open import open_store
from tests.test_compile import DESKTOP
from tests.test_pieces import SMALL, build, cold  # noqa: F401  # a fixture

SEAL = Seal("pieces", b"what the builders share, and no one else")
STRANGER = Seal("pieces", b"what somebody else has, who may write there")
KEYS = ["ab" * 32, "cd" * 32]


def plain_entry(data: bytes) -> bytes:
    """An entry as they were before there was a key: its digest, and what anybody puts there."""
    return hashlib.sha256(data).hexdigest().encode() + b"\n" + data


def poisoned(data: bytes) -> bytes:
    code = Code.decode(data)
    return Code(code.stub, code.format, code.mime_type, code.seconds, code.data[:-8] + b"POISONED").encode()


def is_piece(data: bytes) -> bool:
    return data.startswith(b"{") and b'"stub"' in data.partition(b"\n")[0]


def test_forged_moved_replayed_and_foreign_entries_are_not_built_in(
    cold: tuple[Path, Cache],  # noqa: F811
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = open_store(str(tmp_path / "store"))
    found = {path.name: cold[1].local.get(path.name) or b"" for path in cold[1].local.folder.glob("??/*")}
    pieces = {key: data for key, data in sorted(found.items()) if is_piece(data)}
    formats = {Code.decode(data).format.partition("-")[0] for data in pieces.values()}
    assert {"embedded", "vulkan"} <= formats  # of CPUs and of GPUs
    keys = list(pieces)
    for number, (key, data) in enumerate(pieces.items()):
        other = keys[number - 1]
        entry = {
            0: Seal("pieces").sealed(key, poisoned(data)),  # by no key: as whole as can be made without one
            1: STRANGER.sealed(key, poisoned(data)),
            2: SEAL.sealed(other, pieces[other]),  # a right one, moved here
            3: SEAL.sealed(key, data)[:78] + poisoned(data),  # the tag of the right one
            4: plain_entry(poisoned(data)),
            5: Seal("local", SEAL.secret).sealed(key, poisoned(data)),  # made for another purpose, by the right key
        }[number % 6]
        assert store.create(f"pieces/{SEAL.name}/{key[:2]}/{key}", entry)
        assert store.create(f"pieces/{key[:2]}/{key}", plain_entry(poisoned(data)))  # where older programs look
    here = Cache(LocalCache(tmp_path / "cache", 1 << 30), SharedCache(store, True, SEAL))
    counts = build(SMALL, tmp_path / "first", DESKTOP, here)
    assert (counts.shared, counts.generated) == (0, 12)
    assert (tmp_path / "first/module.vmfb").read_bytes() == cold[0].read_bytes()  # so none of it ever runs
    (said,) = (r.message for r in caplog.records if r.name == "pipeline.cache")
    assert "12 of 12 entries are damaged, or by no builder that has this key" in said
    other_machine = Cache(LocalCache(tmp_path / "other", 1 << 30), SharedCache(store, False, SEAL))
    assert build(SMALL, tmp_path / "second", DESKTOP, other_machine).shared == 12  # they were replaced
    assert (tmp_path / "second/module.vmfb").read_bytes() == cold[0].read_bytes()


def test_each_key_has_a_place_of_its_own(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for each in (SEAL, STRANGER):
        assert SharedCache(store, True, each).put(KEYS[0], each.name.encode())
    assert SharedCache(store, True, SEAL).get(KEYS[0]) == SEAL.name.encode()
    assert "builders" not in repr(SEAL)


# This machine's own cache


def stranger_writes(folder: Path, key: str, entry: bytes) -> Path:
    path = folder / key[:2] / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(entry)
    return path


def test_entries_from_before_there_were_tags_and_moved_ones_are_passed_over(tmp_path: Path) -> None:
    cache = LocalCache(tmp_path / "cache", 1 << 20)
    cache.put(KEYS[0], b"data")
    entry = (cache.folder / KEYS[0][:2] / KEYS[0]).read_bytes()
    for strange in (plain_entry(b"data"), entry, b"", b"vmfb-cache 2 "):
        assert cache.get(KEYS[0]) == b"data"
        path = stranger_writes(cache.folder, KEYS[1], strange)
        assert cache.get(KEYS[1]) is None
        assert not path.exists()


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_a_folder_that_others_write_to_is_used_with_a_key_only(
    tmp_path: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(mode)
    stranger_writes(folder, KEYS[0], Seal("local").sealed(KEYS[0], b"poison"))
    without = LocalCache(folder, 1 << 20)
    for _ in range(2):
        assert without.get(KEYS[0]) is None
        without.put(KEYS[1], b"data")
    assert not (folder / KEYS[1][:2] / KEYS[1]).exists()
    (said,) = (r.message for r in caplog.records)
    assert "others may write to it" in said
    with_key = LocalCache(folder, 1 << 20, Seal("local", SEAL.secret))
    stranger_writes(folder, KEYS[0], Seal("local").sealed(KEYS[0], b"poison"))
    assert with_key.get(KEYS[0]) is None
    with_key.put(KEYS[0], b"data")
    assert with_key.get(KEYS[0]) == b"data"


def test_a_file_of_another_user_is_not_read(tmp_path: Path) -> None:
    cache = LocalCache(tmp_path / "cache", 1 << 20)
    cache.put(KEYS[0], b"data")
    path = stranger_writes(cache.folder, KEYS[1], Seal("local").sealed(KEYS[1], b"poison"))
    path.chmod(0o666)  # as what others wrote while the folder was open to them
    assert cache.get(KEYS[1]) is None
    if os.geteuid() == 0:
        path = stranger_writes(cache.folder, KEYS[1], Seal("local").sealed(KEYS[1], b"poison"))
        os.chown(path, 4711, 4711)
        assert cache.get(KEYS[1]) is None
        os.chown(cache.folder, 4711, 4711)
        assert LocalCache(cache.folder, 1 << 20).get(KEYS[0]) is None


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077])
def test_whatever_the_umask_the_cache_is_its_users_own(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        cache = LocalCache(tmp_path / "a" / "cache", 1 << 20)
        cache.put(KEYS[0], b"data")
        kept = cache.private("runtimes")
    finally:
        os.umask(before)
    made = [cache.folder, kept, *cache.folder.glob("??"), *cache.folder.glob("??/*")]
    assert all(platforms.is_own(path.stat(), to_read=True) for path in made)
    assert LocalCache(cache.folder, 1 << 20).get(KEYS[0]) == b"data"


# Runtimes, whose code is run


def test_no_runtime_is_run_from_a_folder_that_others_write_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_CACHE_DIR", str(tmp_path / "cache"))
    place = runtimes._place("3.12.0")
    place.mkdir(parents=True)
    assert runtimes._fetched("3.12.0", tmp_path).folder == place
    place.chmod(0o777)
    assert "others may write to this folder" in runtimes._fetched("3.12.0", tmp_path).problem
    place.chmod(0o755)
    (tmp_path / "cache").chmod(0o777)
    assert "others may write to this folder" in runtimes._fetched("3.12.0", tmp_path).problem


def test_a_known_runtime_is_the_one_that_was_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(requirement: str, folder: Path, log: Path, tags: object = ()) -> Path:
        path = folder / "iree_base_runtime.whl"
        path.write_bytes(b"not what was released")
        return path

    monkeypatch.setenv("PIPELINE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(wheels, "download", other)
    assert "SHA-256" in runtimes._fetched("3.12.0", tmp_path).problem
    assert not runtimes._place("3.12.0").exists()


# The key


def test_a_shared_cache_without_a_key_is_left_out_and_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PIPELINE_CACHE", str(tmp_path))
    assert caches.from_environment().shared is None
    (said,) = (r.message for r in caplog.records)
    assert "(umask 077; head -c 32 /dev/urandom > KEY)" in said


@pytest.mark.parametrize(
    ("size", "mode", "said"),
    [
        (31, 0o600, "it has 31 bytes"),
        (32, 0o640, "others can read"),
        (32, 0o604, "others can read"),
        (70000, 0o600, "70000 bytes"),
    ],
)
def test_a_key_that_is_none_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, mode: int, said: str) -> None:
    path = tmp_path / "key"
    monkeypatch.setenv("PIPELINE_CACHE_KEY", str(path))
    with pytest.raises(PipelineError, match="No such file"):
        caches.from_environment()
    path.write_bytes(bytes(size))
    path.chmod(mode)
    with pytest.raises(PipelineError, match=said) as caught:
        seal.from_environment("pieces")
    assert "PIPELINE_CACHE_KEY=" in str(caught.value)


def test_a_file_or_folder_is_not_taken_for_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_CACHE_KEY", str(tmp_path))
    with pytest.raises(PipelineError, match="directory"):
        caches.from_environment()


def test_tags_hold_purpose_key_and_content_apart() -> None:
    seals = [Seal(p, s) for p in ("pieces", "sent", "piece") for s in (b"", b"a" * 32, b"b" * 32)]
    entries = {each.sealed(key, data) for each in seals for key in ("ab", "a") for data in (b"", b"b", json.dumps([]).encode())}
    assert len(entries) == len(seals) * 6
    assert len({each.name for each in seals}) == len(seals)


def test_nobody_attests_what_others_may_have_put_into_its_cache(tmp_path: Path) -> None:
    attest._require_own(tmp_path / "not there yet")
    attest._require_own(tmp_path)
    tmp_path.chmod(0o770)
    with pytest.raises(PipelineError, match="others may write to this cache"):
        attest._require_own(tmp_path)

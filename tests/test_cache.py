"""Caches: believed only after a look at the digest, never a reason to fail, bounded, shared by processes and machines."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import cache as caches
from pipeline.cache import Cache, LocalCache, SharedCache
from pipeline.errors import PipelineError
from pipeline.iree.codegen.audit import audit
from pipeline.iree.codegen.pieces import Code
from pipeline.iree.targets import resolve
from pipeline.seal import Seal
from pipeline.store.base import Store
from pipeline.store.open import open_store
from tests import servers
from tests.project import Project
from tests.test_compile import DESKTOP, executables
from tests.test_pieces import SMALL, build, cold  # noqa: F401  # a fixture

KEY = "ab" * 32
SEAL = Seal("pieces", b"what the builders share, and no one else")


def key(number: int) -> str:
    return f"{number:064x}"[::-1]


def shared_key(name: str) -> str:
    return f"pieces/{SEAL.name}/{name[:2]}/{name}"


def fill(source: Cache, target: SharedCache) -> list[str]:
    """Put every entry of `source` into `target`; their keys."""
    found = {path.name: source.local.get(path.name) or b"" for path in source.local.folder.glob("??/*")}
    assert not target.put_many(found)
    return sorted(found)


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = LocalCache(tmp_path, 10_000)
    for number in range(20):
        cache.put(key(number), bytes(1000))
        os.utime(tmp_path / key(number)[:2] / key(number), (number, number))
    assert cache.get(key(0)) is not None  # and so it is the last used
    cache.trim()
    left = [number for number in range(20) if cache.get(key(number)) is not None]
    assert left[0] == 0
    assert left[1:] == list(range(20 - len(left) + 1, 20))
    assert 5 < len(left) < 10


def test_an_entry_that_would_crowd_out_the_others_is_not_kept(tmp_path: Path) -> None:
    cache = LocalCache(tmp_path, 8000)
    cache.put(KEY, bytes(1001))
    assert cache.get(KEY) is None


WRITER = """
import sys
from pathlib import Path
from pipeline.cache import LocalCache
cache = LocalCache(Path(sys.argv[1]), 60_000)
for turn in range(30):
    for number in range(20):
        key, data = f"{number:064x}"[::-1], bytes([number]) * 5000
        assert cache.get(key) in (None, data)
        cache.put(key, data)
    cache.trim()
"""


def test_several_processes_use_it_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(4)]
    assert [(p.communicate()[1], p.returncode) for p in running] == [(b"", 0)] * 4
    assert not list(tmp_path.rglob("*.part"))
    assert sum(path.stat().st_size for path in tmp_path.glob("??/*")) < 60_000


def test_a_folder_that_cannot_be_used_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    cache = LocalCache(tmp_path / "file" / "cache", 1 << 20)
    for _ in range(2):
        cache.put(KEY, b"data")
        cache.trim()
        assert cache.get(KEY) is None
    assert len(caplog.records) == 1
    assert "going on without it" in caplog.text


def test_a_home_that_cannot_be_written_to_costs_one_line(again: Project, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    (again.layout.compiled("small", "desktop") / "record.json").unlink()
    (again.layout.compiled("small", "desktop") / "module.vmfb").unlink()
    result = again.doit("compile", HOME=str(tmp_path / "home"), XDG_CACHE_HOME="", PIPELINE_CACHE_DIR="")
    assert result.returncode == 0, result.stdout
    assert (result.stdout + result.stderr).count("going on without it") == 1


@pytest.mark.parametrize(("text", "size"), [("500M", 500 << 20), ("4 G", 4 << 30), ("12", 12), ("2GiB", 2 << 30)])
def test_sizes(text: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_CACHE_SIZE", text)
    assert caches.local().limit == size


def test_a_size_that_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPELINE_CACHE_SIZE", "much")
    with pytest.raises(PipelineError, match="'much' is no size"):
        caches.local()


def test_another_machine_takes_all_code_from_the_shared_cache(
    cold: tuple[Path, Cache],  # noqa: F811
    store: Store,
    tmp_path: Path,
) -> None:
    fill(cold[1], SharedCache(store, True, SEAL))
    here = Cache(LocalCache(tmp_path / "cache", 1 << 30), SharedCache(store, True, SEAL))
    counts = build(SMALL, tmp_path / "first", DESKTOP, here)
    assert (counts.local, counts.shared, counts.generated) == (0, 12, 0)
    assert (tmp_path / "first/module.vmfb").read_bytes() == cold[0].read_bytes()
    counts = build(SMALL, tmp_path / "second", DESKTOP, here)
    assert (counts.local, counts.shared, counts.generated) == (12, 0, 0)


def test_what_is_generated_here_is_there_for_others(cold: tuple[Path, Cache], store: Store, tmp_path: Path) -> None:  # noqa: F811
    first = Cache(LocalCache(tmp_path / "a", 1 << 30), SharedCache(store, True, SEAL))
    assert build(SMALL, tmp_path / "first", ["x86-64"], first).generated == 2
    second = Cache(LocalCache(tmp_path / "b", 1 << 30), SharedCache(store, True, SEAL))
    counts = build(SMALL, tmp_path / "second", DESKTOP, second)
    assert (counts.shared, counts.generated) == (2, 10)
    assert (tmp_path / "second/module.vmfb").read_bytes() == cold[0].read_bytes()


def test_damage_in_the_shared_cache_is_repaired(cold: tuple[Path, Cache], store: Store, tmp_path: Path) -> None:  # noqa: F811
    keys = fill(cold[1], SharedCache(store, True, SEAL))
    for number, name in enumerate(keys):
        entry = store.get(shared_key(name))
        assert entry
        damaged = entry.data[:-1] + b"?" if number % 2 else entry.data[:50]
        assert store.replace(shared_key(name), damaged, entry.tag)
    here = Cache(LocalCache(tmp_path / "cache", 1 << 30), SharedCache(store, True, SEAL))
    assert build(SMALL, tmp_path / "first", DESKTOP, here).generated == 12
    assert (tmp_path / "first/module.vmfb").read_bytes() == cold[0].read_bytes()
    other = Cache(LocalCache(tmp_path / "other", 1 << 30), SharedCache(store, False, SEAL))
    assert build(SMALL, tmp_path / "second", DESKTOP, other).shared == 12


def test_a_cache_to_read_only_is_not_written(store: Store, tmp_path: Path) -> None:
    here = Cache(LocalCache(tmp_path / "cache", 1 << 30), SharedCache(store, False, SEAL))
    build(SMALL, tmp_path, ["x86-64"], here)
    keys = [path.name for path in here.local.folder.glob("??/*")]
    assert keys
    assert not any(store.get(shared_key(name)) for name in keys)


def test_credentials_that_may_only_read_are_enough(
    cold: tuple[Path, Cache],  # noqa: F811
    seaweedfs: servers.Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    url = f"s3://{servers.BUCKET}/{tmp_path.name}"
    servers.use_aws(monkeypatch, seaweedfs.endpoint)
    keys = fill(cold[1], SharedCache(open_store(url), True, SEAL))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", servers.READER[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", servers.READER[1])
    reader = SharedCache(open_store(url), True, SEAL)
    assert len(reader.get_many(keys)) == len(keys)
    assert len(reader.put_many({key(n): b"new" for n in range(40)})) == 40
    assert len(reader.get_many(keys)) == len(keys)
    (said,) = (record.message for record in caplog.records if record.name == "pipeline.cache")
    assert "cannot be written" in said


@pytest.mark.parametrize("url", ["s3://no-such-bucket/cache", "s3://releases/cache"])
def test_a_shared_cache_that_is_not_there_costs_one_line(
    cold: tuple[Path, Cache],  # noqa: F811
    seaweedfs: servers.Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    builders_key: Path,
    url: str,
) -> None:
    nowhere = f"http://127.0.0.1:{servers.free_ports(1)[0]}"
    servers.use_aws(monkeypatch, seaweedfs.endpoint if "no-such" in url else nowhere)
    monkeypatch.setenv("PIPELINE_CACHE", url)
    monkeypatch.setenv("PIPELINE_CACHE_DIR", str(tmp_path / "cache"))
    assert build(SMALL, tmp_path, DESKTOP, caches.from_environment()).generated == 12
    assert (tmp_path / "module.vmfb").read_bytes() == cold[0].read_bytes()
    said = [record.message for record in caplog.records if record.name == "pipeline.cache"]
    assert len(said) == 1
    assert f"the cache {url} cannot be read" in said[0]
    assert "\n" not in said[0]


@pytest.mark.thorough
def test_an_audit_finds_what_is_whole_but_wrong_and_replaces_it(
    cold: tuple[Path, Cache],  # noqa: F811
    store: Store,
    tmp_path: Path,
) -> None:
    shared = SharedCache(store, True, SEAL)
    keys = fill(cold[1], shared)
    targets = [resolve(e) for e in executables(*DESKTOP)]
    here = Cache(LocalCache(tmp_path / "cache", 1 << 30), SharedCache(store, True, SEAL))
    found = audit(SMALL, tmp_path / "clean", targets, (), here, 100)
    assert (found.present, found.checked, found.wrong) == (12, 12, ())

    victim = next(name for name in keys if b'"format": "embedded-elf-x86_64"' in (cold[1].local.get(name) or b"")[:5000])
    right = cold[1].local.get(victim) or b""
    code = Code.decode(right)
    shared.condemn(victim)
    poison = Code(code.stub, code.format, code.mime_type, code.seconds, code.data[:-8] + b"poisoned")
    assert shared.put(victim, poison.encode())
    found = audit(SMALL, tmp_path / "poisoned", targets, (), here, 100)
    assert [(w.cache, w.target.startswith("x86-64")) for w in found.wrong] == [(store.url, True)]
    mended = SharedCache(store, False, SEAL).get(victim)
    assert mended
    assert Code.decode(mended).data == code.data


@pytest.mark.thorough
def test_doit_audit_tells_what_it_checked_and_what_is_wrong(again: Project) -> None:
    folder = again.root / "cache"
    result = again.doit("audit", "sample=3", PIPELINE_CACHE_DIR=str(folder))
    assert result.returncode == 0, result.stdout
    assert '"checked":0' in (again.layout.audited("small", "desktop") / "audit.json").read_text()
    (again.layout.compiled("small", "desktop") / "record.json").unlink()
    (again.layout.compiled("small", "desktop") / "module.vmfb").unlink()
    assert again.doit("compile", PIPELINE_CACHE_DIR=str(folder)).returncode == 0
    assert again.doit("audit", "sample=3", PIPELINE_CACHE_DIR=str(folder)).returncode == 0
    assert '"checked":3' in (again.layout.audited("small", "desktop") / "audit.json").read_text()
    local = LocalCache(folder, 1 << 30)
    for path in folder.glob("??/*"):
        data = local.get(path.name) or b""
        if b'"stub"' in data:
            local.put(path.name, data[:-4] + b"evil")
    result = again.doit("audit", "sample=3", PIPELINE_CACHE_DIR=str(folder))
    assert result.returncode in (1, 2)
    assert "is not what this compiler generates" in result.stdout
    assert "Traceback" not in result.stdout
    assert again.doit("audit", "sample=none").returncode == 3


def test_the_cache_does_not_need_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PIPELINE_CACHE_DIR")
    assert caches.local().folder == tmp_path / "vmfb-pipeline" / "pieces"
    assert caches.shared() is None


def test_stores_of_both_kinds_can_be_named(
    new_store: Callable[[], Store], monkeypatch: pytest.MonkeyPatch, builders_key: Path
) -> None:
    monkeypatch.setenv("PIPELINE_CACHE", new_store().url)
    monkeypatch.setenv("PIPELINE_CACHE_READ_ONLY", "1")
    shared = caches.shared()
    assert shared
    assert shared.get_many([key(1), key(2)]) == {}
    assert not shared.put(key(1), b"data")

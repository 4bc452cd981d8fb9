"""Releases in one file: it is a store that is read in place, whatever anybody has done to it."""

from __future__ import annotations

import io
import random
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes
from pipeline.layout import INDEX_KEY, bom_key
from pipeline.stages.publish import publish
from pipeline.store.base import DOCUMENT_LIMIT, Store
from pipeline.store.open import open_source, open_store
from pipeline.store.tar import TarSource
from tests import releases, web
from tests.publishing import MODEL, Package, assert_whole, pointed_at

Vmfb = Callable[..., int]


@pytest.fixture
def vmfb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vmfb:
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    return lambda *words: cli.main([str(word) for word in words])


@pytest.fixture
def source(tmp_path: Path, package: Package) -> Store:
    """A folder with two models, of which one has two releases."""
    store = open_store(str(tmp_path / "source"))
    for version, content in (("1.0", "one"), ("2.0", "two")):
        publish(package(content), store, version=version)
        store.create(bom_key(MODEL, version), b"what it is made of")
    releases.release(store, tmp_path / "noise")
    return store


@pytest.fixture
def bundle(source: Store, tmp_path: Path, vmfb: Vmfb) -> Path:
    path = tmp_path / "x.tar"
    assert vmfb("bundle", MODEL, "noise", "--store", source.url, "-o", path) == 0
    return path


def test_it_is_a_store(source: Store, bundle: Path, tmp_path: Path, vmfb: Vmfb, capsys: pytest.CaptureFixture[str]) -> None:
    """For all that reads one, and for tar; with what was asked for alone."""
    capsys.readouterr()
    assert vmfb("list", "--store", bundle) == 0
    assert f"{MODEL}" in (said := capsys.readouterr().out)
    assert "2.0" in said
    assert "1.0" not in said
    assert vmfb("fetch", "-q", "--full", "noise", "--store", bundle) == 0
    path = Path(capsys.readouterr().out.strip())
    assert vmfb("fetch", "-q", "--full", "noise", "--store", source.url) == 0
    assert path.read_bytes() == Path(capsys.readouterr().out.strip()).read_bytes()
    assert vmfb("copy", "--all", "--store", bundle, "--to", tmp_path / "there") == 0
    there = open_store(str(tmp_path / "there"))
    assert pointed_at(there) == "2.0"
    assert_whole(there, "2.0")
    subprocess.run(["tar", "xf", bundle, "-C", tmp_path / "cache"], check=True)
    unpacked = open_store(str(tmp_path / "cache"))
    for key in there.keys(""):
        if not key.startswith("prune/"):
            assert unpacked.get(key) == there.get(key), key


def test_the_same_releases_are_the_same_bytes(source: Store, bundle: Path, tmp_path: Path, vmfb: Vmfb) -> None:
    """From a server too, on another day, in another order."""
    other = tmp_path / "other.tar"
    assert vmfb("bundle", "noise", MODEL, "--store", source.url, "-o", other) == 0
    assert other.read_bytes() == bundle.read_bytes()
    with web.serve(tmp_path / "source") as server:
        assert vmfb("bundle", "noise", MODEL, "--store", server.url, "-o", other) == 0
    assert other.read_bytes() == bundle.read_bytes()


def test_any_archive_of_a_folder_store_will_do(source: Store, tmp_path: Path) -> None:
    subprocess.run(["tar", "cf", tmp_path / "by-tar.tar", "-C", source.url, "."], check=True)
    found = open_source(str(tmp_path / "by-tar.tar"))
    assert {key for key in found.listed("") or () if not key.startswith(".")} == set(source.keys(""))
    for key in source.keys("releases/"):
        assert found.get(key) == source.get(key)


def _archive(path: Path, *members: tuple[str, bytes] | tarfile.TarInfo, format_: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, "w", format=format_) as archive:
        for member in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member[0])
            data = b"" if isinstance(member, tarfile.TarInfo) else member[1]
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def _link(kind: bytes, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo("releases/link")
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "member",
    [
        _link(tarfile.SYMTYPE, "/etc/passwd"),
        _link(tarfile.LNKTYPE, "index.json"),
        _link(tarfile.FIFOTYPE, ""),
        _link(tarfile.CHRTYPE, ""),
        _link(tarfile.GNUTYPE_SPARSE, ""),
        ("/etc/passwd", b""),
        ("../index.json", b""),
        ("releases/../index.json", b""),
        ("releases//x", b""),
        ("releases\\x", b""),
        ("index.json", b"again"),
        ("./index.json", b"again"),
    ],
)
def test_what_no_store_has_is_refused(tmp_path: Path, member: tuple[str, bytes] | tarfile.TarInfo) -> None:
    path = _archive(tmp_path / "x.tar", ("index.json", b"{}"), member)
    with pytest.raises(PipelineError, match=r"its member .* (is no plain file|has no key's name|is there twice)"):
        TarSource(path)


def test_what_is_no_archive(tmp_path: Path, bundle: Path, vmfb: Vmfb, capsys: pytest.CaptureFixture[str]) -> None:
    for data in (b"", b"x" * 5000, b"\x1f\x8b" + b"x" * 600, b"PK\x03\x04" + bytes(600)):
        (tmp_path / "none.tar").write_bytes(data)
        assert vmfb("list", "--store", tmp_path / "none.tar") == 1
        assert "none.tar: is " in (said := capsys.readouterr().err)
        assert "→" in said
    assert vmfb("list", "--store", tmp_path / "missing.tar") == 1
    assert "there is no such file" in capsys.readouterr().err
    assert vmfb("copy", MODEL, "--store", bundle, "--to", tmp_path / "none.tar") == 1
    assert "error: " in capsys.readouterr().err


def test_cut_short_anywhere(bundle: Path, tmp_path: Path) -> None:
    """But in the zeros at its end, of which one block will do."""
    data = bundle.read_bytes()
    end = len(data.rstrip(b"\0"))
    random_ = random.Random(7)
    for cut in [0, 511, 512, 513, *(random_.randrange(end) for _ in range(40)), *(n * 512 for n in range(2, 60))]:
        (tmp_path / "cut.tar").write_bytes(data[:cut])
        with pytest.raises(PipelineError):
            TarSource(tmp_path / "cut.tar")


def test_damaged_anywhere(bundle: Path, tmp_path: Path) -> None:
    """It is refused, or what is read of it is what it says: no blob of other bytes is ever believed."""
    data = bundle.read_bytes()
    random_ = random.Random(8)
    refused = 0
    with tarfile.open(bundle) as archive:
        headers = [(m.offset, m.offset_data) for m in archive]
    for _ in range(300):
        start, end = random_.choice(headers)
        at = random_.randrange(start, end)
        damaged = bytearray(data)
        damaged[at] ^= random_.randrange(1, 256)
        (tmp_path / "bad.tar").write_bytes(damaged)
        try:
            found = TarSource(tmp_path / "bad.tar")
            found.get(INDEX_KEY)
            found.listed("")
        except PipelineError:
            refused += 1
    assert refused > 200


def test_headers_that_claim_anything(tmp_path: Path) -> None:
    """Neither memory nor the stack is theirs to take."""
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 8 << 30
    path = tmp_path / "x.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(PipelineError):
        TarSource(path)
    info.size = 0
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) * 20_000 + bytes(1024))
    with pytest.raises(PipelineError):
        TarSource(path)
    info = tarfile.TarInfo("index.json")
    info.size = DOCUMENT_LIMIT + 1
    with path.open("wb") as file:
        file.write(info.tobuf())
        file.truncate(512 + DOCUMENT_LIMIT + 512 + 1024)
    with pytest.raises(PipelineError, match="is larger than"):
        TarSource(path).get(INDEX_KEY)


def test_nothing_is_left_of_one_that_fails(source: Store, tmp_path: Path, vmfb: Vmfb, capsys: pytest.CaptureFixture[str]) -> None:
    blob = next(key for key in source.keys("blobs/") if source.get(key))
    (tmp_path / "source" / blob).write_bytes(b"damaged")
    (tmp_path / "out").mkdir()
    assert vmfb("bundle", "--all", "--store", source.url, "-o", tmp_path / "out" / "x.tar") == 1
    assert list((tmp_path / "out").iterdir()) == []
    for words, says in ((("-o", "x.zip"), "is no name of a bundle"), (("-o", tmp_path / "none" / "x.tar", MODEL), "which")):
        assert vmfb("bundle", "--all", "--store", source.url, *words) == 1
        assert says in capsys.readouterr().err


def test_large_members(tmp_path: Path) -> None:
    """Beyond what old headers can say."""
    from pipeline.consume.bundle import _layout

    members, size = _layout({"blobs/large": 9 << 30, "evidence/" + "x" * 300: 5, "index.json": 2})
    path = tmp_path / "x.tar"
    with path.open("wb") as file:
        for member in members:
            file.seek(member.offset - len(member.header))
            file.write(member.header)
        file.seek(members[-1].offset)
        file.write(b"{}")
        file.truncate(size)
    found = TarSource(path)
    assert found.listed("") == ["blobs/large", "evidence/" + "x" * 300, "index.json"]
    index = found.get("index.json")
    assert index and (index.data, index.tag) == (b"{}", sha256_bytes(b"{}"))
    with found.open("blobs/large", (9 << 30) - 1, 100) as body:
        assert body.readinto(memoryview(bytearray(100))) == 1

"""What others made: manifests of hostile stores, and files that are nearly vmfbs. An error or the truth, never anything else."""

from __future__ import annotations

import copy
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.consume import explain, facts, fetch, inspect, render
from pipeline.consume.api import Quiet
from pipeline.consume.cache import Cache
from pipeline.consume.evidence import Testimony
from pipeline.consume.reference import parse
from pipeline.consume.resolve import Remote, Resolver
from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes, write
from pipeline.iree import compiler
from pipeline.iree.targets import resolve
from pipeline.iree.toolchain import iree_compile
from pipeline.layout import channel_key, release_key
from pipeline.manifest.codec import decode, encode
from pipeline.manifest.types import Manifest
from pipeline.spec.load import load
from pipeline.store.open import open_store
from tests import releases
from tests.project import DATA, ROOT

# Whatever JSON can say, with what hurts path names, sizes and offsets more often than by chance.
ATOMS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, -1, 65535, 65536, 65537, 2**31, 2**63, 2**64, 10**30]),
    st.floats(allow_nan=True),
    st.text(max_size=8),
    st.sampled_from(["../../x", "/etc/passwd", "..", ".", "", "a/b", "\0", "x" * 300, "CON", "%2e%2e", "0" * 64, "code", "cpu"]),
)
VALUES = st.recursive(ATOMS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], bytes]:
    """A store with a release of 4 segments, its manifest as JSON, and the bytes of its file."""
    folder = tmp_path_factory.mktemp("honest")
    manifest, data = releases.release(open_store(str(folder / "store")), folder / "package", 1 << 18, 1 << 16)
    return folder / "store", json.loads(encode(manifest)) | {"version": "1"}, data  # a derived one would give away every change


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_hostile_manifest_is_refused_or_does_no_harm(honest: tuple[Path, dict[str, Any], bytes], data: st.DataObject) -> None:
    store, document, _content = honest
    changed: Any = copy.deepcopy(document)
    for _ in range(data.draw(st.integers(1, 3))):
        paths = [p for p in places(changed) if p]
        *parents, last = data.draw(st.sampled_from(paths))
        place = changed
        for key in parents:
            place = place[key]
        action = data.draw(st.sampled_from(["replace", "remove", "duplicate"]))
        if action == "replace":
            place[last] = data.draw(VALUES)
        elif action == "remove":
            del place[last]
        elif isinstance(place, list):
            place.insert(0, place[last])
    text = json.dumps(changed).encode()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "store").mkdir()
        (folder / "store" / "blobs").symlink_to(store / "blobs")
        write(folder / "store" / release_key("noise", document["version"]), text)
        remote, cache = Remote(str(folder / "store")), Cache(folder / "cache")
        (folder / "out").mkdir()
        try:
            manifest = Resolver(remote, cache).manifest(parse(f"noise@{document['version']}"))
            artifact = fetch.pick(manifest)
            _fetched, path = fetch.deliver(remote, cache, artifact, None, folder / "out", Quiet())
        except PipelineError:
            return
        finally:
            written = {p.relative_to(folder).parts[0] for p in folder.rglob("*")}
            assert written <= {"store", "cache", "out"}
        # Accepted: then the segments cover the file, and every one had its digest.
        assert path.parent == folder / "out"
        found = path.read_bytes()
        assert len(found) == artifact.blob.size
        assert all(sha256_bytes(found[s.offset : s.offset + s.length]) == s.sha256 for s in artifact.segments)
        assert render.manifest_lines(manifest, Testimony(()))


@given(data=st.binary(max_size=200) | st.text(max_size=100).map(str.encode) | VALUES.map(lambda v: json.dumps(v).encode()))
@settings(max_examples=150, deadline=None)
def test_documents_that_are_none_are_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for key in (channel_key("noise", "latest"), release_key("noise", "1"), "index.json"):
            write(folder / "store" / key, data)
        for ask in ("noise", "noise@1"):
            with pytest.raises(PipelineError):
                Resolver(Remote(str(folder / "store")), Cache(folder / "cache")).manifest(parse(ask))
        with pytest.raises(PipelineError):
            Resolver(Remote(str(folder / "store")), Cache(folder / "cache")).index()


def test_a_manifest_of_a_newer_schema_says_what_to_do(honest: tuple[Path, dict[str, Any], bytes]) -> None:
    with pytest.raises(PipelineError, match="has schema version 6, this program reads version 5") as caught:
        decode(Manifest, json.dumps(honest[1] | {"schema": 6, "new": []}).encode(), "here")
    assert "upgrade vmfb-pipeline" in str(caught.value)


# Files


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return vmfbs(tmp_path_factory.mktemp("files"))


def vmfbs(folder: Path) -> list[bytes]:
    """A fat file, a thin one of plain iree-compile, one that is no ZIP."""
    spec = load(ROOT / "targets")
    targets = [spec.executables[name] for name in spec.bundles["desktop"].targets]
    compiler.compile_module(DATA / "small.mlir", folder, [resolve(t) for t in targets], {t.name: t.gates for t in targets})
    flags = ["--iree-hal-target-device=vulkan", "--iree-vulkan-target=gfx1101"]
    iree_compile(DATA / "small.mlir", folder / "thin.vmfb", flags, folder / "log")
    iree_compile(DATA / "small.mlir", folder / "plain.vmfb", [*flags, "--iree-vm-emit-polyglot-zip=false"], folder / "log")
    return [(folder / f"{name}.vmfb").read_bytes() for name in ("module", "thin", "plain")]


def mutate(data: bytes, chance: random.Random) -> bytes:
    """A few changes, most of them in the head, where offsets and sizes are."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        reach = len(changed) if chance.random() < 0.3 else min(len(changed), 16384)
        at = chance.randrange(max(reach, 1))
        kind = chance.randrange(5)
        if kind == 0 and changed:
            changed[at % len(changed)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            changed[at : at + 4] = chance.choice(
                [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\1\0\0\0", b"\0\0\0\x80"]
            )
        elif kind == 2:
            del changed[at : at + chance.randrange(1, 64)]
        elif kind == 3:
            changed[at:at] = chance.randbytes(chance.randrange(1, 64))
        else:
            del changed[chance.randrange(len(changed) + 1) :]
    return bytes(changed)


def look(path: Path) -> bool:
    """Everything that `vmfb inspect` and `explain` do with a file; whether it was taken for a vmfb."""
    try:
        contents = inspect.inspect(path)
        assert render.contents_lines(contents)
        assert json.loads(render.contents_json(contents))
        for machine in ("rtx-3060", "avx512-server"):
            for answer in explain.explain_file(contents, facts.of_machine(machine)):
                assert render.answer_lines(answer, {v.name: v.format for v in contents.variants}, {}, {}, "vmfb fetch x")
    except PipelineError as error:
        assert str(path) in str(error)
        return False
    return True


CHILD = """if True:
    import random, resource, signal, sys
    from pathlib import Path
    from tests import test_hostile
    base, path, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    data, chance = base.read_bytes(), random.Random(seed)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    taken = 0
    for round_ in range(400):
        path.write_bytes(test_hostile.mutate(data, chance))
        signal.alarm(5)
        taken += test_hostile.look(path)
        signal.alarm(0)
    print(taken)
"""


@pytest.mark.parametrize("which", [0, 1, 2])
def test_damaged_files_never_crash_hang_or_fill_memory(files: list[bytes], which: int, tmp_path: Path) -> None:
    """In a process with 1 GiB of address space, 5 s for each file."""
    (tmp_path / "base").write_bytes(files[which])
    command = [sys.executable, "-c", CHILD, str(tmp_path / "base"), str(tmp_path / "x.vmfb"), str(which)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 0 < int(done.stdout) < 400


@given(data=st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_noise_is_no_vmfb(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "x.vmfb"
        path.write_bytes(data)
        assert not look(path)

"""A release of several entry points, with an open dimension, buckets and weights of their own: shown, fetched, run, loaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import cli, exits
from pipeline.consume import entries, facts, load, weights
from pipeline.consume.cache import Cache
from pipeline.consume.inspect import inspect
from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes, write
from pipeline.iree.file import description
from pipeline.layout import channel_key, release_key
from pipeline.manifest import types as m
from pipeline.manifest.codec import decode, decode_identity, encode
from tests import talk
from tests.project import ROOT

Vmfb = Callable[..., str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the release `talk`, whose package is in the folder above it."""
    return talk.make(tmp_path_factory.mktemp("talk"))


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is known of this machine's devices: to ask them takes a second."""
    cache = Cache(tmp_path_factory.mktemp("known"))
    facts.of_this_machine(cache, print)
    return cache.root / "devices.json"


@pytest.fixture(autouse=True)
def places(made: Path, known: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A cache of its own for each test."""
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIPELINE_STORE", str(made))
    write(tmp_path / "cache" / "devices.json", known.read_bytes())


@pytest.fixture
def vmfb(capsys: pytest.CaptureFixture[str]) -> Vmfb:
    """The command: what it prints, or with `code` what it complains of."""

    def run(*words: str | Path, code: int = 0, said: bool = False) -> str:
        capsys.readouterr()
        assert cli.main([str(w) for w in words]) == code, capsys.readouterr().err
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return captured.err if code or said else captured.out

    return run


@pytest.fixture
def file(vmfb: Vmfb, tmp_path: Path) -> Path:
    """A file of the release with its weights beside it."""
    return Path(vmfb("fetch", "talk", "-q", "--full", "-o", tmp_path / "here" / "talk.vmfb").strip())


def manifest(store: Path, version: str = "") -> m.Manifest:
    version = version or json.loads((store / channel_key("talk", "latest")).read_bytes())["version"]
    return decode(m.Manifest, (store / release_key("talk", version)).read_bytes(), "store")


def words(function: str, folder: Path, arrays: list[np.ndarray[Any, Any]]) -> list[str | Path]:
    """The arguments that run a function on arrays."""
    found: list[str | Path] = ["--function", function]
    for number, array in enumerate(arrays):
        np.save(folder / f"{number}.npy", array)
        found += ["--input", folder / f"{number}.npy"]
    return found


# What is said


def test_a_release_shows_each_entry_point_with_its_evidence(vmfb: Vmfb) -> None:
    text = vmfb("inspect", "talk")
    assert "    takes   x: 1xTx8 float32, mask: 1xT float32 (T: 2 to 64, a multiple of 2)\n" in text
    assert "  main, 2 buckets (functions main_4, main_16)\n" in text
    assert "    takes   x: Sx8 float32 (S: 4, 16)\n" in text
    assert "    takes   token: scalar int32, state: 8 float32, read: 1 uint8\n" in text
    assert "weights in a file of their own" in text
    assert "step: untested: not run, for other functions took all the time that there was: step; " in text  # the weakest first
    assert "; verified on a CPU, max error 1.0e-06\n" in text
    explained = vmfb("explain", "talk", "--pretend", "skylake")
    assert "step: untested" in explained
    assert "\nmain: takes x: Sx8 float32 (S: 4, 16); gives y: Sx8 float32 (S: 4, 16)\n" in explained


def test_a_file_says_which_model_it_is(file: Path, vmfb: Vmfb, made: Path) -> None:
    text = vmfb("inspect", file)
    assert "  says that it is talk, made by iree-base-compiler" in text
    assert "      takes   x: 1xTx8 float32, mask: 1xT float32 (T: 2 to 64, a multiple of 2)\n" in text
    assert f"of the source with sha256 {manifest(made).entries[0].source.sha256[:16]}…" in text
    said = json.loads(vmfb("inspect", file, "--json"))["identity"]
    assert [e["function"] for e in said["entries"]] == ["encode", "main_4", "main_16", "step"]
    assert said["parameters"][0]["sha256"] == manifest(made).parameters[0].blob.sha256


# Which function


@pytest.mark.parametrize(
    ("function", "given", "complaint"),
    [
        ("", [], "has 3 entry points"),
        ("encod", [], "has no entry point 'encod': did you mean 'encode'?"),
        ("encode", [], "takes 2 inputs, not 0"),
        ("encode", ["1x6x8xf32=1", "1x8xf32=1"], "T is 6 in the input x, but 8 in the input mask"),
        ("encode", ["1x66x8xf32=1", "1x66xf32=1"], "T is 66 in the input x, but it goes from 2 to 64"),
        ("encode", ["1x0x8xf32=1", "1x0xf32=1"], "T is 0 in the input x, but it goes from 2 to 64"),
        ("encode", ["1x7x8xf32=1", "1x7xf32=1"], "T is 7 in the input x, but it must be a multiple of 2"),
        ("encode", ["1x6x9xf32=1", "1x6xf32=1"], "is 1x6x9 float32, but the model takes x: 1xTx8 float32"),
        ("main", ["5x8xf32=1"], "S is 5: pad it to 16, the smallest bucket that fits; buckets: 4, 16"),
        ("main", ["17x8xf32=1"], "S is 17, the largest bucket is 16; buckets: 4, 16"),
        ("main", ["5x9xf32=1"], "is 5x9 float32, but the model takes x: Sx8 float32"),
        ("main", ["4x8xf64=1"], "is 4x8 float64, but the model takes"),
        ("main", ["5x8xf32=1", "5x8xf32=1"], "takes 1 input, not 2"),
        ("main_4", ["16x8xf32=1"], "S is 16 in the input x, but it is 4 here"),
    ],
)
def test_what_does_not_fit_is_told_of_a_release_and_of_a_file(
    function: str, given: list[str], complaint: str, vmfb: Vmfb, file: Path
) -> None:
    arguments = ["--function", function, *(word for text in given for word in ("--input", text))]
    for what in ("talk", file):
        assert complaint in vmfb("run", what, *arguments, code=1)


@pytest.mark.parametrize("what", ["release", "file"])
@pytest.mark.parametrize(
    ("asked", "function", "length"),
    [("encode", "encode", 2), ("encode", "encode", 64), ("main", "main_4", 0), ("main", "main_16", 0), ("main_4", "main_4", 0)],
)
def test_arrays_choose_the_function(
    what: str, asked: str, function: str, length: int, vmfb: Vmfb, file: Path, tmp_path: Path
) -> None:
    arrays = talk.given(function, length=length)
    subject = file if what == "file" else "talk"
    text = vmfb("run", subject, *words(asked, tmp_path, arrays), "--output", tmp_path / "out")
    assert text == f"{tmp_path}/out/y.npy\n"
    np.testing.assert_allclose(np.load(tmp_path / "out" / "y.npy"), talk.expected(function, *arrays)[0], atol=1e-5)


def test_outputs_have_the_sign_that_the_signature_says(vmfb: Vmfb, file: Path, tmp_path: Path) -> None:
    for what in ("talk", file):
        assert "read: 1 uint8\n  [251]" in vmfb("run", what, *words("step", tmp_path, talk.given("step")))


def test_buckets_by_more_than_one_input_and_other_dimensions_are_found() -> None:
    def one(size: int) -> m.EntryInfo:
        inputs = (m.TensorInfo("x", "float32", ("S", "N")), m.TensorInfo("y", "float32", ("S",)))
        ranges = (m.DimensionInfo("N", 1, 8, 1), m.DimensionInfo("S", size, size, 1))
        source, reference = m.Source("", "", "", ()), m.Reference("", ())
        return m.EntryInfo("f", f"f_{size}", source, (), inputs, (), ranges, reference)

    group = [one(4), one(8)]
    assert entries.fitting(group, [np.zeros((8, 3), np.float32), np.zeros(8, np.float32)]).function == "f_8"
    for shapes, complaint in (
        (((5, 3), (5,)), "S is 5: pad it to 8"),
        (((4, 3), (8,)), "S is 4 in the input x, but 8 in the input y"),
        (((5, 9), (5,)), "N is 9 in the input x, but it goes from 1 to 8"),
        (((9, 1), (9,)), "S is 9, the largest bucket is 8"),
    ):
        with pytest.raises(PipelineError, match=complaint):
            entries.fitting(group, [np.zeros(shape, np.float32) for shape in shapes])


def test_a_consumer_of_all_this_needs_nothing_that_windows_lacks(tmp_path: Path) -> None:
    def run(*words: str) -> str:
        command = [sys.executable, "-X", "warn_default_encoding", "-m", "tests.elsewhere", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    path = run("fetch", "talk", "--device", "local", "-o", f"{tmp_path}/here/").strip()
    given = ["--function", "main", "--input", "4x8xf32=1", "--device", "local"]
    assert run("run", path, *given) == run("run", "talk", *given)
    assert "says that it is talk" in run("inspect", path)
    assert "loaded here" in run("explain", path, "--device", "local")
    assert "talk-cpus.irpa" not in run("cache", "verify")
    assert ".irpa: 73.7 kB right" in run("cache", "verify")
    assert "removed " in run("cache", "prune", "--max-size", "0")


# Checking


@pytest.mark.parametrize("bundle", talk.BUNDLES)
def test_every_entry_point_is_checked(vmfb: Vmfb, bundle: str) -> None:
    device = "vulkan" if bundle == "desktop" else "local"
    lines = vmfb("run", "talk", "--check", "--bundle", bundle, "--device", device).splitlines()
    assert [line.split(":")[0] for line in lines] == ["encode", "main_4", "main_16", "step"]
    assert all(": right, max error" in line for line in lines)
    assert len(vmfb("run", "talk", "--check", "--function", "main", "--device", device, "--bundle", bundle).splitlines()) == 2


def test_an_entry_point_that_is_wrong_is_found(vmfb: Vmfb, made: Path, tmp_path: Path) -> None:
    store = Path(shutil.copytree(made, tmp_path / "store"))
    talk.add_wrong(store, manifest(made))
    text = vmfb("run", "talk@wrong", "--check", "--store", store, code=exits.WRONG)
    assert "step: " in text
    assert "its outputs are not those of the reference" in text
    assert ": right" in vmfb("run", "talk@wrong", "--check", "--function", "encode", "--store", store)


def test_every_entry_point_is_measured(vmfb: Vmfb) -> None:
    lines = vmfb("run", "talk", "--benchmark", "--device", "local").splitlines()
    assert lines[::4] == ["encode", "main_4", "main_16", "step"]
    assert all(line.count(" ms") == 2 for line in (*lines[2::4], *lines[3::4]))


# Weights


def test_the_weights_come_with_the_file_and_plain_tools_take_both(vmfb: Vmfb, tmp_path: Path, made: Path) -> None:
    said = vmfb("fetch", "talk", "--device", "local", said=True)
    archive = Path(vmfb("fetch", "-q", "--parameters", "talk").strip())
    assert str(archive) in said
    assert "fetched 73.7 kB" in said
    assert sha256_bytes(archive.read_bytes()) == manifest(made).parameters[0].blob.sha256
    module = vmfb("fetch", "-q", "talk", "--device", "local").strip()
    given, command = talk.given("main_4")[0], [sys.executable, "-m", "iree._runtime.scripts.iree_run_module"]
    np.save(tmp_path / "x.npy", given)
    command += [f"--module={module}", f"--parameters=model={archive}", "--device=local-task", "--function=main_4"]
    command += [f"--input=@{tmp_path}/x.npy", f"--output=@{tmp_path}/y.npy"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), given @ talk.TABLE, atol=1e-5)


def test_bundles_and_versions_share_their_weights(vmfb: Vmfb, made: Path) -> None:
    paths = {vmfb("fetch", "-q", "--parameters", "talk", "--bundle", bundle) for bundle in talk.BUNDLES}
    real = manifest(made)
    write(made / release_key("talk", "other"), encode(replace(real, version="other")))
    assert paths == {vmfb("fetch", "-q", "--parameters", "talk@other")}
    assert "nothing to fetch" in vmfb("fetch", "talk@other", "--parameters", said=True)
    assert vmfb("cache", "list").count(".irpa") == 1


@pytest.mark.parametrize(
    ("output", "names"),
    [
        ("new/", {"talk-cpus.vmfb", "talk-cpus.irpa"}),
        ("there", {"talk-cpus.vmfb", "talk-cpus.irpa"}),
        ("there/my.vmfb", {"my.vmfb", "my.irpa"}),
        ("there/my.v1", {"my.v1", "my.v1.irpa"}),
    ],
)
def test_a_copy_has_its_weights_beside_it(output: str, names: set[str], vmfb: Vmfb, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    path = Path(vmfb("fetch", "talk", "-q", "-o", f"{tmp_path}/{output}").strip())
    assert {p.name for p in path.parent.iterdir()} == names
    assert "main_4" in vmfb("inspect", path)
    assert "y: 4x8" in vmfb("run", path, "--function", "main", "--input", "4x8xf32=1", "--device", "local")
    assert "loaded here, the module itself says" in vmfb("explain", path, "--device", "local")
    only = Path(vmfb("fetch", "talk", "-q", "--parameters", "-o", f"{tmp_path}/alone/").strip())
    assert only == tmp_path / "alone" / "talk-cpus.irpa"


def _cut(data: bytes) -> bytes:
    return data[:-100]


def _damaged(data: bytes) -> bytes:
    return data[:-1000] + bytes(b ^ 255 for b in data[-1000:])


def _other(data: bytes) -> bytes:
    return data.replace(b"table", b"chair")


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (_cut, "has 73628 bytes, the weights of talk.vmfb have 73728"),
        (_damaged, "has the SHA-256"),
        (_other, "has the SHA-256"),
        (lambda _: b"", "has 0 bytes"),
        (lambda data: b"x" * len(data), "has the SHA-256"),
    ],
)
def test_weights_that_are_not_the_files_own_are_told(
    harm: Callable[[bytes], bytes], complaint: str, vmfb: Vmfb, file: Path, tmp_path: Path
) -> None:
    given = ["--function", "main", "--input", "4x8xf32=1"]
    bad = tmp_path / "bad.irpa"
    bad.write_bytes(harm(weights.beside(file).read_bytes()))
    for command in (["run", file, *given], ["explain", file], ["inspect", file]):
        text = vmfb(*command, "--parameters", bad, code=1)
        assert complaint in text
        assert str(bad) in text
    assert "No such file" in vmfb("run", file, *given, "--parameters", tmp_path / "gone.irpa", code=1)
    assert "is no regular file" in vmfb("run", file, *given, "--parameters", tmp_path, code=1)


def test_large_weights_are_known_by_size_and_read_when_asked(vmfb: Vmfb, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "READ", 100)
    archive = weights.beside(file)
    archive.write_bytes(_damaged(archive.read_bytes()))
    vmfb("run", file, "--function", "main", "--input", "4x8xf32=1")
    assert "has the SHA-256" in vmfb("inspect", file, "--parameters", archive, code=1)
    archive.write_bytes(_other(archive.read_bytes()))  # the runtime's own word
    text = vmfb("run", file, "--function", "main", "--input", "4x8xf32=1", code=1)
    assert "does not hold the weights that talk.vmfb asks for: NOT_FOUND; no parameter found in index with key 'table'" in text
    assert "does not hold the weights" in vmfb("explain", file, code=1)
    archive.write_bytes(b"x" * archive.stat().st_size)
    assert "is no archive of weights" in vmfb("run", file, "--function", "main", "--input", "4x8xf32=1", code=1)


def test_a_file_without_its_weights_says_which_it_needs(vmfb: Vmfb, file: Path, made: Path, tmp_path: Path) -> None:
    archive = weights.beside(file).rename(tmp_path / "elsewhere.irpa")
    given = ["--function", "main", "--input", "4x8xf32=1"]
    text = vmfb("run", file, *given, code=1)
    assert f"needs its weights, 73728 bytes in a file of their own (SHA-256 {manifest(made).parameters[0].blob.sha256})" in text
    assert "--parameters FILE.irpa" in text
    weights.beside(file).write_bytes(b"other")
    assert "has another size" in vmfb("run", file, *given, code=1)
    assert "y: 4x8" in vmfb("run", file, *given, "--parameters", archive)
    explained = vmfb("explain", file)
    assert "not loaded: " in explained
    assert "loaded here" not in explained
    assert "loaded here" in vmfb("explain", file, "--parameters", archive, "--device", "local")
    assert "says that it is talk" in vmfb("inspect", file)


def test_weights_are_for_files_that_need_some(vmfb: Vmfb, file: Path) -> None:
    assert "the weights of a release are fetched with it" in vmfb("run", "talk", "--parameters", file, "--check", code=1)
    whole = ROOT / "pipeline/iree/devices/facts.vmfb"
    assert "holds all its weights" in vmfb("inspect", whole, "--parameters", file, code=1)


def test_a_release_is_explained_before_its_weights_are_here(vmfb: Vmfb) -> None:
    before = vmfb("explain", "talk", "--device", "local")
    assert "! not loaded: its weights are not here, 73.7 kB: `vmfb fetch talk` brings them" in before
    assert "loaded here" not in before
    vmfb("fetch", "talk", "--device", "local")
    assert "✓ loaded here" in vmfb("explain", "talk", "--device", "local")


def test_the_cache_checks_weights_and_fetches_again_what_is_damaged(vmfb: Vmfb) -> None:
    archive = Path(vmfb("fetch", "-q", "--parameters", "talk").strip())
    times = archive.stat()
    with archive.open("r+b") as stream:
        stream.seek(50_000)
        stream.write(b"damage")
    os.utime(archive, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "1 stretches were damaged" in vmfb("cache", "verify", code=exits.WRONG)
    assert "fetched 73.7 kB" in vmfb("fetch", "talk", said=True)
    assert "damaged" not in vmfb("cache", "verify")
    assert "removed " in vmfb("cache", "prune", "--max-size", "0")
    assert not archive.exists()


# In a program


@pytest.mark.parametrize(("bundle", "device"), [("cpus", "local"), ("desktop", "vulkan")])
def test_a_program_calls_entry_points_and_keeps_states_on_the_device(bundle: str, device: str) -> None:
    model = load("talk", bundle=bundle, device=device)
    assert list(model) == ["encode", "main", "step"]
    for function in ("encode", "main_4", "main_16"):
        given = talk.given(function)
        (found,) = model[function.partition("_")[0]](*given)
        np.testing.assert_allclose(found, talk.expected(function, *given)[0], atol=1e-5)
    step = model["step"]
    token, state, read = talk.given("step")
    wanted = [state, read]
    on_device: Any = [state, read]
    for _ in range(12):
        logits, *wanted = talk.expected("step", token, *wanted)
        said, *on_device = step.on_device(token, *on_device)
        np.testing.assert_allclose(np.asarray(said), logits, atol=1e-5)
        token = logits.argmax().astype(np.int32)
    assert [(t.shape, t.dtype) for t in on_device] == [((8,), np.float32), ((1,), np.uint8)]
    assert np.asarray(on_device[1]).tolist() == wanted[1].tolist() == [(250 + 12) % 256]
    np.testing.assert_allclose(on_device[0], wanted[0], atol=1e-5)
    with pytest.raises(PipelineError, match="the input state is 1 uint8, but the model takes"):
        step(token, on_device[1], on_device[1])


def test_results_of_one_device_go_to_another() -> None:
    gpu, cpu = load("talk", bundle="desktop", device="vulkan"), load("talk", device="local")
    token, state, read = talk.given("step")
    _, *there = gpu["step"].on_device(token, state, read)
    _, found, count = cpu["step"](token, *there)
    wanted = talk.expected("step", token, *talk.expected("step", token, state, read)[1:])
    np.testing.assert_allclose(found, wanted[1], atol=1e-5)
    assert count.tolist() == wanted[2].tolist()


def test_two_models_on_a_device_take_each_others_results() -> None:
    first, second = load("talk", device="local"), load("talk", device="local")
    (y,) = first["main"].on_device(talk.given("main_4")[0])
    assert y.on(second["main"]._session) is y._view
    np.testing.assert_allclose(second["main"](y)[0], np.asarray(y) @ talk.TABLE, atol=1e-5)


def test_a_program_is_told_which_bucket_and_what_is_missing() -> None:
    model = load("talk", device="local")
    assert [model["main"].bucket(S=n) for n in (0, 1, 4, 5, 16)] == [4, 4, 4, 16, 16]
    assert [model["encode"].bucket(T=n) for n in (1, 2, 3, 63)] == [2, 2, 4, 64]
    for call, complaint in (
        (lambda: model["main"].bucket(S=17), "S is 17, the largest bucket is 16; buckets: 4, 16"),
        (lambda: model["encode"].bucket(T=65), "T is 65, the largest size is 64"),
        (lambda: model["encode"].bucket(U=1), "there is no dimension 'U'"),
        (lambda: model["encod"], "did you mean 'encode'"),
        (lambda: model(1), "has 3 entry points\n.*one of: encode, main, step"),
        (lambda: model["main"](np.zeros((5, 8), np.float32)), "pad it to 16"),
    ):
        with pytest.raises(PipelineError, match=complaint):
            call()  # type: ignore[no-untyped-call]
    with pytest.raises(TypeError, match="takes one dimension"):
        model["main"].bucket()


# What a file says of itself


def test_the_file_of_another_release_is_refused(vmfb: Vmfb, made: Path, tmp_path: Path) -> None:
    store, real = tmp_path / "store", manifest(made)
    shutil.copytree(made, store)
    source = replace(real.entries[0].source, sha256="0" * 64)
    others = {
        "name": (
            replace(real, model=replace(real.model, name="walk")),
            "is the file of another model: it says that it is 'talk'",
        ),
        "source": (replace(real, entries=(replace(real.entries[0], source=source), *real.entries[1:])), "of another model"),
        "weights": (replace(real, parameters=()), "needs other weights than its manifest names"),
    }
    for version, (wrong, complaint) in others.items():
        name = wrong.model.name
        write(store / release_key(name, version), encode(replace(wrong, version=version)))
        vmfb("fetch", f"{name}@{version}", "--store", store)
        for command in (["run", "--check"], ["explain"]):
            assert complaint in vmfb(command[0], f"{name}@{version}", *command[1:], "--store", store, code=1)
        with pytest.raises(PipelineError, match=complaint):
            load(f"{name}@{version}", store=str(store))


IDENTITY: dict[str, Any] = {
    "model": "talk",
    "compiler": {"package": "p", "version": "1", "commit": "c"},
    "flags": [],
    "entries": [
        {
            "name": "encode",
            "function": "encode",
            "sha256": "0" * 64,
            "files": [],
            "inputs": [{"name": "x", "dtype": "float32", "shape": [1, "T", 8]}],
            "outputs": [],
            "dimensions": [{"name": "T", "min": 1, "max": 8, "multiple": 1}],
        }
    ],
    "parameters": [],
}


def _with(path: str, value: object) -> str:
    """The identity with another value at a path like `entries.0.name`."""
    copy = json.loads(json.dumps(IDENTITY))
    *parents, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    place = copy
    for parent in parents:
        place = place[parent]
    place[last] = value
    return json.dumps(copy)


HOSTILE = [
    "{",
    "[]",
    "3",
    "[" * 100_000,
    '{"model": 1e999}',
    _with("model", None),
    _with("entries.0.inputs.0.shape", [True]),
    _with("entries.0.inputs.0.shape", [-1]),
    _with("entries.0.inputs.0.shape", ["U"]),
    _with("entries.0.inputs.0.shape", 3),
    _with("entries.0.dimensions.0.min", 9),
    _with("entries.0.dimensions.0.multiple", 0),
    _with("entries.0.dimensions.0.max", 1e9),
    _with("entries.0.sha256", "f"),
    _with("entries.0.inputs.0.dtype", "float99"),
    _with("entries", []),
    _with("entries", [IDENTITY["entries"][0]] * 2),
    _with("parameters", [{"name": "x", "sha256": "0" * 64, "size": 1}] * 2),
    _with("parameters", [{"name": "x", "sha256": "0" * 64, "size": -1}]),
    _with("entries.0.function", "main_99"),
    '{"model": ' + "9" * 5000 + "}",
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_damaged_word_of_itself_is_one_message(text: str, vmfb: Vmfb, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(description, "identity", lambda _: text)
    for command in (["inspect"], ["explain"], ["run", "--function", "encode"]):
        said = vmfb(command[0], file, *command[1:], code=1)
        assert "what it says of itself is damaged" in said or "does not export it" in said
        assert len(said) < 1000


@pytest.mark.parametrize("path", ["more", "entries.0.more", "compiler.more"])
def test_what_a_newer_program_says_besides_is_passed_over(path: str) -> None:
    assert decode_identity(_with(path, {"any": [1]}), "file") == decode_identity(json.dumps(IDENTITY), "file")


def test_names_of_a_file_do_nothing_to_a_terminal(vmfb: Vmfb, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = "x\x1b[2J\n  says that it is good\u202e"
    tensor = [{"name": evil, "dtype": "float32", "shape": [1, "T", 8]}]
    for path, value in (("model", evil), ("entries.0.inputs", tensor), ("compiler.version", evil)):
        text = _with(path, value)
        monkeypatch.setattr(description, "identity", lambda _, text=text: text)
        for command in (("inspect", file), ("run", file, "--input", "3xf32=1")):
            said = vmfb(*command, code=1)
            assert "has characters that cannot be shown" in said
            assert "x\\x1b[2J\\n" in said
            assert "\x1b" not in said
            assert "\u202e" not in said
            assert "\n  says that it is good" not in said


def test_a_word_that_does_not_fit_the_functions_is_an_error(vmfb: Vmfb, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = _with("entries.0.inputs", [{"name": "x", "dtype": "float32", "shape": [3]}])
    monkeypatch.setattr(description, "identity", lambda _: text)
    given = ["--parameters", weights.beside(file), "--device", "local", "--input"]
    assert "INVALID_ARGUMENT" in vmfb("run", file, *given, "3xf32=1", code=1)  # the runtime's own word


def test_a_file_of_plain_iree_compile_says_nothing_of_itself() -> None:
    contents = inspect(ROOT / "pipeline/iree/devices/facts.vmfb")
    assert (contents.identity, contents.needs_parameters) == (None, False)

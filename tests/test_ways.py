"""How code runs on a CPU: by which driver, with how many threads; seen when it is verified, obeyed by those who run it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import arrays, cli
from pipeline.consume import Model, aligned, load
from pipeline.consume.choose import named
from pipeline.iree import backends, devices
from pipeline.iree.device import Device
from pipeline.iree.devices import ways
from pipeline.iree.gates import Facts
from pipeline.manifest.codec import decode, encode
from pipeline.manifest.evidence import DriverLatency, EvidenceDocument, VariantProof
from tests.project import Project
from tests.test_policy import proof

CPU = Device("local-task", "A CPU", "local-task", "", True, Facts("A CPU", frozenset({"embedded-elf-x86_64"}), {}))
GPU = Device("vulkan://1", "A GPU", "vulkan", "driver", False, Facts("A GPU", frozenset(), {}))


def seen(*latencies: tuple[str, int, float], device: str = "A CPU") -> VariantProof:
    drivers = tuple(DriverLatency(driver, threads, s, 0.0, 100) for driver, threads, s in latencies)
    return replace(proof("cpu"), device=device, drivers=drivers)


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> Any:
    return lambda count: monkeypatch.setattr(ways, "cores", lambda: count)


def test_a_cpu_has_a_way_without_threads_and_some_with_fewer(cores: Any) -> None:
    found = {}
    for count in (1, 2, 3, 8, 12):
        cores(count)
        found[count] = [(way.uri, way.threads) for way in ways.of(CPU)]
    own, alone = ("local-task", 0), ("local-sync", 0)
    assert found[1] == found[2] == [own, alone]
    assert found[3] == [own, alone, ("local-task", 2)]
    assert found[8] == [own, alone, ("local-task", 2), ("local-task", 4)]
    assert found[12] == [*found[8], ("local-task", 8)]
    assert ways.of(GPU) == [GPU]


@pytest.mark.parametrize(
    ("proofs", "expected"),
    [
        ([], ("local-task", 0)),
        ([seen()], ("local-task", 0)),
        ([seen(("local-task", 0, 2.0), ("local-sync", 0, 1.0))], ("local-sync", 0)),
        ([seen(("local-task", 0, 2.0), ("local-sync", 0, 1.95))], ("local-task", 0)),  # hardly faster
        ([seen(("local-task", 0, 1.0), ("local-sync", 0, 2.0))], ("local-task", 0)),
        ([seen(("local-task", 0, 2.0), ("local-sync", 0, 1.5), ("local-task", 2, 1.0))], ("local-task", 2)),
        ([seen(("local-task", 0, 2.0), ("local-task", 16, 0.1))], ("local-task", 0)),  # more threads than there are
        ([seen(("local-task", 0, 2.0), ("--evil", 0, 0.1))], ("local-task", 0)),
        ([seen(("local-sync", 0, 0.1))], ("local-task", 0)),  # than what?
        # The newest of this CPU counts, before any of another.
        (
            [
                seen(("local-task", 0, 2.0), ("local-sync", 0, 1.0), device="Another"),
                seen(("local-task", 0, 1.0), ("local-sync", 0, 2.0)),
                seen(("local-task", 0, 2.0), ("local-sync", 0, 1.0)),
            ],
            ("local-task", 0),
        ),
        ([seen(("local-task", 0, 2.0), ("local-sync", 0, 1.0), device="Another")], ("local-sync", 0)),
    ],
)
def test_the_fastest_is_what_was_seen_so(proofs: list[VariantProof], expected: tuple[str, int], cores: Any) -> None:
    cores(4)
    found = ways.fastest(CPU, proofs)
    assert (found.uri, found.threads) == expected
    assert ways.fastest(GPU, proofs) == GPU


def test_who_names_a_driver_means_it(cores: Any) -> None:
    cores(4)
    assert [d.uri for d in named([CPU, GPU], "local-sync")] == ["local-sync"]
    assert [d.uri for d in named([CPU, GPU], "local-task")] == ["local-task"]
    assert [d.uri for d in named([CPU, GPU], "local")] == ["local-task"]
    assert [ways.is_left_open(CPU, word) for word in ("auto", "local", "A CPU", "local-task", "local-sync")] == [
        *[True] * 3,
        *[False] * 2,
    ]


def _document(built: Project) -> EvidenceDocument:
    (path,) = [p for p in built.layout.store.glob("evidence/small/*/*.json") if p.name != "index.json"]
    return decode(EvidenceDocument, path.read_bytes(), "here")


def test_verification_measures_every_way(built: Project) -> None:
    (file,) = _document(built).files
    for one in file.variants:
        on_cpu = one.kind == "device" and not one.driver
        assert [(d.driver, d.threads) for d in one.drivers][:2] == [("local-task", 0), ("local-sync", 0)][: 2 * on_cpu]
        assert all(d.latency_s > 0 and d.rounds > 0 for d in one.drivers)
        if one.drivers:
            assert (one.latency_s, one.rounds) == (one.drivers[0].latency_s, one.drivers[0].rounds)
    assert any(one.drivers for one in file.variants)


def test_evidence_of_the_first_schema_is_read(built: Project) -> None:
    document = _document(built)
    old = json.loads(encode(document)) | {"schema": 1}
    for one in old["files"][0]["variants"]:
        one.pop("drivers")
    without = [replace(one, drivers=()) for one in document.files[0].variants]
    assert decode(EvidenceDocument, json.dumps(old).encode(), "here").files[0].variants == tuple(without)


@pytest.fixture
def store(built: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A copy of the store, in which a CPU is said to be fastest by one driver."""
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIPELINE_STORE", str(built.layout.store))

    def said(best: str) -> None:
        def fastest(device: Device, proofs: Any) -> Device:
            assert any(proof.drivers for proof in proofs)
            return next(way for way in ways.of(device) if way.uri == best)

        monkeypatch.setattr(ways, "fastest", fastest)

    return said


@pytest.mark.parametrize("best", ["local-task", "local-sync"])
def test_who_runs_a_release_takes_the_fastest(best: str, store: Any, capsys: pytest.CaptureFixture[str]) -> None:
    store(best)
    by = " by local-sync" if best == "local-sync" else ""
    assert cli.main(["run", "small", "--check", "--device", "local"]) == 0
    assert f"){by}: right, max error" in capsys.readouterr().out
    for driver, how in (("local-task", ""), ("local-sync", " by local-sync")):
        assert cli.main(["run", "small", "--check", "--device", driver]) == 0
        assert f"){how}: right, max error" in capsys.readouterr().out
    model = load("small", device="local")
    assert model.device.uri == best
    assert load("small", device="local-task").device.uri == "local-task"


def test_explain_and_evidence_tell_it(store: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explain", "small", "--device", "local"]) == 0
    out = capsys.readouterr().out
    assert " ms by local-sync" in out
    assert " ms by local-task" in out


def test_threads_are_as_many_as_asked_for(built: Project, tmp_path: Path) -> None:
    """By the threads of a process that opens a device; IREE's own count is one more, which waits."""
    script = (
        "import os, sys\nfrom pipeline.iree.devices.session import open_device\n"
        "before = len(os.listdir('/proc/self/task'))\ndevice = open_device('local-task', int(sys.argv[1]))\n"
        "print(len(os.listdir('/proc/self/task')) - before)\n"
    )
    found = [int(subprocess.check_output([sys.executable, "-c", script, str(count)])) for count in (1, 3, 5)]
    assert [found[1] - found[0], found[2] - found[0]] == [2, 4]


def test_a_way_that_gives_other_numbers_is_left_out(built: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cpu,) = (d for d in devices.find(tmp_path) if backends.is_cpu(d))
    module = next(built.layout.store.parent.rglob("verify/module.vmfb"))
    function = _document(built).files[0].variants[-1].functions[0].function
    random = np.random.default_rng(0)
    given = [random.uniform(-1, 1, shape).astype(np.float32) for shape in ((64, 128), (128, 64))]
    arrays.write(tmp_path / "in.npz", given)
    run = devices.run

    def measured() -> list[str]:
        found = ways.measure(module, cpu, function, tmp_path / "in.npz", tmp_path / "ways", None, 0.05)
        return [one.driver for one in found]

    assert measured()[:2] == ["local-task", "local-sync"]

    def other(module: Path, device: Device, *rest: Any, **options: Any) -> Any:
        ran = run(module, device, *rest, **options)
        if device.uri == "local-sync":
            path = devices.outputs(rest[2], rest[3])
            arrays.write(path, [array + 1 for array in arrays.read(path)])
        return ran

    monkeypatch.setattr(devices, "run", other)
    assert "local-sync" not in measured()


# Without copies


def _inputs() -> list[np.ndarray[Any, Any]]:
    random = np.random.default_rng(3)
    return [random.uniform(-1, 1, shape).astype(np.float32) for shape in ((64, 128), (128, 64))]


@pytest.fixture
def model(store: Any) -> Model:
    return load("small", device="local")


def test_what_is_aligned_is_taken_where_it_is(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    given = _inputs()
    wanted = model(*given)
    placed = [aligned(a.shape, a.dtype) for a in given]
    for there, array in zip(placed, given, strict=True):
        there[:] = array
    copied = []
    real = model._session._copied
    monkeypatch.setattr(model._session, "_copied", lambda array: copied.append(array.shape) or real(array))
    assert np.array_equal(model(*placed)[0], wanted[0])
    assert copied == []
    placed[0][:] = 0  # is seen by the next call
    assert not model(*placed)[0].any()
    model.on_device(*placed)
    assert len(copied) == 2  # which keeps what it gives: others might write to its arguments


@pytest.mark.parametrize("shape", [(), (0,), (7,), (1 << 12,), (3, 5, 1024)])
@pytest.mark.parametrize("dtype", ["int8", "float16", "float64", "bool"])
def test_aligned_arrays_are_arrays(shape: tuple[int, ...], dtype: str) -> None:
    array = aligned(shape, dtype)
    assert (array.shape, array.dtype.name) == (shape, dtype)
    assert array.ctypes.data % 64 == 0 or not array.size
    array[...] = 1
    assert array.all()


def test_outputs_are_the_callers(model: Model) -> None:
    first = model(*_inputs())[0]
    kept = first.copy()
    first[:] = -1
    assert np.array_equal(model(*_inputs())[0], kept)
    assert (first == -1).all()


def test_what_is_on_a_cpu_is_read_where_it_is(model: Model) -> None:
    (tensor,) = model.on_device(*_inputs())
    a, b = np.asarray(tensor), np.asarray(tensor)
    assert np.shares_memory(a, b)
    assert not a.flags.writeable
    assert np.array(tensor, copy=True).flags.writeable
    assert not np.shares_memory(np.array(tensor, copy=True), a)
    assert np.array_equal(np.asarray(tensor, dtype=np.float64), a.astype(np.float64))
    del tensor
    assert np.array_equal(a, b)  # they keep it


def test_what_is_on_a_gpu_is_copied(store: Any) -> None:
    model = load("small", device="vulkan")
    (tensor,) = model.on_device(*_inputs())
    with pytest.raises(ValueError, match="can only be copied"):
        np.asarray(tensor, copy=False)

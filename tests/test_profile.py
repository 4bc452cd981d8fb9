"""Where time, seconds and bytes go: `vmfb profile` on this machine's devices, and `doit report`."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pipeline import cli
from pipeline.consume import profile
from pipeline.errors import PipelineError
from pipeline.iree import backends
from pipeline.iree.devices import profiling
from pipeline.iree.file import kernels
from pipeline.stages import report
from tests.project import Project

INPUTS = ("--input=64x128xf32=1", "--input=128x64xf32=1")
COUNT = {"type": "integer", "minimum": 0}
FRAME = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
# speedscope's format, as src/lib/file-format-spec.ts of version 1 says it, for profiles that are sampled.
SPEEDSCOPE = {
    "type": "object",
    "required": ["$schema", "shared", "profiles"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"const": "https://www.speedscope.app/file-format-schema.json"},
        "activeProfileIndex": COUNT,
        "exporter": {"type": "string"},
        "name": {"type": "string"},
        "shared": {
            "type": "object",
            "required": ["frames"],
            "properties": {"frames": {"type": "array", "items": FRAME}},
        },
        "profiles": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["type", "name", "unit", "startValue", "endValue", "samples", "weights"],
                "additionalProperties": False,
                "properties": {
                    "type": {"const": "sampled"},
                    "name": {"type": "string"},
                    "unit": {"enum": ["none", "nanoseconds", "microseconds", "milliseconds", "seconds", "bytes"]},
                    "startValue": {"type": "number"},
                    "endValue": {"type": "number"},
                    "samples": {"type": "array", "items": {"type": "array", "minItems": 1, "items": COUNT}},
                    "weights": {"type": "array", "items": {"type": "number", "minimum": 0}},
                },
            },
        },
    },
}


@pytest.fixture(autouse=True)
def store(built: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIPELINE_STORE", str(built.layout.store))


def vmfb(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> str:
    capsys.readouterr()
    assert cli.main([str(a) for a in arguments]) == code, capsys.readouterr().err
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err if code else captured.out


def require_speedscope(text: str) -> dict[str, Any]:
    """What speedscope takes, with what its schema cannot say: weights are of samples, and samples of frames."""
    document: dict[str, Any] = json.loads(text)
    jsonschema.validate(document, SPEEDSCOPE)
    for found in document["profiles"]:
        assert len(found["samples"]) == len(found["weights"])
        assert max(frame for stack in found["samples"] for frame in stack) < len(document["shared"]["frames"])
        assert found["endValue"] - found["startValue"] == sum(found["weights"])
    return document


@pytest.mark.parametrize("device", ["local", "vulkan"])
def test_a_release_is_profiled_on_its_reference_data(device: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The file itself tells dispatches; what they compute is not known of a release."""
    graph = tmp_path / "small.speedscope.json"
    (found,) = json.loads(vmfb(capsys, "profile", "small", "--device", device, "--json", "-o", graph))["profiles"]
    assert {row["kernel"] for row in found["kernels"]} == {"small_dispatch_0", "small_dispatch_1"}
    assert all(row["calls"] == 1 and 0 < row["seconds"] < 60 and not row["nodes"] for row in found["kernels"])
    assert sum(row["share"] for row in found["kernels"]) == pytest.approx(1)
    assert found["kernels_s"] == pytest.approx(sum(row["seconds"] for row in found["kernels"]))
    assert found["kernels"] == sorted(found["kernels"], key=lambda row: -row["seconds"])
    assert found["runs"] >= 3
    assert found["latency_s"] > 0
    document = require_speedscope(graph.read_text())
    stacks = [[document["shared"]["frames"][i]["name"] for i in stack] for stack in document["profiles"][0]["samples"]]
    assert stacks == [["small", "small_dispatch_0"], ["small", "small_dispatch_1"]]  # in the order of their calls


def test_beside_a_compiled_file_is_what_its_kernels_are(
    built: Project, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = built.layout.compiled("small", "desktop")
    text = vmfb(capsys, "profile", folder / "module.vmfb", "--device", "local", *INPUTS)
    found = kernels.read(folder / kernels.NAME)
    assert {kernel.dispatch for kernel in found} == {"small_dispatch_0", "small_dispatch_1"}
    assert all(kernel.name in text and kernel.name.startswith(f"{kernel.dispatch}_") for kernel in found)
    assert "operators" not in text  # it was MLIR: nothing has names
    named = [replace(kernel, nodes={"scores": ("onnx.MatMul", "onnx.Add")}) for kernel in found]
    kernels.save(tmp_path / kernels.NAME, named)
    shutil.copy(folder / "module.vmfb", tmp_path)
    graph = tmp_path / "graph.json"
    text = vmfb(capsys, "profile", tmp_path / "module.vmfb", "--device", "local", *INPUTS, "-o", graph)
    assert "MatMul, Add  scores" in text
    assert [frame["name"] for frame in require_speedscope(graph.read_text())["shared"]["frames"]][:3] == [
        "small",
        "MatMul, Add",
        "scores",
    ]
    (tmp_path / kernels.NAME).write_text('[{"dispatch": 1}]')
    assert "kernels.json: damaged" in vmfb(capsys, "profile", tmp_path / "module.vmfb", *INPUTS, code=1)


def test_what_a_driver_cannot_profile_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA's and HIP's say the same of whatever they are asked for; here the CPU's is asked for what it has not."""
    monkeypatch.setattr(backends.named("llvm-cpu"), "profiled", "dispatch-events")
    text = vmfb(capsys, "profile", "small", "--device", "local", code=1)
    assert "cannot be profiled, IREE's runtime 3" in text
    assert "unsupported local profiling data families" in text
    assert len(text.splitlines()) == 2
    assert "vmfb run --benchmark" in text


def test_a_runtime_without_the_tools_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.resources.files", lambda _: tmp_path)
    with pytest.raises(PipelineError, match=r"iree-base-runtime 3\S+ has no iree-profile"):
        profiling._tool("iree-profile")


def test_calls_are_of_a_run_and_seconds_the_median_of_runs() -> None:
    events = [("a", 5.0), ("a", 1.0), ("b", 9.0), ("a", 1.0), ("a", 1.0), ("a", 1.0), ("a", 2.0), ("b", 1.0)]
    assert profiling._timings(events, 3) == [profiling.Timing("a", 2.0, 3.0), profiling.Timing("b", 2 / 3, 10 / 3)]
    lines = [b'{"record_type":"dispatch_event","valid":true,"key":"a","duration_ns":null}']
    with pytest.raises(PipelineError, match="cannot be related to seconds"):
        list(profiling._events(lines, "x"))
    with pytest.raises(PipelineError, match="writes what is not known here"):
        list(profiling._events([b'{"dispatch'], "x"))


def test_a_table_shows_the_slowest_and_sums_the_rest() -> None:
    rows = tuple(profile.Row(f"kernel {i}", f"k{i}", 1, i / 1000, i / 210, {}) for i in range(21))
    found = profile.Profile("main", "x86-64", "CPU", 3, 0.3, False, rows)
    first, head, *table, rest = profile.lines(found)
    assert first == "main, x86-64 on CPU: 300.000 ms a run, 210.000 ms in kernels (medians; 3 profiled runs)"
    assert head.split() == ["share", "time", "calls", "kernel"]
    assert [line.split()[-1] for line in table] == [str(i) for i in range(20, 5, -1)]
    assert rest.split() == ["7.1%", "15.000", "ms", "6", "the", "other", "6"]
    require_speedscope(profile.flame_graph([found, found]))


def test_doit_report_tells_where_seconds_and_bytes_go(again: Project) -> None:
    compiled = again.layout.compiled("small", "desktop")
    found = report.report(compiled)
    size = (compiled / "module.vmfb").stat().st_size
    assert found.size == size == found.cost.bytes + found.constants + found.host
    assert found.host > 0
    assert found.constants < 1000  # small.mlir has next to none
    for part in ("seconds", "bytes"):
        whole = getattr(found.cost, part)
        assert whole == pytest.approx(sum(getattr(cost, part) for cost in found.variants.values()), abs=0.1)
        assert whole == pytest.approx(sum(getattr(kernel.cost, part) for kernel in found.kernels), abs=0.1)
    assert all(cost.seconds > 0 and cost.bytes > 0 for cost in found.variants.values())
    result = again.doit("report", "model=small")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "small / desktop: " in result.stdout
    assert "x86-64-v3" in result.stdout
    folder = again.layout.reported("small", "desktop")
    assert json.loads((folder / "report.json").read_text())["size"] == size
    assert "model=smal: there is no such model" in again.doit("report", "model=smal").stderr


def test_a_report_shows_the_dearest_kernels_and_sums_the_rest() -> None:
    kernels_ = tuple(
        report.KernelCost(f"kernel {i}", {"n": ("onnx.Conv",)}, report.Cost(1.0, 1000), {"x86-64": report.Cost(1.0, 1000)})
        for i in range(20)
    )
    total = report.Cost(20.0, 20_000)
    lines = report.lines("m / b", report.Report(50_000, 20_000, 10_000, 1.0, total, {"x86-64": total}, kernels_))
    assert lines[0] == "m / b: 50.0 kB, of which code 20.0 kB, constants 20.0 kB, the host's part 10.0 kB"
    assert len(lines) == 1 + 2 + 1 + 15 + 1 + 1
    assert lines[-2].split() == ["the", "other", "5", "5.0", "25%", "5.0", "kB", "25%"]


def test_a_compile_of_another_version_cannot_be_reported(built: Project, tmp_path: Path) -> None:
    shutil.copytree(built.layout.compiled("small", "desktop"), tmp_path / "compile")
    (tmp_path / "compile" / kernels.NAME).unlink()
    with pytest.raises(PipelineError, match="does not say what is known of its kernels"):
        report.report(tmp_path / "compile")

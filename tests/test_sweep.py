"""The sweep over real models: its specs load, what it notes is read back, its table says it; a small model goes all the way."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from pipeline.spec.load import load
from pipeline.spec.types import WheelSource
from tests.bench.sweep import __main__ as sweep
from tests.bench.sweep.case import MODELS, Built
from tests.bench.sweep.measure import Outcome, Variant
from tests.bench.sweep.table import table
from tests.project import Project

NONE = "0" * 64

PUBLISHED = Outcome(
    "b-net", "published", "", {"fetch": 1.0, "compile": 9.0}, 250_000_000, 716_190, 907_042,
    {"vulkan-any": Variant("device", 2e-6, 0.02), "x86-64": Variant("device", 1e-6, 0.5)}, {"amd-rdna3": "does not compile: no"},
    ("powers",), (), "x86-64", 3.0, 1.5,
)  # fmt: skip
REFUSED = Outcome("a-net", "refused", "GRU is not supported", {"fetch": 1.0, "import": 0.5}, 100_000_000, 1_000)


def test_all_specs_load(tmp_path: Path) -> None:
    """What a script makes has no digest, for that may depend on tools; and the script must be there."""
    project = Project(tmp_path)
    for name in sweep.swept():
        spec = yaml.safe_load((MODELS / f"{name}.yaml").read_text())
        if script := spec["source"].get("script"):
            spec["source"] = {"kind": "script", "script": str(MODELS / script), "sha256": NONE}
        (project.targets / "models" / f"{name}.yaml").write_text(yaml.safe_dump(spec))
    models = load(project.targets).models
    assert len(models) >= 45
    wheels = [source for model in models.values() for source in model.sources if isinstance(source, WheelSource)]
    assert len(wheels) >= 40
    assert len({source.sha256 for source in wheels}) == len(wheels)  # no model stands there twice


def test_names_are_chosen_by_a_pattern() -> None:
    assert sweep.swept("^silero-vad-(half|fixed)$") == ["silero-vad-fixed", "silero-vad-half"]


def test_outcomes_are_read_back_but_for_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(PUBLISHED.encode() + REFUSED.encode()[:40] + b"\n" + Outcome("c", "slow").encode())
    assert sweep.read(path) == {"b-net": PUBLISHED, "c": Outcome("c", "slow")}


def test_the_table_says_what_became_of_each() -> None:
    assert table([PUBLISHED, REFUSED]) == [
        "| model | outcome | s | peak | ONNX | vmfb | right on | error, of allowed | ms | ONNX Runtime | × |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |",
        "| a-net | refused by import | 2 | 100.0 MB | 1.0 kB |  |  |  |  |  |  |",
        "| b-net | published | 10 | 250.0 MB | 716.2 kB | 907.0 kB | 2 of 3 | 1.0e-06, 50% | 3.00 | 1.50 | 2.0 |",
        "",
        "- a-net: GRU is not supported",
        "- b-net without amd-rdna3: does not compile: no",
        "",
        "2 models: 1 published, 1 refused (1 for every CPU and a GPU); 12 s of stages.",
    ]


def test_a_file_without_a_cpu_is_not_whole() -> None:
    without = replace(PUBLISHED, dropped={"x86-64-v3": "failed verification"})
    assert "1 published (0 for every CPU and a GPU)" in table([without])[-1]
    alone = replace(PUBLISHED, variants={"x86-64": Variant("device", 1e-6, 0.5), "vulkan-any": Variant("untested", None, None)})
    assert "1 published (0 for every CPU and a GPU)" in table([alone])[-1]


def test_the_table_is_printed_of_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.jsonl").write_bytes(Outcome("magika", "refused", "no", {"fetch": 1.0}).encode())
    monkeypatch.setattr(sys, "argv", ["sweep", "--table", "--output", str(tmp_path)])
    assert sweep.main() == 0
    assert "| magika | refused by fetch | 1 |" in capsys.readouterr().out


def test_a_process_that_said_nothing_came_nowhere(tmp_path: Path) -> None:
    assert Built.read(tmp_path / "built.json") == Built()


@pytest.mark.thorough
def test_a_model_goes_all_the_way_and_is_not_done_again(tmp_path: Path) -> None:
    sweep.run(["wake-alexa"], tmp_path, 1, ("vulkan-any", "x86-64"))
    found = sweep.read(tmp_path / "results.jsonl")["wake-alexa"]
    assert (found.outcome, found.stage, found.chosen) == ("published", "publish", "x86-64"), found
    assert {name: variant.kind for name, variant in found.variants.items()} == {"vulkan-any": "device", "x86-64": "device"}
    assert found.peak > 50_000_000
    assert 0 < found.source < found.vmfb
    assert 0 < found.latency < 1000
    assert 0 < found.onnxruntime < 1000
    assert not (tmp_path / "work" / "wake-alexa").exists()
    lines = (tmp_path / "results.jsonl").read_bytes()
    sweep.run(["wake-alexa"], tmp_path, 1, ("vulkan-any", "x86-64"))
    assert (tmp_path / "results.jsonl").read_bytes() == lines

"""Verification spends its time where something may be wrong: nothing twice for the same code, and slow devices briefly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import arrays
from pipeline.compare import Tolerance
from pipeline.iree import devices
from pipeline.iree.device import Device
from pipeline.iree.gates import Facts, Gated
from pipeline.spec.load import load
from pipeline.spec.types import Bundle, Dimension, PathSource
from pipeline.stages import checks, twins, verify
from pipeline.stages.checks import Check, Failure, Result
from pipeline.stages.compiled import Compiled, Piece, Variant
from pipeline.stages.evidence import Evidence
from pipeline.stages.testdata import Draw, TestData
from tests.project import DATA, ROOT, Project, model_of
from tests.test_compile import on, present  # noqa: F401  # a fixture

SPIRV = "vulkan-spirv-fb"


def lavapipe(lanes: int) -> Device:
    facts = Facts("llvmpipe", frozenset([SPIRV]), {"vulkan.device::subgroup_size": lanes})
    return Device("vulkan://0", "llvmpipe", "vulkan", "llvmpipe", True, facts)


CPU = Device("local-task", "a CPU", "local-task", "", False, Facts("a CPU", frozenset(), {}))
WIDTHS = [lavapipe(4), lavapipe(8), lavapipe(16)]


def variant(name: str, *code: str) -> Variant:
    pieces = tuple(Piece(f"dispatch_{number}", name, number, 1, sha256) for number, sha256 in enumerate(code))
    return Variant(Gated(name, SPIRV, ()), "vulkan-spirv", name, (), "", pieces)


def check_of(folder: Path, *variants: Variant, found: Sequence[Device] = (CPU, *WIDTHS)) -> Check:
    draws = tuple(Draw(name, (Tolerance(0.0, 1e-4),)) for name in ("given", "again", "ends"))
    data = tuple(TestData(folder, name, draws, ("y",), (True,), {}) for name in ("main", "other"))
    compiled = Compiled(variants, (), (), {}, 0.0)
    targets = {v.gated.name: load(ROOT / "targets").executables[v.gated.name] for v in variants}
    bundle = Bundle("desktop", Path(), "", tuple(targets), (), "fail")
    identity: Any = None
    return Check(
        model_of(PathSource(Path("m"), "0" * 64)), bundle, targets, compiled, folder, folder, data, folder, found, identity
    )


def test_a_device_with_several_guises_is_named_once() -> None:
    assert verify.named_once([CPU, *WIDTHS]) == "CPU (a CPU), llvmpipe with subgroups of 4, 8, 16 lanes"
    assert verify.named_once([CPU, WIDTHS[0]]) == "CPU (a CPU), llvmpipe"


@pytest.fixture
def twinned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The variants whose twins were run: a stand-in says that they are right."""
    asked: list[str] = []

    def verify_(check: Check, of: Variant, hosts: Sequence[Device]) -> Evidence:
        asked.append(of.gated.name)
        return Evidence(of.gated.name, "twin", device="llvmpipe", subgroup_sizes=(4, 8, 16))

    monkeypatch.setattr(twins, "verify", verify_)
    return asked


def test_of_variants_with_the_same_code_the_twins_run_once(tmp_path: Path, twinned: list[str]) -> None:
    check = check_of(tmp_path, variant("amd-rdna3", "a", "b"), variant("nvidia-ampere", "a", "b"), variant("amd-rdna2", "a", "c"))
    results: list[Result] = []
    for one in check.compiled.variants:
        results.append(verify._twin(check, one, WIDTHS, results))
    assert twinned == ["amd-rdna3", "amd-rdna2"]
    assert isinstance(results[0], Evidence)
    assert results[1] == replace(results[0], variant="nvidia-ampere")


def test_what_failed_or_was_not_run_speaks_for_no_other_variant(tmp_path: Path, twinned: list[str]) -> None:
    check = check_of(tmp_path, variant("amd-rdna3", "a"), variant("nvidia-ampere", "a"))
    for result in (Failure("amd-rdna3", "its twin", "wrong"), Evidence("amd-rdna3", "untested", reason="it does not compile")):
        verify._twin(check, check.compiled.variants[1], WIDTHS, [result])
    assert twinned == ["nvidia-ampere"] * 2


def test_a_software_gpu_runs_most_in_its_widest_guise_and_elsewhere_what_is_quick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[tuple[str, int], tuple[int, float]] = {}

    def run(module: Path, device: Device, *_: Any, least: int, within: float, **_others: Any) -> devices.Run:
        asked[device.uri, device.facts.answers.get("vulkan.device::subgroup_size", 0)] = (least, within)
        return devices.Run("")

    monkeypatch.setattr(devices, "run", run)
    check = check_of(tmp_path, variant("vulkan-any", "a"))
    for device in check.devices:
        checks.run(check, tmp_path / "module.vmfb", device, "x")
    assert asked["local-task", 0][1] == math.inf
    assert asked["vulkan://0", 16][1] > asked["vulkan://0", 8][1] == asked["vulkan://0", 4][1]
    assert {least for least, _ in asked.values()} == {2}  # the first draw of each function, however slow it is
    alone = check_of(tmp_path, variant("vulkan-any", "a"), found=[CPU, lavapipe(8)])
    checks.run(alone, tmp_path / "module.vmfb", alone.devices[1], "x")
    assert asked["vulkan://0", 8] == asked["vulkan://0", 16]


@pytest.mark.parametrize(("least", "within", "done"), [(1, math.inf, 4), (1, 0, 1), (3, 0, 3), (9, 0, 4)])
def test_what_is_late_is_not_begun_but_for_the_least(
    small: Path,
    present: list[Device],  # noqa: F811
    tmp_path: Path,
    least: int,
    within: float,
    done: int,
) -> None:
    inputs = []
    for number in range(4):
        inputs.append(tmp_path / f"{number}.npz")
        arrays.write(inputs[-1], [np.full((64, 128), number, np.float32), np.ones((128, 64), np.float32)])
    ran = devices.run(small, on(present, "local-task"), "small", inputs, tmp_path, "run", repeats=1, least=least, within=within)
    assert (ran.error, ran.done, len(ran.runs_s), ran.varies) == ("", done, done, 0)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pipeline.stages import compile as compile_stage

    folder = tmp_path_factory.mktemp("small")
    _, bundle, targets = Project(folder / "project", "small", bundle={"targets": ["x86-64"]}).spec("small")
    (folder / "made").mkdir()
    compile_stage.compile_targets(DATA / "small.mlir", folder / "made", bundle, targets)
    return folder / "made" / "module.vmfb"


@pytest.mark.parametrize(
    ("least", "most", "multiple", "between"),
    [(1, 2, 1, 1), (1, 128, 1, 43), (1, 512, 1, 131), (32, 1024, 32, 160), (1, 1 << 20, 1, 131), (1000, 1 << 20, 1, 1129)],
)
def test_most_test_data_is_no_larger_than_a_kernel_s_tiles_and_what_is_left_over(
    least: int, most: int, multiple: int, between: int
) -> None:
    assert Dimension("T", least, most, multiple).between == between

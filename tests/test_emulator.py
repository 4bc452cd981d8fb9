"""Code on CPUs that QEMU plays, 64-bit Arm's and old ones of x86-64: right numbers, and for each CPU the level that it has."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline import arrays
from pipeline.errors import PipelineError
from pipeline.iree import devices
from pipeline.iree.device import Device
from pipeline.iree.devices import emulator
from pipeline.iree.file import choice
from pipeline.iree.gates import Facts, Gate, Gated, select
from pipeline.stages import verify
from pipeline.stages.compiled import Compiled
from tests.project import Project, evidence

ARM = "embedded-elf-arm_64"
LEVELS = {"aarch64-fp16": "max", "aarch64": "cortex-a72"}


FP16 = """about: Arm CPUs with float16 arithmetic
backend: llvm-cpu
device: generic
flags:
  - --iree-llvmcpu-target-triple=aarch64-unknown-unknown-eabi-elf
  - --iree-llvmcpu-target-cpu-features=+fullfp16
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project of small models for x86-64 and Arm, built."""
    bundle: dict[str, object] = {"targets": ["x86-64-v3", "x86-64", *LEVELS], "on_failure": "fail"}
    made = Project(tmp_path_factory.mktemp("arm"), "small", "half", "int8", bundle=bundle)
    (made.targets / "executables" / "aarch64-fp16.yaml").write_text(FP16)
    result = made.doit()
    assert result.returncode == 0, result.stdout
    return made


@pytest.mark.parametrize("model", ["small", "half", "int8"])
def test_every_level_is_verified_on_a_cpu_that_takes_it(project: Project, model: str) -> None:
    found = evidence(project, model)
    assert {name: (found[name].kind, found[name].device) for name in LEVELS} == {
        name: ("emulator", cpu) for name, cpu in LEVELS.items()
    }
    assert all(e.driver.startswith("QEMU ") for name, e in found.items() if name in LEVELS)
    assert found["x86-64"].kind == "device"


def test_cpus_answer_for_what_they_have(tmp_path: Path) -> None:
    features = ("fp-armv8", "fullfp16", "dotprod", "sve")
    found = {d.name: tuple(d.facts.answers[f"hal.cpu::{f}"] for f in features) for d in emulator.find([ARM], tmp_path)[0]}
    assert found == {"max": (1, 1, 1, 1), "neoverse-n1": (1, 1, 1, 0), "cortex-a72": (1, 0, 0, 0)}


def test_a_crash_of_what_is_played_is_a_crash(project: Project, tmp_path: Path) -> None:
    """Code for a CPU that has more dies of an illegal instruction, as it would there."""
    compiled = project.layout.compiled("half", "desktop")
    names = [v["gated"]["name"] for v in json.loads((compiled / "compiled.json").read_text())["variants"]]
    choice.force(compiled / "module.vmfb", names.index("aarch64-fp16"), tmp_path / "forced.vmfb")
    weak = next(d for d in emulator.find([ARM], tmp_path)[0] if d.name == "cortex-a72")
    inputs = project.layout.reference("half") / "0/given.inputs.npz"
    run = devices.run(tmp_path / "forced.vmfb", weak, "half", [inputs], tmp_path, "run")
    assert run.crashed
    assert "SIGILL" in run.error


def test_without_qemu_arm_code_is_untested_and_says_what_to_install(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert emulator.find([ARM], tmp_path) == ([], {})
    assert verify._devices(tmp_path, [Gated("aarch64", ARM, ())]) == verify._devices(tmp_path, [])


X86 = "embedded-elf-x86_64"
# What QEMU's CPUs have, old ones of those too that this machine is.
OLD = {"Haswell": "x86-64-v3", "Nehalem": "x86-64"}


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Device]:
    return {device.name: device for device in emulator.find([X86], tmp_path_factory.mktemp("old"))[0]}


@pytest.mark.parametrize("cpu", OLD)
def test_a_cpu_without_a_level_runs_the_one_that_it_has(
    project: Project, old: dict[str, Device], cpu: str, tmp_path: Path
) -> None:
    """The published file itself, where the CPU lacks AVX2, or AVX-512."""
    compiled = Compiled.read(project.layout.compiled("small", "desktop") / "compiled.json")
    module = project.layout.compiled("small", "desktop") / "module.vmfb"
    inputs = project.layout.reference("small") / "0/given.inputs.npz"
    run = devices.run(module, old[cpu], "small", [inputs], tmp_path, "run")
    assert run.error == ""
    assert compiled.variants[run.selected or 0].gated.name == OLD[cpu]
    assert select([v.gated for v in compiled.variants], old[cpu].facts) == OLD[cpu]
    (made,) = arrays.read(devices.outputs(tmp_path, "run"))
    (expected,) = arrays.read(project.layout.verified("small", "desktop") / "0/given.outputs.npz")  # of the baseline, here
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-5)


def test_levels_that_this_machine_lacks_are_verified_on_cpus_that_are_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine without AVX2, which the tests pretend this to be."""
    level = Gated("x86-64-v3", X86, (Gate.parse("hal.cpu::avx2 == 1"),))
    poor = Device("local-task", "old", "local-task", "", True, Facts("old", frozenset([X86]), {"hal.cpu::avx2": 0}))
    monkeypatch.setattr(verify, "_found", {verify.fingerprint(): [poor]})
    baseline = Gated("x86-64", X86, ())
    assert [d.name for d in verify._devices(tmp_path, [level, baseline])] == ["old", "Haswell"]
    assert [d.name for d in verify._devices(tmp_path, [baseline])] == ["old"]


def test_what_qemu_cannot_play_is_untested_and_says_why(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QEMU is here, for something else, and nothing can be fetched."""

    def unreachable(*_arguments: object) -> None:
        raise PipelineError("pip cannot fetch iree-base-runtime", hint="check the network")

    monkeypatch.setattr(emulator, "_tools", unreachable)
    arm = Gated("aarch64", ARM, ())
    assert verify._devices(tmp_path, [arm]) == verify._devices(tmp_path, [])
    assert verify._unplayable[ARM] == "pip cannot fetch iree-base-runtime (check the network)"

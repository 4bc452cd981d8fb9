"""64-bit Arm code, on CPUs that QEMU plays: right numbers, and for each CPU the level that it has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.iree import devices
from pipeline.iree.compiler import force_variant
from pipeline.iree.devices import emulator
from pipeline.stages import verify
from tests.project import Project

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
    manifest = json.loads((project.layout.package(model) / "manifest.json").read_text())
    evidence = {v["name"]: v["evidence"] for v in manifest["artifacts"][0]["variants"]}
    assert {name: (evidence[name]["kind"], evidence[name]["device"]) for name in LEVELS} == {
        name: ("emulator", cpu) for name, cpu in LEVELS.items()
    }
    assert all(e["driver"].startswith("QEMU ") for name, e in evidence.items() if name in LEVELS)
    assert evidence["x86-64"]["kind"] == "device"


def test_cpus_answer_for_what_they_have(tmp_path: Path) -> None:
    features = ("fp-armv8", "fullfp16", "dotprod", "sve")
    found = {d.name: tuple(d.facts.answers[f"hal.cpu::{f}"] for f in features) for d in emulator.find([ARM], tmp_path)}
    assert found == {"max": (1, 1, 1, 1), "neoverse-n1": (1, 1, 1, 0), "cortex-a72": (1, 0, 0, 0)}


def test_a_crash_of_what_is_played_is_a_crash(project: Project, tmp_path: Path) -> None:
    """Code for a CPU that has more dies of an illegal instruction, as it would there."""
    compiled = project.layout.compiled("half", "desktop")
    names = [v["gated"]["name"] for v in json.loads((compiled / "compiled.json").read_text())["variants"]]
    force_variant(compiled / "linked.mlirbc", names.index("aarch64-fp16"), tmp_path / "forced.vmfb")
    weak = next(d for d in emulator.find([ARM], tmp_path) if d.name == "cortex-a72")
    inputs = project.layout.reference("half") / "given.inputs.npz"
    run = devices.run(tmp_path / "forced.vmfb", weak, "half", [inputs], tmp_path, "run")
    assert run.crashed
    assert "SIGILL" in run.error


def test_without_qemu_arm_code_is_untested_and_says_what_to_install(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulator.shutil, "which", lambda _name: None)
    assert emulator.find([ARM], tmp_path) == []
    assert verify._devices(tmp_path, [ARM]) == verify._devices(tmp_path, [])

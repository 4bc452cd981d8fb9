"""Fat vmfbs from the real compiler, run by the real runtime: each variant present, gated, reachable, and chosen right."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from iree.compiler import ir
from iree.compiler.dialects import arith

from pipeline.errors import PipelineError
from pipeline.iree import backends, compiler, devices, mlir, toolchain
from pipeline.iree.backends.vulkan import spirv
from pipeline.iree.device import Device
from pipeline.iree.devices.session import FACTS
from pipeline.iree.gates import Gate, select
from pipeline.iree.linking import facts, straighten
from pipeline.iree.targets import resolve
from pipeline.spec.load import load
from pipeline.spec.types import Executable
from pipeline.stages import checks
from pipeline.stages.evidence import Evidence
from tests.project import DATA, ROOT

DESKTOP = ("amd-rdna3", "nvidia-ampere", "vulkan-any", "x86-64-v4", "x86-64-v3", "x86-64")


def executables(*names: str) -> list[Executable]:
    spec = load(ROOT / "targets")
    return [spec.executables[name] for name in names]


def build(source: Path, folder: Path, targets: Sequence[Executable]) -> compiler.Compiled:
    folder.mkdir(parents=True, exist_ok=True)
    declared = {t.name: t.gates for t in targets}
    return compiler.compile_module(source, folder, [resolve(t) for t in targets], declared)


@pytest.fixture(scope="session")
def present(tmp_path_factory: pytest.TempPathFactory) -> list[Device]:
    found = devices.find(tmp_path_factory.mktemp("devices"))
    if not any(d.driver == "vulkan" for d in found):
        message = "no Vulkan device: apt-get install mesa-vulkan-drivers libvulkan1"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, compiler.Compiled]:
    folder = tmp_path_factory.mktemp("small")
    return folder, build(DATA / "small.mlir", folder, executables(*DESKTOP))


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    path = tmp_path_factory.mktemp("inputs") / "inputs.npz"
    generator = np.random.default_rng(1)
    a, b = generator.random((64, 128), dtype=np.float32), generator.random((128, 64), dtype=np.float32)
    np.savez(path, **{"0": a, "1": b})
    return path, (a @ b).sum(axis=1)


def on(present: list[Device], driver: str) -> Device:
    return next(d for d in present if d.driver == driver)


def outputs(folder: Path, name: str) -> np.ndarray:
    with np.load(devices.outputs(folder, name)) as arrays:
        return arrays["0"]


def test_the_file_holds_every_variant_in_order_and_says_so_itself(small: tuple[Path, compiler.Compiled]) -> None:
    _, made = small
    assert [v.name for v in made.variants] == list(DESKTOP)
    assert all(len(made.code[name]) == 2 for name in DESKTOP)
    (export,) = [e for e in made.module.exports if e.name == "__selected_variant"]
    assert all(f'"name":"{name}"' in export.attributes["vmfb.variants"] for name in DESKTOP)


def test_the_code_of_a_variant_lies_side_by_side_behind_the_data(small: tuple[Path, compiler.Compiled]) -> None:
    folder, made = small
    owners = {p.segment.offset: p.owner for pieces in made.code.values() for p in pieces}
    order = [owners[s.offset] for s in sorted(made.module.segments, key=lambda s: s.offset) if s.offset in owners]
    assert order == sorted(order, key=DESKTOP.index)
    assert min(owners) > max((s.offset for s in made.module.segments if s.offset not in owners), default=0)
    assert not any("error:" in log.read_text() for log in folder.glob("*.log"))


def test_executables_are_created_without_a_branch_for_every_dispatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A branch each makes IREE's last passes quadratic."""
    straight, found = straighten.straighten, []

    def observed(module: ir.Module, variants: Sequence[str]) -> bool:
        assert straight(module, variants)
        assert not any("cf.switch" in str(function) for function in mlir.operations(module, "util.func"))
        (creates,) = (o for o in mlir.operations(module, "util.initializer") if "cf.switch" in str(o))
        found.append((len(list(creates.regions[0].blocks)), len(mlir.operations(creates, "util.global.store"))))
        return True

    monkeypatch.setattr(straighten, "straighten", observed)
    names = ("x86-64-v3", "x86-64")
    made = build(DATA / "small.mlir", tmp_path, executables(*names))
    assert found == [(len(names) + 3, len(names) * len({code.dispatch for code in made.code["x86-64"]}))]


def test_a_dialect_without_a_module_in_python_is_looked_for_once() -> None:
    """Otherwise the bindings do so for each of its operations."""
    with mlir.parsed(b'spirv.module Logical GLSL450 { spirv.func @f() "None" { spirv.Return } }') as module:
        assert module.body.operations[0].operation.name == "spirv.module"
    assert "iree.compiler.dialects.spirv" in sys.modules
    assert arith.ConstantOp  # those that have one keep it


@pytest.mark.parametrize("name", ["say \\22hi\\22", "na\u00efve", "a.b$c"])
@pytest.mark.parametrize("targets", [("vulkan-any",), ("vulkan-any", "x86-64")])
def test_functions_may_have_any_name(name: str, targets: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "named.mlir").write_text((DATA / "small.mlir").read_text().replace("@small(", f'@"{name}"('))
    made = build(tmp_path / "named.mlir", tmp_path, executables(*targets))
    assert set(made.code) == {*targets}


@pytest.mark.parametrize("initializers", [0, 1, 2])
def test_executables_created_in_an_unknown_way_stay_as_they_are(initializers: int) -> None:
    one = """util.initializer {
      %device = util.global.load @__device_0 : !hal.device
      %any = arith.constant -1 : i64
      %e = hal.executable.create device(%device : !hal.device) affinity(%any) target(@d::@v) : !hal.executable
      util.global.store %e, @a : !hal.executable
      util.return
    }"""
    text = "util.global private @a : !hal.executable\nutil.global private @__device_0 : !hal.device\n" + one * initializers
    with mlir.parsed(text.encode()) as module:
        before = str(module)
        assert not straighten.straighten(module, ["v"])
        assert str(module) == before


@pytest.mark.parametrize("driver", ["local-task", "vulkan"])
def test_what_cannot_be_straightened_has_a_dispatch_for_each_variant(
    inputs: tuple[Path, np.ndarray], present: list[Device], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    monkeypatch.setattr(straighten, "straighten", lambda *_: False)
    build(DATA / "small.mlir", tmp_path, executables("vulkan-any", "x86-64-v3", "x86-64"))
    run = devices.run(tmp_path / "module.vmfb", on(present, driver), "small", [inputs[0]], tmp_path, "run")
    assert not run.error
    np.testing.assert_allclose(outputs(tmp_path, "run"), inputs[1], rtol=1e-4)


def test_identical_code_is_stored_once(small: tuple[Path, compiler.Compiled]) -> None:
    _, made = small
    digests = [segment.sha256 for segment in made.module.segments]
    assert len(digests) == len(set(digests))
    shared = [p for p in made.code["nvidia-ampere"] if p.owner == "amd-rdna3"]
    assert shared
    assert all(p.segment in {q.segment for q in made.code["amd-rdna3"]} for p in shared)


def test_gates_come_from_the_code(small: tuple[Path, compiler.Compiled]) -> None:
    folder, made = small
    data = (folder / "module.vmfb").read_bytes()
    for variant in made.variants[:3]:
        demands = spirv.Demands()
        for piece in made.code[variant.name]:
            demands = demands.merge(spirv.demands(data[piece.segment.offset : piece.segment.offset + piece.segment.length]))
        assert not demands.unsized_subgroup_use
        assert Gate("vulkan.device", "max_compute_workgroup_invocations", ">=", (demands.invocations,)) in variant.gates
    assert "vulkan.feature::subgroup_size_control == 1" in map(str, made.variants[0].gates)


@pytest.mark.parametrize("driver", ["local-task", "vulkan"])
def test_the_module_reports_the_variant_that_was_predicted(
    small: tuple[Path, compiler.Compiled], inputs: tuple[Path, np.ndarray], present: list[Device], tmp_path: Path, driver: str
) -> None:
    folder, made = small
    device = on(present, driver)
    run = devices.run(folder / "module.vmfb", device, "small", [inputs[0]], tmp_path, "run")
    assert not run.error
    assert run.selected is not None
    assert made.variants[run.selected].name == select(made.variants, device.facts)
    np.testing.assert_allclose(outputs(tmp_path, "run"), inputs[1], rtol=1e-4)


@pytest.mark.parametrize("driver", ["local-task", "vulkan"])
def test_plain_iree_tools_run_the_file(small: tuple[Path, compiler.Compiled], driver: str, present: list[Device]) -> None:
    folder, _ = small
    tool = [sys.executable, "-m", "iree._runtime.scripts.iree_run_module"]
    command = [*tool, f"--module={folder / 'module.vmfb'}", f"--device={driver}"]
    ones = ["--input=64x128xf32=1", "--input=128x64xf32=1"]
    result = subprocess.run([*command, *ones], capture_output=True, text=True, check=True)
    assert "64xf32=8192" in result.stdout


@pytest.mark.parametrize("driver", ["local-task", "vulkan"])
def test_the_chosen_code_is_what_runs_and_nothing_else_is_touched(
    small: tuple[Path, compiler.Compiled], inputs: tuple[Path, np.ndarray], present: list[Device], tmp_path: Path, driver: str
) -> None:
    """Zero code in the file: without the others' the device works as before, without its own it fails."""
    folder, made = small
    device = on(present, driver)
    chosen = select(made.variants, device.facts)
    assert chosen
    mine = {p.segment for p in made.code[chosen]} | {p.segment for p in made.code["x86-64"][:1] if driver == "local-task"}
    everyone = {p.segment for pieces in made.code.values() for p in pieces}
    for name, victims, works in (("others", everyone - mine, True), ("own", {p.segment for p in made.code[chosen]}, False)):
        data = bytearray((folder / "module.vmfb").read_bytes())
        for segment in victims:
            data[segment.offset : segment.offset + segment.length] = bytes(segment.length)
        (tmp_path / f"{name}.vmfb").write_bytes(data)
        run = devices.run(tmp_path / f"{name}.vmfb", device, "small", [inputs[0]], tmp_path, name)
        assert bool(run.error) is not works, name
        if works:
            np.testing.assert_allclose(outputs(tmp_path, name), inputs[1], rtol=1e-4)


def test_a_device_that_no_gate_accepts_is_refused_cleanly(
    inputs: tuple[Path, np.ndarray], present: list[Device], tmp_path: Path
) -> None:
    build(DATA / "small.mlir", tmp_path, executables("amd-rdna3", "x86-64"))
    run = devices.run(tmp_path / "module.vmfb", on(present, "vulkan"), "small", [inputs[0]], tmp_path, "run")
    assert "does not support any variant" in run.error


def test_two_builds_in_two_folders_are_identical(small: tuple[Path, compiler.Compiled], tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "renamed.mlir"
    copy.parent.mkdir()
    copy.write_bytes((DATA / "small.mlir").read_bytes())
    # The imported bytecode carries no locations; here text does, so it is stripped the way the importer does it.
    build(DATA / "small.mlir", tmp_path / "a", executables(*DESKTOP))
    build(copy, tmp_path / "b", executables(*DESKTOP))
    assert (tmp_path / "a/module.vmfb").read_bytes() == (tmp_path / "b/module.vmfb").read_bytes()


def test_a_target_that_can_never_be_chosen_is_an_error_naming_both(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"x86-64-v3 can never be chosen.*x86-64, which comes first"):
        build(DATA / "small.mlir", tmp_path, executables("x86-64", "x86-64-v3"))


def test_cpu_code_that_all_has_gates_is_chosen_in_a_fresh_process(
    inputs: tuple[Path, np.ndarray], present: list[Device], tmp_path: Path
) -> None:
    """The runtime tells a CPU's features only when it has made an executable: here one that no variant owns."""
    made = build(DATA / "small.mlir", tmp_path, executables("x86-64-v4", "x86-64-v3"))
    device = on(present, "local-task")
    run = devices.run(tmp_path / "module.vmfb", device, "small", [inputs[0]], tmp_path, "run")
    assert run.selected is not None
    assert made.variants[run.selected].name == select(made.variants, device.facts)
    np.testing.assert_allclose(outputs(tmp_path, "run"), inputs[1], rtol=1e-4)


def test_vulkan_any_multiplies_signed_bytes_right(present: list[Device], tmp_path: Path) -> None:
    """The plain profile takes one operand for unsigned; with dot products it is exact."""
    made = build(DATA / "int8.mlir", tmp_path, executables("vulkan-any", "x86-64"))
    generator = np.random.default_rng(2)
    a, b = (generator.integers(-128, 128, shape).astype(np.int8) for shape in ((32, 64), (64, 32)))
    np.savez(tmp_path / "inputs.npz", **{"0": a, "1": b})
    run = devices.run(tmp_path / "module.vmfb", on(present, "vulkan"), "int8", [tmp_path / "inputs.npz"], tmp_path, "run")
    assert (run.error, run.selected) == ("", 0)
    np.testing.assert_array_equal(outputs(tmp_path, "run"), a.astype(np.int32) @ b.astype(np.int32))
    assert any("shader_integer_dot_product" in str(g) for g in made.variants[0].gates)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"device": "gfx9999"}, "amd-rdna3.yaml: "),
        ({"flags": ("--iree-no-such-flag",)}, "Unknown command line argument '--iree-no-such-flag'"),
        ({"flags": ("--iree-vm-bytecode-module-strip-source-map",)}, "changes nothing in this target"),
    ],
)
def test_a_device_or_flag_the_compiler_does_not_take_names_the_target(change: dict[str, object], complaint: str) -> None:
    (target,) = executables("amd-rdna3")
    with pytest.raises(PipelineError) as caught:
        resolve(replace(target, **change))  # type: ignore[arg-type]
    assert complaint in str(caught.value)
    assert "amd-rdna3.yaml" in str(caught.value)


def test_the_shipped_facts_module_is_what_would_be_built(tmp_path: Path) -> None:
    facts.build(tmp_path / "facts.vmfb")
    assert (tmp_path / "facts.vmfb").read_bytes() == FACTS.read_bytes(), "run python -m pipeline.iree.linking.facts"


def test_facts_name_the_devices_of_this_machine(present: list[Device]) -> None:
    vulkan = on(present, "vulkan")
    assert vulkan.driver_info
    assert vulkan.facts.answers["vulkan.device::subgroup_size"] > 0
    assert on(present, "local-task").facts.answers["hal.cpu::sse3"] == 1


def test_a_run_that_does_not_end_in_time_says_nothing_of_the_variant(
    small: tuple[Path, compiler.Compiled], inputs: tuple[Path, np.ndarray], present: list[Device], tmp_path: Path
) -> None:
    device = on(present, "vulkan")
    run = devices.run(small[0] / "module.vmfb", device, "small", [inputs[0]], tmp_path, "run", timeout=0.001)
    assert (run.slow, run.done) == (True, 0)
    result = checks.judge(cast(checks.Check, None), "vulkan-any", "device", device, run, "run")
    assert isinstance(result, Evidence)
    assert result.kind == "untested"
    assert "did not end within" in result.reason
    assert "llvmpipe" in result.reason or device.title in result.reason


def test_a_software_device_is_one_device_at_every_width(present: list[Device], tmp_path: Path) -> None:
    device = on(present, "vulkan")
    found = devices.guises(device, tmp_path)
    assert {d.name for d in found} == {device.name}
    if "llvmpipe" in device.name:
        assert [backends.subgroup_size(d) for d in found] == [4, 8, 16]


NOT_LOWERED = "{} needs {} in a form that IREE does not lower: compute it outside the model"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            """loc("total"): failed to legalize operation 'torch.aten.sum' that was explicitly marked illegal: %5 = …""",
            NOT_LOWERED.format("node 'total'", "torch.aten.sum"),
        ),
        (
            "failed to legalize operation 'torch.constant.bool': %5 = …",
            NOT_LOWERED.format("one of its operators", "torch.constant.bool"),
        ),
        (
            """loc("y"): failed to legalize unresolved target materialization from ('tensor<2xf32>') to ('tensor<f32>') …""",
            "node 'y' needs tensor<2xf32> as tensor<f32>, for which IREE has no code here",
        ),
        (
            "failed to legalize operation 'arith.divsi' that was explicitly marked illegal: %4 = …",
            "needs arith.divsi, for which IREE has no code here",
        ),
        (
            """failed to legalize operation 'arith.remsi' that …: %9 = "arith.remsi"(%8, %7) : (i64, i64) -> i64""",
            "needs arith.remsi of i64, for which IREE has no code here",
        ),
        ('loc("y"): something else', "node 'y': something else"),
    ],
)
def test_what_the_compiler_says_is_told_in_words(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "log").write_text(f"$ iree-compile -\n<stdin>:5:10: error: {line}\n")
    assert toolchain.first_error(tmp_path / "log") == said

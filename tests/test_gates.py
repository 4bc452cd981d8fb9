"""Gates and selection: the pure core, against a table of known devices."""

from __future__ import annotations

import pytest

from pipeline.iree import backends
from pipeline.iree.backends.cpu import cpu_gates
from pipeline.iree.backends.vulkan import spirv_gates
from pipeline.iree.backends.vulkan.spirv import Demands
from pipeline.iree.gates import Facts, Gate, Gated, GateError, decide, select, unreachable

V3 = "+avx,+avx2,+bmi,+bmi2,+cmov,+f16c,+fma,+lzcnt,+movbe,+popcnt,+sse3,+sse4.1,+sse4.2,+ssse3"
V4 = V3 + ",+avx512bw,+avx512cd,+avx512dq,+avx512f,+avx512vl"
SPIRV, ELF = "vulkan-spirv-fb", "embedded-elf-x86_64"


def g(*texts: str) -> list[Gate]:
    return [Gate.parse(text) for text in texts]


AMD = g(
    "vulkan.device::subgroup_size == 64",
    "vulkan.device::max_compute_workgroup_count_x == 4294967295",
    "vulkan.feature::cooperative_matrix_khr == 1",
)
NVIDIA = g("vulkan.device::subgroup_size == 32", "vulkan.device::max_compute_workgroup_count_x == 2147483647")
TUNED = Demands(frozenset({"Shader", "Int64", "GroupNonUniformArithmetic"}), (288, 4, 1), 288, frozenset({32}))
PLAIN = Demands(frozenset({"Shader"}), (64, 1, 1), 64)
DESKTOP = [
    Gated("amd-rdna3", SPIRV, spirv_gates(TUNED, AMD)),
    Gated("nvidia-ampere", SPIRV, spirv_gates(TUNED, NVIDIA)),
    Gated("vulkan-any", SPIRV, spirv_gates(PLAIN, [])),
    Gated("x86-64-v4", ELF, cpu_gates(V4)),
    Gated("x86-64-v3", ELF, cpu_gates(V3)),
    Gated("x86-64", ELF, ()),
]


def gpu(subgroup: int, count: int, *, invocations: int = 1024, control: int = 1, int64: int = 1, matrix: int = 1) -> Facts:
    device = {"subgroup_size": subgroup, "max_compute_workgroup_count_x": count, "max_compute_workgroup_invocations": invocations}
    device |= {f"max_compute_workgroup_size_{axis}": invocations for axis in "xyz"}
    features = {"subgroup_size_control": control, "shader_int64": int64, "cooperative_matrix_khr": matrix}
    answers = {f"vulkan.device::{k}": v for k, v in device.items()} | {f"vulkan.feature::{k}": v for k, v in features.items()}
    return Facts("gpu", frozenset({SPIRV}), answers)


def cpu(features: str) -> Facts:
    return Facts("cpu", frozenset({ELF}), {f"hal.cpu::{f.removeprefix('+')}": 1 for f in features.split(",") if f})


# Limits as in public vulkaninfo reports; counts are read as unsigned 32-bit.
DEVICES = {
    "RX 7900 XTX, RADV": (gpu(64, 4294967295), "amd-rdna3"),
    "RX 7900 XTX, RADV, count as the i32 it is read as": (gpu(64, -1), "amd-rdna3"),
    "RX 6650 XT (RDNA 2), RADV": (gpu(64, 4294967295, matrix=0), "vulkan-any"),
    "RX 580 (GCN), RADV: 64 lanes only": (gpu(64, 4294967295, matrix=0), "vulkan-any"),
    "RX 6500 XT, AMD's own driver": (gpu(64, 65535), "vulkan-any"),
    "RTX 3060": (gpu(32, 2147483647), "nvidia-ampere"),
    "RTX 3060 on a driver without 64-bit integers": (gpu(32, 2147483647, int64=0), "vulkan-any"),
    "Intel iGPU": (gpu(32, 65535), "vulkan-any"),
    "llvmpipe": (gpu(8, 65535), "vulkan-any"),
    "Adreno 640": (gpu(64, 65535, invocations=512), "vulkan-any"),
    "a device with small work groups": (gpu(8, 65535, invocations=32), None),
    "CPU with AVX-512": (cpu(V4), "x86-64-v4"),
    "CPU with AVX2": (cpu(V3), "x86-64-v3"),
    "CPU with AVX-512F but not VL": (cpu(V3 + ",+avx512f"), "x86-64-v3"),
    "CPU without AVX": (cpu("+sse3,+ssse3"), "x86-64"),
}


@pytest.mark.parametrize("name", DEVICES)
def test_known_devices_run_the_variant_that_is_right_for_them(name: str) -> None:
    facts, expected = DEVICES[name]
    assert select(DESKTOP, facts) == expected


def test_a_refusal_names_the_query_the_value_wanted_and_the_value_found() -> None:
    reasons = {d.variant: d.reason for d in decide(DESKTOP, gpu(8, 65535))}
    assert "vulkan.device::subgroup_size == 32, the device has 8" in reasons["nvidia-ampere"]
    assert "executable format embedded-elf-x86_64" in reasons["x86-64"]


def test_a_query_the_device_does_not_answer_refuses() -> None:
    (decision,) = decide([DESKTOP[4]], Facts("old", frozenset({ELF}), {}))
    assert not decision.accepted
    assert "does not answer hal.cpu::avx" in decision.reason


def test_the_desktop_bundle_is_reachable_throughout() -> None:
    assert unreachable(DESKTOP) == []


def test_a_variant_behind_a_weaker_gate_is_unreachable_and_both_are_named() -> None:
    (problem,) = unreachable([DESKTOP[5], DESKTOP[3]])
    assert "x86-64-v4 can never be chosen" in problem
    assert "those of x86-64" in problem


def test_contradicting_gates_are_unreachable() -> None:
    both = Gated("both", SPIRV, tuple(g("vulkan.device::subgroup_size == 32", "vulkan.device::subgroup_size == 64")))
    assert "contradict" in unreachable([both])[0]


@pytest.mark.parametrize(
    ("stronger", "weaker", "implied"),
    [
        ("vulkan.device::subgroup_size == 32", "vulkan.device::subgroup_size in [32, 64]", True),
        ("vulkan.device::subgroup_size in [32, 64]", "vulkan.device::subgroup_size == 32", False),
        ("vulkan.device::subgroup_size >= 64", "vulkan.device::subgroup_size >= 32", True),
        ("vulkan.device::subgroup_size >= 32", "vulkan.device::subgroup_size >= 64", False),
        ("vulkan.device::subgroup_size == 32", "vulkan.device::subgroup_size >= 16", True),
        ("vulkan.device::subgroup_size >= 32", "vulkan.device::subgroup_size == 32", False),
    ],
)
def test_implication(stronger: str, weaker: str, implied: bool) -> None:
    assert Gate.parse(stronger).implies(Gate.parse(weaker)) is implied


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("vulkan.device::vendor_id == 4098", "does not answer the query vulkan.device::vendor_id"),
        ("hal.cpu::bmi2 == 1", "does not answer the query hal.cpu::bmi2"),
        ("hal.cpu::avx2", "is not a gate"),
        ("hal.cpu::avx2 == [1, 2]", "needs `in`"),
        ("hal.cpu::avx2 == 4294967296", "32-bit"),
    ],
)
def test_bad_gates_say_what_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(GateError, match=complaint.replace("[", r"\[")):
        backends.parse_gate(text)


@pytest.mark.parametrize(
    "text", ["hal.cpu::avx2 == 1", "vulkan.device::subgroup_size in [32, 64]", "vulkan.device::api_version >= 7"]
)
def test_gates_round_trip_as_text(text: str) -> None:
    assert str(Gate.parse(text)) == text


def test_cpu_gates_hold_every_feature_that_can_be_asked() -> None:
    keys = {gate.key for gate in cpu_gates(V4)}
    assert {"avx512f", "avx512vl", "avx512bw", "avx512dq", "avx512cd", "avx2", "fma", "f16c"} <= keys
    assert not keys & {"bmi", "bmi2", "lzcnt", "movbe", "popcnt"}


def test_a_cpu_feature_that_cannot_be_asked_is_refused() -> None:
    with pytest.raises(GateError, match="may use gfni, vaes"):
        cpu_gates(V3 + ",+gfni,+vaes")


def test_capabilities_and_sizes_become_gates() -> None:
    gates = {str(gate) for gate in spirv_gates(Demands(frozenset({"Float16", "DotProduct"}), (8, 4, 2), 64), [])}
    assert "vulkan.feature::shader_float16 == 1" in gates
    assert "vulkan.feature::shader_integer_dot_product == 1" in gates
    assert "vulkan.device::max_compute_workgroup_invocations >= 64" in gates
    assert "vulkan.device::max_compute_workgroup_size_z >= 2" in gates
    assert not any("subgroup_size" in gate for gate in gates)


def test_a_required_subgroup_size_is_a_gate_unless_the_target_says_which_devices_can_be_asked() -> None:
    sized = Demands(frozenset({"Shader"}), subgroup_sizes=frozenset({32}))
    assert "vulkan.device::subgroup_size == 32" in map(str, spirv_gates(sized, []))
    declared = [str(gate) for gate in spirv_gates(sized, AMD)]
    assert "vulkan.device::subgroup_size == 32" not in declared
    assert "vulkan.feature::subgroup_size_control == 1" in declared


def test_code_that_no_gate_can_guard_is_refused() -> None:
    with pytest.raises(GateError, match="no query"):
        spirv_gates(Demands(frozenset({"capability 4711"})), [])
    with pytest.raises(GateError, match="without requiring a subgroup size"):
        spirv_gates(Demands(unsized_subgroup_use=("kernel",)), [])
    with pytest.raises(GateError, match="different subgroup sizes"):
        spirv_gates(Demands(subgroup_sizes=frozenset({32, 64})), [])

"""Gates: when a variant may be chosen, as values. One meaning for the compiler's IR, the manifest and every prediction.

A gate compares one query that IREE's runtime answers for a device with constants. Facts are a device's answers. `decide`
is the whole of selection; the IR that `link` puts into a module is generated from the same gates and does the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.iree.spirv import Demands

# The function that every artifact exports: it returns the index of the variant the device runs, or -1. Tools of IREE that
# look for the only exported function pass over names that begin with two underscores.
SELECTED = "__selected_variant"
# The attribute of that function that tells, as JSON, the variants with their gates and where their code is.
DESCRIPTION = "vmfb.variants"

# Every query the runtime of IREE 3.13 answers (runtime/src/iree/hal/drivers/vulkan/logical_device.c,
# runtime/src/iree/schemas/cpu_feature_bits.inl). A gate on anything else could never hold.
QUERIES: Mapping[str, frozenset[str]] = {
    "vulkan.device": frozenset(
        ["api_version", "subgroup_size", "max_compute_workgroup_invocations"]
        + [f"max_compute_workgroup_{what}_{axis}" for what in ("size", "count") for axis in "xyz"]
    ),
    "vulkan.feature": frozenset(
        """buffer_device_address subgroup_size_control cooperative_matrix_khr storage_buffer_8bit_access
        storage_buffer_16bit_access shader_float16 shader_float64 shader_int8 shader_int16 shader_int64
        shader_integer_dot_product shader_bfloat16_type shader_bfloat16_dot_product shader_bfloat16_cooperative_matrix
        vulkan_memory_model vulkan_memory_model_device_scope""".split()
    ),
    "vulkan.cooperative_matrix": frozenset(["supported", "property_count", "supported_stages"]),
    "hal.cpu": frozenset(
        """sse3 ssse3 sse4.1 sse4.2 sse4a avx fma fma4 xop f16c avx2 avx512f avx512cd avx512vl avx512dq avx512bw
        avx512ifma avx512vbmi avx512vpopcntdq avx512vnni avx512vbmi2 avx512bitalg avx512bf16 avx512fp16
        amx-tile amx-int8 amx-bf16
        fp-armv8 lse lse128 fullfp16 fp16fml dotprod i8mm bf16 sve sve2 sve2p1 sve2-bitperm f32mm f64mm
        sme sme2 sme2p1 sme-f16f16 sme-f64f64 sme-i16i64""".split()
    ),
}

# SPIR-V capability -> the feature a device must have enabled. None: every Vulkan 1.3 device with compute has it, or (the
# subgroup operations beyond basic) no query answers for it and all desktop drivers have it.
_CAPABILITY_FEATURE: Mapping[str, str | None] = {
    "Matrix": None,
    "Shader": None,
    "Float16": "shader_float16",
    "Float64": "shader_float64",
    "Int64": "shader_int64",
    "Int16": "shader_int16",
    "Int8": "shader_int8",
    "GroupNonUniform": None,
    "GroupNonUniformVote": None,
    "GroupNonUniformArithmetic": None,
    "GroupNonUniformBallot": None,
    "GroupNonUniformShuffle": None,
    "GroupNonUniformShuffleRelative": None,
    "GroupNonUniformClustered": None,
    "GroupNonUniformQuad": None,
    "StorageBuffer16BitAccess": "storage_buffer_16bit_access",
    "StorageBuffer8BitAccess": "storage_buffer_8bit_access",
    "BFloat16TypeKHR": "shader_bfloat16_type",
    "BFloat16DotProductKHR": "shader_bfloat16_dot_product",
    "BFloat16CooperativeMatrixKHR": "shader_bfloat16_cooperative_matrix",
    "VulkanMemoryModel": "vulkan_memory_model",
    "VulkanMemoryModelDeviceScope": "vulkan_memory_model_device_scope",
    "PhysicalStorageBufferAddresses": "buffer_device_address",
    "DotProductInputAll": "shader_integer_dot_product",
    "DotProductInput4x8Bit": "shader_integer_dot_product",
    "DotProductInput4x8BitPacked": "shader_integer_dot_product",
    "DotProduct": "shader_integer_dot_product",
    "CooperativeMatrixKHR": "cooperative_matrix_khr",
}

_GATE = re.compile(r"(?P<category>[\w.]+)::(?P<key>[\w.-]+)\s*(?P<op>==|>=|in)\s*(?P<values>\d+|\[\s*\d+(?:\s*,\s*\d+)*\s*\])")


# CPU features without a query: what x86-64 has, and what every CPU with AVX2 has that was ever made.
_IMPLIED_CPU_FEATURES = frozenset(
    """cmov cx8 fxsr mmx sse sse2 x87 64bit cx16 sahf popcnt crc32 xsave bmi bmi2 lzcnt movbe evex512""".split()
)


class GateError(ValueError):
    """Text that is not a gate, or code whose demands no gate can express."""


@dataclass(frozen=True, order=True)
class Gate:
    """`category::key op values`: the device's answer equals a value, lies in a set of them, or is at least a value.

    Values are unsigned 32-bit, as the runtime's answers are read (a limit of 4294967295 is that, not -1).
    """

    category: str
    key: str
    op: str
    values: tuple[int, ...]

    @property
    def query(self) -> str:
        """The query's name as IREE writes it: `category::key`."""
        return f"{self.category}::{self.key}"

    def __str__(self) -> str:
        value = list(self.values) if self.op == "in" else self.values[0]
        return f"{self.query} {self.op} {value}"

    @staticmethod
    def parse(text: str) -> Gate:
        """A gate from `category::key == 1`, `… >= 128` or `… in [32, 64]`. Raises GateError saying what is wrong."""
        match = _GATE.fullmatch(text.strip())
        if not match:
            raise GateError(f"{text!r} is not a gate: write `category::key == value`, `… >= value` or `… in [a, b]`")
        values = tuple(sorted({int(v) for v in match["values"].strip("[]").split(",")}))
        gate = Gate(match["category"], match["key"], match["op"], values)
        if gate.op != "in" and match["values"].startswith("["):
            raise GateError(f"{text!r}: a list of values needs `in`")
        if any(v >= 2**32 for v in values):
            raise GateError(f"{text!r}: values are unsigned 32-bit")
        if gate.key not in QUERIES.get(gate.category, ()):
            raise GateError(f"IREE's runtime does not answer the query {gate.query}")
        return gate

    def holds(self, value: int) -> bool:
        """Whether an answer of `value` satisfies this gate."""
        value &= 0xFFFFFFFF
        return value >= self.values[0] if self.op == ">=" else value in self.values

    def implies(self, other: Gate) -> bool:
        """Whether every answer that satisfies this gate satisfies `other`, a gate on the same query."""
        if self.op == ">=":
            return other.op == ">=" and self.values[0] >= other.values[0]
        return all(other.holds(v) for v in self.values)


@dataclass(frozen=True)
class Facts:
    """What a HAL device answers: the executable formats it takes, and the value of each query it answers."""

    name: str
    formats: frozenset[str]
    answers: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Gated:
    """A variant as selection sees it: its name, its executable format, and gates that must all hold."""

    name: str
    format: str
    gates: tuple[Gate, ...]


@dataclass(frozen=True)
class Decision:
    """Whether a device may run a variant; if not, `reason` names the query, the value wanted and the value found."""

    variant: str
    accepted: bool
    reason: str


def _refusal(gate: Gate, facts: Facts) -> str | None:
    found = facts.answers.get(gate.query)
    if found is None:
        return f"wants {gate}, but the device does not answer {gate.query}"
    return None if gate.holds(found) else f"wants {gate}, the device has {found & 0xFFFFFFFF}"


def decide(variants: Iterable[Gated], facts: Facts) -> tuple[Decision, ...]:
    """For each variant, in order: may this device run it, and why not."""
    decisions = []
    for variant in variants:
        if variant.format not in facts.formats:
            reason = f"needs the executable format {variant.format}, which the device does not take"
        else:
            reason = "; ".join(r for gate in variant.gates if (r := _refusal(gate, facts)))
        decisions.append(Decision(variant.name, not reason, reason or "every gate holds"))
    return tuple(decisions)


def select(variants: Iterable[Gated], facts: Facts) -> str | None:
    """The variant that the device runs: the first accepted one. None: the module refuses to load there."""
    return next((d.variant for d in decide(variants, facts) if d.accepted), None)


def _satisfiable(gates: Sequence[Gate]) -> bool:
    for gate in gates:
        same = [g for g in gates if g.query == gate.query]
        if gate.op != ">=" and not any(all(g.holds(v) for g in same) for v in gate.values):
            return False
    return True


def unreachable(variants: Sequence[Gated]) -> list[str]:
    """One sentence for each variant that no device can ever run, naming the earlier variant that shadows it."""
    problems = []
    for index, variant in enumerate(variants):
        if not _satisfiable(variant.gates):
            problems.append(f"{variant.name} can never be chosen: its own gates contradict each other")
            continue
        for earlier in variants[:index]:
            if earlier.format == variant.format and all(
                any(mine.query == gate.query and mine.implies(gate) for mine in variant.gates) for gate in earlier.gates
            ):
                problems.append(
                    f"{variant.name} can never be chosen: every device that satisfies its gates satisfies those of "
                    f"{earlier.name}, which comes first"
                )
                break
    return problems


def cpu_gates(features: str) -> tuple[Gate, ...]:
    """The gates of an llvm-cpu target from its `cpu_features` (`+avx,+avx2,…`).

    Raises GateError for a feature that the runtime has no query for and that no queried one brings along.
    """
    names = [f.removeprefix("+") for f in features.split(",") if f.startswith("+")]
    if unknown := sorted(set(names) - QUERIES["hal.cpu"] - _IMPLIED_CPU_FEATURES):
        raise GateError(f"its code may use {', '.join(unknown)}, for which IREE's runtime has no query: take an x86-64 level")
    return tuple(sorted(Gate("hal.cpu", name, "==", (1,)) for name in names if name in QUERIES["hal.cpu"]))


def spirv_gates(demands: Demands, declared: Sequence[Gate]) -> tuple[Gate, ...]:
    """The gates of Vulkan code: what the code declares, and the `declared` gates of its executable target.

    A declared gate on `subgroup_size` replaces the derived one: it names devices whose default differs from the size the
    kernels require but which can be asked for it. Raises GateError where no query can guard what the code needs.
    """
    if demands.unsized_subgroup_use:
        kernels = ", ".join(demands.unsized_subgroup_use[:3])
        raise GateError(f"kernels use subgroup operations without requiring a subgroup size: {kernels}")
    unknown = sorted(demands.capabilities - _CAPABILITY_FEATURE.keys())
    if unknown:
        raise GateError(f"the SPIR-V declares {', '.join(unknown)}, for which IREE's runtime has no query")
    if len(demands.subgroup_sizes) > 1:
        raise GateError(f"kernels require different subgroup sizes: {sorted(demands.subgroup_sizes)}")
    gates = {
        Gate("vulkan.feature", feature, "==", (1,))
        for capability in demands.capabilities
        if (feature := _CAPABILITY_FEATURE[capability])
    }
    gates.add(Gate("vulkan.device", "max_compute_workgroup_invocations", ">=", (demands.invocations,)))
    for axis, size in zip("xyz", demands.local_size, strict=True):
        gates.add(Gate("vulkan.device", f"max_compute_workgroup_size_{axis}", ">=", (size,)))
    if demands.subgroup_sizes:
        gates.add(Gate("vulkan.feature", "subgroup_size_control", "==", (1,)))
        if not any(g.query == "vulkan.device::subgroup_size" for g in declared):
            gates.add(Gate("vulkan.device", "subgroup_size", "==", tuple(demands.subgroup_sizes)))
    return tuple(sorted(gates.union(declared)))

"""The protocol of a backend: everything that the rest of this program must know of one, and asks.

A backend of IREE generates code for a kind of device, which drivers of IREE's runtime run. Its module here says how it is
asked for that code, when the code may run, what is wrong with it, how it can be verified, and what people are told. Nothing
outside this package names a backend, its formats, its drivers or its queries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pipeline.iree.device import Device
from pipeline.iree.gates import Gate, Gated
from pipeline.iree.spaces import Place, Space

if TYPE_CHECKING:  # a consumer has no compiler
    from iree.compiler import ir


@dataclass(frozen=True)
class Emulation:
    """How CPUs of another architecture are played: QEMU's `program`, the CPUs that it plays, what to install for it, and the
    wheel of the runtime for that architecture: pip's `platform`, file `wheel` and its digest. `device` is the runtime's."""

    device: str
    program: str
    cpus: tuple[str, ...]
    install: str
    platform: str
    wheel: str
    sha256: str


@dataclass(frozen=True)
class Inspection:
    """What a tool that runs nothing says of code: a sentence, and whether that proves the code `wrong`."""

    said: str
    wrong: bool = False


class Corrections(Protocol):
    """Work-arounds of wrong and of slow lowerings, by IR surgery on single kernels between the compiler's phases.

    A module of the backend's package. Each function takes a `hal.executable.variant` of the backend and calls what applies.
    """

    def correct_sources(self, variant: ir.Operation) -> None:
        """At the `executable-sources` phase: before the compiler chooses how a kernel is lowered."""

    def correct_configurations(self, variant: ir.Operation, subgroup_size: int) -> None:
        """At `executable-configurations`: what the compiler chose. `subgroup_size` is what the code is made for, or 0."""

    def correct_translated(self, variant: ir.Operation) -> None:
        """At `executable-targets`: the kernels in the dialect of their back end, before they are serialized."""


class _Uncorrected:
    """Nothing is corrected."""

    def correct_sources(self, variant: ir.Operation) -> None:
        pass

    def correct_configurations(self, variant: ir.Operation, subgroup_size: int) -> None:
        pass

    def correct_translated(self, variant: ir.Operation) -> None:
        pass


class Backend:
    """A backend. What stands here is what holds for one of which nothing else is known."""

    name: ClassVar[str]
    """As specs and the compiler call it: `vulkan-spirv`."""

    formats: ClassVar[Mapping[str, str]]
    """The executable formats of its code, and what people call the devices that take them."""

    rank: ClassVar[int]
    """Its place among the backends where a module asks for a device that can run any of its code: the lowest first."""

    # Generating code

    hal_device: ClassVar[str]
    """IREE's name for the kind of device: `vulkan`, `local`, …"""

    overrides: ClassVar[frozenset[str]] = frozenset()
    """Parameters of its target attribute that a spec may set."""

    has_twins: ClassVar[bool] = False
    """Whether a software device can run code lowered the same way, with others of these parameters."""

    any_device: ClassVar[str] = ""
    """The attribute of a device that stands for all in the front half, which is the same whatever the targets are."""

    is_slow_to_generate: ClassVar[bool] = False
    """Whether the compiler takes longer for a kernel of this backend than for one of others."""

    only_chooses_tiles: ClassVar[bool] = False
    """Whether its `correct_configurations` only chooses faster tiles: then what is tuned is left as it was found."""

    takes_tuning_specs: ClassVar[bool] = False
    """Whether the compiler obeys a tuning spec of its own kind, where one is given, when it chooses how kernels are lowered."""

    warm_ups: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Formats whose gates are only answered when some executable has been loaded: flags that generate one for any device."""

    def flags(self, device: str) -> list[str]:
        """iree-compile's flags for code for `device`, which is what a spec says."""
        raise NotImplementedError

    def problem(self, attribute: str) -> str:
        """What is wrong with a target attribute that the compiler made without a complaint; empty if nothing is."""
        return ""

    def has_float64(self, attribute: str) -> bool:
        """Whether kernels may compute in float64."""
        return True

    def corrections(self) -> Corrections:
        """What is corrected in its kernels."""
        return _Uncorrected()

    def space(self, places: Sequence[Place], attribute: str, element_bytes: int, seconds: float) -> Space | None:
        """In which ways a kernel that computes in numbers of so many bytes can be lowered for a target with this attribute.

        `places` say how the compiler would, and a call of that takes so many `seconds`. None where there is nothing to choose,
        or nobody has said what.
        """
        return None

    def lean(self, attribute: str) -> str:
        """The target attribute by which kernels are serialized together, into an object file; empty if that is no way.

        `apart` takes it apart, and the toolchain's `link` makes code of that.
        """
        return ""

    def joins(self, variant: ir.Operation) -> bool:
        """Whether a translated kernel comes out the same, to the byte, whatever others are serialized with it."""
        return False

    def apart(self, data: bytes) -> Mapping[str, bytes]:
        """The object file of each kernel, by its name, in the one of several; without those that share what cannot be parted.

        Raises CompilerRefusedError where the whole file cannot be taken apart.
        """
        return {}

    # Choosing

    queries: ClassVar[Mapping[str, frozenset[str]]] = {}
    """Every query that IREE's runtime answers for its devices, by category. A gate on anything else could never hold."""

    told: ClassVar[Mapping[str, frozenset[str]]] = {}
    """Queries that the runtime does not answer, and this program does, by what a driver says of its device (`answers`).

    Gates on them hold for this program alone: to the runtime, such code is for every device that takes its format.
    """

    def answers(self, info: Mapping[str, str]) -> dict[str, int]:
        """A device's answers to `told`."""
        return {}

    def gates(self, attribute: str, codes: Sequence[bytes], declared: Sequence[Gate]) -> tuple[Gate, ...]:
        """When generated `codes` may be chosen: what they ask for, and what the spec of their target `declared`.

        Raises GateError where no query can guard what the code needs.
        """
        return tuple(sorted(declared))

    # Code as bytes

    def recognize(self, head: bytes) -> str:
        """The format of the executable that begins with `head` (64 bytes, if it has as many); empty if it is not one."""
        return ""

    def trimmed(self, code: bytes) -> bytes:
        """An executable without what nobody reads who runs it."""
        return code

    def is_whole(self, code: bytes) -> bool:
        """Whether an executable can be read at all."""
        return True

    def computes_across_subgroups(self, code: bytes) -> bool:
        """Whether the lanes of a subgroup compute together in it: such code is right for one subgroup size only."""
        return False

    def uses_matrix_cores(self, code: bytes) -> bool:
        """Whether it uses matrix cores."""
        return False

    # Devices

    driver: ClassVar[str]
    """The runtime's driver that runs its code."""

    words: ClassVar[tuple[str, ...]]
    """What people may call such a device, the shortest first."""

    is_cpu: ClassVar[bool] = False
    """Whether its code runs on the CPU itself."""

    profiled: ClassVar[str] = "dispatch-events,executable-metadata"
    """What the runtime is asked to note of its device so that each kernel's time is known; drivers that cannot say so."""

    def formats_here(self) -> list[str]:
        """The formats that devices of the driver take on this machine."""
        return list(self.formats)

    def described(self, entry: Mapping[str, Any], info: Mapping[str, str]) -> dict[str, Any]:
        """`uri`, `name`, `driver_info` and `software` of a device from what the driver says of it."""
        return {
            "uri": f"{self.driver}://{entry['path']}",
            "name": info.get("name", entry["name"]),
            "driver_info": f"{info.get('driver', '')} {info.get('driver_info', '')}".strip() or self.driver,
            "software": False,
        }

    def subgroup_size(self, device: Device) -> int:
        """Lanes of a subgroup; 0 for a device that has none, or does not tell."""
        return 0

    emulations: ClassVar[Mapping[str, Emulation]] = {}
    """Formats whose devices can be played here."""

    def inspector(self) -> str:
        """The tool on this machine that `inspect` asks; empty if there is none."""
        return ""

    def inspect(self, attribute: str, codes: Sequence[bytes], folder: Path) -> Inspection | None:
        """What a tool on this machine says of code that no device here runs; None if there is no such tool.

        Its files and logs go into `folder`.
        """
        return None

    def guises(self, device: Device) -> Sequence[Mapping[str, str]]:
        """Environments in which a software device is another: each is verified on."""
        return ()

    def same_device(self, device: Device, others: Sequence[Device]) -> list[Device]:
        """`device` in its guises, as `others` were found there. Those of which nothing can be learned are left out."""
        return [device]

    def ways(self, device: Device, cores: int) -> Sequence[Device]:
        """`device` in the other ways in which the runtime can run the same code on it, on a machine of so many cores."""
        return ()

    # What people are told

    absent: ClassVar[str] = ""
    """What to say where there is no such device: what it is, and what to install."""

    without_cpu_code: ClassVar[str] = ""
    """Of a file of plain iree-compile that holds nothing but this backend's code."""

    def line(self, device: Device) -> str:
        """A line of `vmfb devices`."""
        return f"{device.uri}: {device.title}"

    def note(self, device: Device) -> str:
        """What matters of a device where it stands in a sentence."""
        return ""

    def better(self, mine: Sequence[Gated], chosen: str) -> str:
        """What would be better than `chosen` of the variants that are for this backend; empty where nothing would."""
        return ""

    def ungated(self, codes: Sequence[bytes], device: Device) -> list[str]:
        """What may be wrong when `device` runs code of a file without gates."""
        return []

    def advice(self, found: Sequence[Device]) -> list[str]:
        """What would let this machine use this backend's code, where it has a device for it and no driver."""
        return []

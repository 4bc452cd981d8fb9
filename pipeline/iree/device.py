"""A HAL device as a value: what its driver says of it, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.iree.gates import Facts


@dataclass(frozen=True)
class Device:
    """A HAL device. `software`: a CPU does its work; `driver_info` names its driver with its version, and is empty for a CPU.

    `environment`: variables under which its driver is what it is here. `emulator`: the command that plays a CPU which is not
    here, the folder of that CPU's tools of the runtime, and the runtime's device there.
    """

    uri: str
    name: str
    driver: str
    driver_info: str
    software: bool
    facts: Facts
    environment: Mapping[str, str] = field(default_factory=dict)
    emulator: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """For people: the device and its driver."""
        if not self.driver_info:
            return f"CPU ({self.name})"
        says_it_all = self.driver_info.startswith(self.name.split(" (")[0])
        return self.driver_info if says_it_all else f"{self.name} ({self.driver_info})"

"""A HAL device as a value: what its driver says of it, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.iree.gates import Facts


@dataclass(frozen=True)
class Device:
    """A HAL device. `software`: a CPU does its work; `driver_info` names its driver with its version, and is empty for a CPU.

    `environment`: variables under which its driver is what it is here. `emulator`: the command that plays a CPU which is not
    here, the folder of that CPU's tools of the runtime, and the runtime's device there. `threads`: how many take part, 0 for as
    many as the driver takes by itself.
    """

    uri: str
    name: str
    driver: str
    driver_info: str
    software: bool
    facts: Facts
    environment: Mapping[str, str] = field(default_factory=dict)
    emulator: tuple[str, ...] = ()
    threads: int = 0

    @property
    def title(self) -> str:
        """For people: the device and its driver."""
        if self.driver_info:
            return titled(self.name, self.driver_info)
        by = f" by {self.uri}" if self.uri not in ("", self.driver) and not self.emulator else ""
        return f"CPU ({self.name}){by}" + (f" with {self.threads} threads" if self.threads else "")


def titled(name: str, driver_info: str) -> str:
    """A device and its driver, for people: what the driver says of itself, where that tells the device too."""
    says_it_all = not name or driver_info.startswith(name.split(" (")[0])
    return driver_info if says_it_all else f"{name} ({driver_info})"

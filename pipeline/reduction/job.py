"""What a search is asked and what it answers, as JSON: it runs in a process of its own, see `__main__`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.files import write
from pipeline.iree.device import Device
from pipeline.iree.gates import Facts
from pipeline.iree.targets import Target


@dataclass(frozen=True)
class Run:
    """Where a variant gave wrong numbers: the device, the file of inputs, and the target for what computes across a subgroup."""

    device: Device
    data: str
    narrow: Target | None = None


@dataclass(frozen=True)
class Job:
    """A model, as its file and spec say, and what fails: compiling it for `targets`, or what it gives in a `run`.

    Without `code` the fault lies before code is generated. `suspects` are names of nodes that the fault may be in. `whole`: of a
    run, the smallest part that gives wrong numbers is wanted, not the first value that is wrong.
    """

    source: str
    inputs: str
    targets: tuple[Target, ...]
    flags: tuple[str, ...]
    seconds: float
    code: bool = True
    suspects: tuple[str, ...] = ()
    run: Run | None = None
    whole: bool = False

    def write(self, path: Path) -> None:
        """Write as JSON."""
        data = asdict(self)
        if self.run:
            data["run"]["device"]["facts"] = None  # what is asked of a device has been answered already
        write(path, json.dumps(data).encode())

    @staticmethod
    def read(path: Path) -> Job:
        """What `write` wrote."""
        data = json.loads(path.read_text())
        run = data["run"]
        if run:
            device = Device(**run["device"] | {"facts": Facts("", frozenset(), {}), "emulator": tuple(run["device"]["emulator"])})
            run = Run(device, run["data"], Target(**run["narrow"]) if run["narrow"] else None)
        lists = {name: tuple(data[name]) for name in ("flags", "suspects")}
        return Job(**data | lists | {"targets": tuple(Target(**t) for t in data["targets"]), "run": run})


@dataclass(frozen=True)
class Found:
    """What a search found: `nodes`, for people, of `count`; `names` are theirs. `why`: the compiler's words, or what is wrong.

    `is_smallest`: nothing of it can be left out. `hides`: the fault is gone where inner values are outputs.
    """

    nodes: tuple[str, ...]
    names: tuple[str, ...]
    count: int
    why: str
    is_smallest: bool = False
    hides: bool = False

    def write(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        write(path, json.dumps(asdict(self)).encode())

    @staticmethod
    def read(path: Path) -> Found:
        """What `write` wrote. Raises OSError and ValueError if there is nothing."""
        data = json.loads(path.read_text())
        return Found(**data | {name: tuple(data[name]) for name in ("nodes", "names")})

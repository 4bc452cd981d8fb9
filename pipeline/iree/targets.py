"""Executable targets as the compiler knows them: `#hal.executable.target` attributes, and devices that hold several."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from iree.compiler import ir

from pipeline import cache, process
from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes
from pipeline.iree import attributes, backends, toolchain
from pipeline.iree.tuning import Record
from pipeline.spec.types import Executable


@dataclass(frozen=True)
class Target:
    """An executable target resolved: `attribute` is MLIR text, `tuning` what is known to be faster than the compiler's choice.

    `tuning_spec` is the MLIR text of a tuning spec that the compiler chooses by.
    """

    name: str
    backend: str
    attribute: str
    subgroup_size: int
    tuning: Record = field(default_factory=dict, compare=False, repr=False)
    tuning_spec: str = ""

    @property
    def has_float64(self) -> bool:
        """Whether kernels may compute in float64."""
        return backends.named(self.backend).has_float64(self.attribute)

    @property
    def format(self) -> str:
        """The executable format that IREE's runtime knows this target's code by."""
        return attributes.format_of(self.attribute)


def _flags(target: Executable) -> list[str]:
    return [*backends.named(target.backend).flags(target.device), *target.flags]


@functools.cache
def _from_compiler(flags: tuple[str, ...]) -> str:
    """The target attribute the compiler makes of `flags`. Raises PipelineError with the compiler's complaint."""
    key = sha256_bytes(json.dumps(["target attribute", flags, toolchain.digest()]).encode())
    return cache.local().remember(key, lambda: _ask_compiler(flags).encode()).decode()


def _unless_refused(flags: tuple[str, ...]) -> str:
    try:
        return _from_compiler(flags)
    except PipelineError:  # what it is asked for makes no sense without the flag that is left out
        return ""


def _ask_compiler(flags: tuple[str, ...]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        source, output, log = (Path(folder) / name for name in ("empty.mlir", "out.mlir", "log"))
        source.write_text("func.func @f(%a: tensor<1xf32>) -> tensor<1xf32> { return %a : tensor<1xf32> }")
        result = process.execute(
            [toolchain.tool("iree-compile"), source, "-o", output, "--compile-to=executable-sources", *flags], log
        )
        if result.returncode:
            lines = log.read_text("utf-8", "replace").splitlines()[1:]
            raise PipelineError(next((line.split("iree-compile: ")[-1] for line in lines if line.strip()), result.ending))
        line = next(line for line in output.read_text().splitlines() if "util.global private @__device_0" in line)
        return line[line.index("[") + 1 : line.rindex("]")]


def _check(attribute: str, where: str) -> None:
    with ir.Context():
        try:
            ir.Attribute.parse(attribute)
        except ir.MLIRError as error:
            what = str(error).split("error: ")[-1].splitlines()[0]
            raise PipelineError(f"attribute: {what}", where=where, hint="write values as the compiler prints them") from error


def resolve(target: Executable, lanes: int = 0) -> Target:
    """The target attribute that the compiler makes of `target`, with the spec's overrides.

    `lanes`: of its twin for subgroups of that size, which may be the target's own.

    Raises PipelineError, naming the target's file, for a device or flag that the compiler refuses or ignores.
    """
    where = str(target.path)
    try:
        attribute = _from_compiler(tuple(_flags(target)))
        for flag in target.flags:
            without = tuple(f for f in _flags(target) if f != flag)
            if _unless_refused(without) == attribute:
                raise PipelineError(f"flags: {flag} changes nothing in this target", hint="put compile flags into a bundle")
    except PipelineError as error:
        raise PipelineError(error.what, where=error.where or where, hint=error.hint or "check `device` and `flags`") from error
    twin = {**(target.twin or {}), "subgroup_size_choices": (lanes,)} if lanes else {}
    changes = {**target.attribute, **twin}
    if changes:
        attribute = attributes.override(attribute, changes)
        _check(attribute, where)
    if problem := backends.named(target.backend).problem(attribute):
        raise PipelineError(f"{target.device}: {problem}", where=where, hint="check `device` and `attribute`")
    sizes = attributes.entry(attribute, "subgroup_size_choices", "[", "]")
    return Target(
        target.name,
        target.backend,
        attribute,
        min((int(size) for size in sizes.split(",")), default=0) if sizes else 0,
        {} if lanes else target.tuning,
        target.tuning_spec,
    )


def device(targets: Sequence[Target]) -> str:
    """The HAL device attribute of a module that holds code for all `targets`, in order of preference."""
    devices = []
    for backend in backends.every():
        held = ", ".join(t.attribute for t in targets if t.backend == backend.name)
        if held:
            devices.append(f'#hal.device.target<"{backend.hal_device}", [{held}]> : !hal.device')
    return devices[0] if len(devices) == 1 else f"#hal.device.select<[{', '.join(devices)}]> : !hal.device"

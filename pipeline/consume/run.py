"""Running a file in a child process, on the best device for what it holds; checking and measuring it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline import arrays
from pipeline.arrays import Array
from pipeline.compare import Tolerance, compare
from pipeline.consume.choose import Choice, choices, refusal
from pipeline.consume.entries import asked, fitting, require_given
from pipeline.consume.inspect import Contents
from pipeline.consume.render import columns
from pipeline.errors import PipelineError, WrongError, disk_errors
from pipeline.iree import backends, devices
from pipeline.iree.device import Device
from pipeline.iree.devices import Run
from pipeline.manifest.types import TensorInfo, ToleranceInfo


def entry_of(contents: Contents, given: Sequence[Array], wanted: str = "") -> tuple[str, Sequence[TensorInfo] | None]:
    """The function of a file to call with `given`: what `wanted` means, or the only one; and what it gives, if it says.

    Raises PipelineError with the choices, and where the file says what it takes and that is something else.
    """
    if contents.identity:
        named = asked(contents.identity.entries, wanted, str(contents.path))
        require_given(named, given)
        entry = fitting(named, given)
        return entry.function, entry.outputs
    names = [e.name for e in contents.entries]
    if wanted not in names and (wanted or len(names) != 1):
        what = f"has no function {wanted}" if wanted else f"has {len(names)} functions"
        raise PipelineError(what, where=str(contents.path), hint=f"--function NAME, one of: {', '.join(names) or 'none'}")
    name = wanted or names[0]
    if not given and any(f"@{name}(" in line and f"@{name}()" not in line for line in contents.declarations):
        hint = "\n    ".join(contents.declarations)
        raise PipelineError("needs inputs: give --input for each", where=str(contents.path), hint=hint)
    return name, None


def runnable(contents: Contents, found: Sequence[Device]) -> list[Choice]:
    """The devices that run the file, the best first. Raises PipelineError if there is none, with every reason."""
    if contents.variants:
        backends.require_known(contents.variants, str(contents.path))
        all_ = choices(contents.variants, found)
    else:
        taken = [(d, next((f for f in sorted(d.facts.formats) if f in contents.formats), None)) for d in found]
        ordered = sorted(taken, key=lambda pair: (backends.is_software_gpu(pair[0]), backends.is_cpu(pair[0])))
        all_ = [Choice(device, (), format_) for device, format_ in ordered]
    return good(all_, str(contents.path))


def good(found: Sequence[Choice], where: str) -> list[Choice]:
    """Those of `found` that run something. Raises PipelineError if there is none, with every reason."""
    accepted = [c for c in found if c.variant]
    if not accepted:
        raise PipelineError(
            f"no device here may run it:\n    {refusal(found)}",
            where=where,
            hint="`vmfb explain` tells more; a target for such a device in the bundle would help",
        )
    return accepted


def require_code(contents: Contents, choice: Choice) -> None:
    """Raise PipelineError if the code that the device would run was not fetched."""
    if choice.variant and not contents.holds(choice.variant):
        raise PipelineError(
            f"holds no code for {choice.device.title}: its variant {choice.variant} is a hole, for the file was fetched for "
            "other devices",
            where=str(contents.path),
            hint=f"`vmfb fetch MODEL --device '{choice.device.uri}'` fills it, or `--full` all of them",
        )


@dataclass(frozen=True)
class Ran:
    """How a file ran on a device: outputs by position, and seconds."""

    choice: Choice
    outputs: tuple[Array, ...]
    run: Run


@contextmanager
def _inputs(given: Sequence[Array]) -> Iterator[tuple[Path, Path]]:
    with disk_errors("the folder for temporary files"), tempfile.TemporaryDirectory(prefix="vmfb-") as name:
        folder = Path(name)
        arrays.write(folder / "inputs.npz", given)
        yield folder, folder / "inputs.npz"


def run(
    contents: Contents, choice: Choice, entry: str, given: Sequence[Array], parameters: Path | None = None, seconds: float = 0
) -> Ran:
    """Run `entry` on the device, in a child; again for `seconds`, to measure. A crash or refusal is a PipelineError.

    `parameters` is the archive of weights that the file needs.
    """
    require_code(contents, choice)
    with _inputs(given) as (folder, inputs):
        ended = devices.run(contents.path, choice.device, entry, [inputs], folder, "run", parameters=parameters, seconds=seconds)
        if ended.error:
            crashed = ended.error.startswith("the process was")
            hint = "a driver or the code crashed; `vmfb explain` tells which code it was" if crashed else ""
            raise PipelineError(f"{choice.variant} on {choice.device.title}: {ended.error}", where=str(contents.path), hint=hint)
        found = tuple(arrays.read(devices.outputs(folder, "run")))
    names = [v.name for v in contents.variants]
    said = names[ended.selected] if ended.selected is not None and 0 <= ended.selected < len(names) else None
    if names and said != choice.variant:
        raise RuntimeError(f"predicted was {choice.variant}, the module ran {said}: this is a bug")
    return Ran(choice, found, ended)


def check(ran: Ran, reference: Sequence[Array], tolerances: Sequence[ToleranceInfo]) -> str:
    """A line that says how near the outputs are. Raises WrongError if any is too far from its reference."""
    where = f"{ran.choice.variant} on {ran.choice.device.title}"
    result = compare(ran.outputs, reference, [Tolerance(**asdict(t)) for t in tolerances])
    if result.problem:
        raise WrongError(
            f"its outputs are not those of the reference: {result.problem}",
            where=where,
            hint="do not use it here: report this with `vmfb explain` and `vmfb devices --json`",
        )
    return f"{where}: right, max error {result.max_abs:.1e}"


def benchmark(
    contents: Contents, found: Sequence[Choice], entry: str, given: Sequence[Array], parameters: Path | None = None
) -> tuple[list[str], int]:
    """A table of the devices: load time, and the median latency of a second's runs, from device to device.

    With it, on how many of them it ran.
    """
    ran = 0
    rows = [("device", "variant", "load", "latency", "runs")]
    for choice in found:
        device, variant = choice.device.title, choice.variant or ""
        try:
            ended = run(contents, choice, entry, given, parameters, seconds=1).run
        except PipelineError as error:
            rows.append((device, variant, "", "", error.what))
            continue
        ran += 1
        latency = f"{(ended.latency_s or 0) * 1000:.3f} ms"
        rows.append((device, variant, f"{ended.load_s * 1000:.1f} ms", latency, str(ended.rounds)))
    return columns(rows, right=(2, 3)), ran

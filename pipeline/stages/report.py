"""Report: where the seconds of a bundle's code generation and the bytes of its file go, by variant and by kernel.

`report.txt` is for people, `report.json` has everything. Nothing is compiled for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.consume.render import columns, size
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import fresh_folder, write
from pipeline.iree.file import kernels, vmfb
from pipeline.stages import record
from pipeline.stages.compiled import Compiled

REPORT = ("report.txt", "report.json")
_SHOWN = 15


@dataclass(frozen=True)
class Cost:
    """What something costs: seconds of code generation, as the machine took that did it, and bytes in the file.

    Of code that several variants share, the bytes count for the first of them, and are `shared` for the others.
    """

    seconds: float
    bytes: int
    shared: int = 0


@dataclass(frozen=True)
class KernelCost:
    """A kernel: the compiler's name for it, the nodes that it computes with their operators, its cost and that by variant."""

    name: str
    nodes: Mapping[str, Sequence[str]]
    cost: Cost
    variants: Mapping[str, Cost]


@dataclass(frozen=True)
class Report:
    """Costs of a compiled bundle: the dearest kernels first.

    `size` is of the whole file in bytes: code, `constants`, and the `host` part, which is all else. `compile_s` is how long the
    last compile took, which need not have generated anything.
    """

    size: int
    constants: int
    host: int
    compile_s: float
    cost: Cost
    variants: Mapping[str, Cost]
    kernels: tuple[KernelCost, ...]


def _sum(costs: Sequence[Cost]) -> Cost:
    return Cost(round(sum(c.seconds for c in costs), 3), sum(c.bytes for c in costs), sum(c.shared for c in costs))


def report(compiled: Path) -> Report:
    """The report of what the compile stage left in the folder `compiled`. Raises PipelineError if that is not whole."""
    record.require_intact(compiled)
    return costs(compiled)


def costs(compiled: Path) -> Report:
    """The same without a look at every byte. Raises PipelineError where it is not known what the kernels cost."""
    if not (compiled / kernels.NAME).exists():
        hint = "remove that folder, then run doit again"
        raise PipelineError("does not say what is known of its kernels", where=str(compiled), hint=hint)
    made, module = Compiled.read(compiled / "compiled.json"), vmfb.read(compiled / "module.vmfb", digests=False)
    pieces = {(p.dispatch, v.gated.name): p for v in made.variants for p in v.code}
    found = []
    for kernel in kernels.read(compiled / kernels.NAME):
        costs: dict[str, Cost] = {}
        for variant, code in kernel.code.items():
            piece = pieces[kernel.dispatch, variant]
            own = piece.length if piece.owner == variant else 0
            costs[variant] = Cost(code.seconds, own, piece.length - own)
        found.append(KernelCost(kernel.name, kernel.nodes, _sum(list(costs.values())), costs))
    total = _sum([kernel.cost for kernel in found])
    code_places = {piece.offset for piece in pieces.values()}
    constants = sum(s.length for s in module.segments if s.offset not in code_places)
    variants = {v.gated.name: _sum([kernel.variants[v.gated.name] for kernel in found]) for v in made.variants}
    dearest = sorted(found, key=lambda kernel: -max(_share(kernel.cost, total)))
    host = module.size - constants - total.bytes
    return Report(module.size, constants, host, made.seconds, total, variants, tuple(dearest))


def _share(cost: Cost, total: Cost) -> tuple[float, float]:
    """The parts of all seconds and of all bytes."""
    return cost.seconds / total.seconds if total.seconds else 0.0, cost.bytes / total.bytes if total.bytes else 0.0


def lines(name: str, found: Report) -> list[str]:
    """The report of the bundle called `name` for people."""

    def row(label: str, cost: Cost, *more: str) -> tuple[str, ...]:
        seconds, part = _share(cost, found.cost)
        return (label, f"{cost.seconds:.1f}", f"{seconds:.0%}", size(cost.bytes), f"{part:.0%}", *more)

    head = f"{name}: {size(found.size)}, of which code {size(found.cost.bytes)}, constants {size(found.constants)}"
    said = [f"{head}, the host's part {size(found.host)}"]
    variants = [("variant", "seconds", "", "code", "", "shared"), *(row(n, c, size(c.shared)) for n, c in found.variants.items())]
    shown, rest = found.kernels[:_SHOWN], found.kernels[_SHOWN:]
    rows = [("kernel", "seconds", "", "code", "", "operators"), *(row(k.name, k.cost, operators(k)) for k in shown)]
    if rest:
        rows.append(row(f"the other {len(rest)}", _sum([kernel.cost for kernel in rest]), ""))
    said += [f"  {line}" for line in columns(variants, right=(1, 2, 3, 4, 5))]
    said += [f"  {line}" for line in columns(rows, right=(1, 2, 3, 4))]
    return [
        *said,
        "  (seconds: of generating it, wherever that was; those of kernels generated together are divided by their bytes)",
    ]


def operators(kernel: KernelCost) -> str:
    """The operators that it computes, each once."""
    names = dict.fromkeys(name.rpartition(".")[2] for names in kernel.nodes.values() for name in names)
    return ", ".join(names)


def run(compiled: Path, folder: Path, name: str) -> None:
    """Report on the bundle called `name` that was compiled into the folder `compiled`: REPORT in `folder`."""
    found = report(compiled)
    with disk_errors(str(folder)), fresh_folder(folder):
        write(folder / "report.json", record.canonical(asdict(found)))
        write(folder / "report.txt", "".join(f"{line}\n" for line in lines(name, found)).encode())

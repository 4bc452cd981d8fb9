"""One MLIR module → one vmfb with a gated variant for each target: front half, pieces of code, host's part, link."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline import activity
from pipeline.cache import Cache, from_environment
from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes, write
from pipeline.iree import backends, mlir
from pipeline.iree.codegen import batches, host, lowerings
from pipeline.iree.codegen.front import FrontHalf, front_half
from pipeline.iree.codegen.pieces import Code, Dispatches, Piece
from pipeline.iree.file import choice, description, kernels, vmfb
from pipeline.iree.gates import Gate, Gated, GateError, unreachable
from pipeline.iree.linking import link, straighten, warm_up
from pipeline.iree.targets import Target
from pipeline.iree.toolchain import LINK_FLAGS, CompilerRefusedError, iree_compile, iree_opt
from pipeline.iree.tuning import Applied, Tuned, applied, kernel_of

_log = logging.getLogger(__name__)
_BYTECODE = "--emit-mlir-bytecode"
# What iree-compile runs to get from executable-targets to hal, but for the code, which is there already. It has no phase
# for that, so this is the one pass pipeline that is named here: a test compares its outcome with iree-compile's.
HOST_PASSES = "builtin.module(iree-hal-transformation-pipeline{serialize-executables=false link-executables=false})"


class UnreachableError(PipelineError):
    """A variant that no device could ever run, in this order and with these gates."""


class RefusedError(CompilerRefusedError):
    """Targets that the compiler generates no code for, with its first complaint about each."""

    def __init__(self, refused: Mapping[str, CompilerRefusedError], where: str) -> None:
        first = next(iter(refused.values()))
        super().__init__("\n".join(f"{name}: {error.what}" for name, error in refused.items()), where=where, hint=first.hint)
        self.reasons = dict(refused)


@dataclass(frozen=True)
class Counts:
    """Where the code of a module came from, in pieces, and the CPU seconds that the cached ones once took."""

    total: int
    local: int
    shared: int
    generated: int
    seconds_saved: float


@dataclass(frozen=True)
class Placed:
    """A dispatch's code in the file: the variant that owns the bytes and where they are."""

    dispatch: str
    owner: str
    segment: vmfb.Segment


@dataclass(frozen=True)
class Compiled:
    """A finished module: its variants in order of preference, and for each where the code of every dispatch is.

    `flags` are those for the front half that the model itself asked for. `tuned`: for each variant, how much of its code is
    lowered by its tuning record.
    """

    variants: tuple[Gated, ...]
    flags: tuple[str, ...]
    code: Mapping[str, tuple[Placed, ...]]
    module: vmfb.Module
    tuned: Mapping[str, Applied | None]


def _check_whole(order: Sequence[str], codes: Sequence[link.Code], where: str) -> None:
    dispatches = {code.dispatch for code in codes}
    for name in order:
        if missing := dispatches - {code.dispatch for code in codes if code.variant == name}:
            raise PipelineError(
                f"the compiler left out {name} for {len(missing)} dispatches, {sorted(missing)[0]} first", where=where
            )


def _teller(total: int, missing: int) -> Callable[[int], None]:
    """Says how far generation is: pieces there of all, those from caches, and the time that the rest may take."""
    started, done = time.monotonic(), 0

    def tell(made: int) -> None:
        nonlocal done
        done += made
        left = (time.monotonic() - started) / done * (missing - done) if done else 0
        cached = f", {total - missing} from caches" if total > missing else ""
        activity.say(f"{total - missing + done} of {total} pieces{cached}", left)

    tell(0)
    return tell


def _without_float64(dispatches: Dispatches) -> dict[str, CompilerRefusedError]:
    """The targets that have no float64, where a kernel computes in it."""
    found: dict[str, CompilerRefusedError] = {}
    for piece in dispatches.pieces.values():
        if not piece.target.has_float64 and dispatches.uses_float64(piece.symbol):
            what = f"{dispatches.name(piece.symbol)} computes in float64, which {piece.target.name} does not have"
            hint = "convert the model to float32, or leave such targets out of the bundle"
            found.setdefault(piece.target.name, CompilerRefusedError(what, hint=hint))
    return found


def _code(dispatches: Dispatches, folder: Path, cache: Cache, where: str) -> tuple[dict[str, Code], Counts]:
    """The code of all pieces, from the caches or generated. Raises RefusedError if a target's cannot be."""
    pieces = {piece.key: piece for piece in dispatches.pieces.values()}
    here, there = cache.get(pieces)
    found = here | there
    missing = [piece for key, piece in pieces.items() if key not in found]
    refused = _without_float64(dispatches)
    missing = [piece for piece in missing if piece.target.name not in refused]
    tell = _teller(len(pieces), len(missing))
    for made in batches.run(dispatches, missing, folder / "pieces", cache):
        if isinstance(made, batches.Refused):
            refused.setdefault(made.target, made.error)
        else:
            found |= made
            tell(len(made))
    if refused:
        raise RefusedError(refused, where)
    code = {key: Code.decode(data) for key, data in found.items()}
    _tell_of_passed_over(piece for piece in pieces.values() if code[piece.key].tuning not in ("", lowerings.USED))
    saved = sum(code[key].seconds for key in (*here, *there))
    return code, Counts(len(pieces), len(here), len(there), len(missing), round(saved, 1))


def _tell_of_passed_over(found: Iterable[Piece]) -> None:
    """Say of how many kernels a tuning record does not hold."""
    counts = Counter(piece.target.name for piece in found)
    for target, count in counts.items():
        entries = "1 entry" if count == 1 else f"{count} entries"
        _log.warning("%s: %s of its tuning record, made with another compiler, passed over: `doit tune` anew", target, entries)


def _tuned(dispatches: Dispatches, code: Mapping[str, Code]) -> dict[str, Applied | None]:
    """How much of each target's code is lowered by its tuning record."""
    found: dict[str, dict[str, Tuned | None]] = {}
    for (_, target), piece in dispatches.pieces.items():
        kernel, used = kernel_of(piece.symbol), code[piece.key].tuning == lowerings.USED
        found.setdefault(target, {})[kernel] = piece.target.tuning[kernel] if used else None
    return {target: applied([entry for entry in of.values() if entry], len(of)) for target, of in found.items()}


def _narrowed(dispatches: Dispatches, code: dict[str, Code], narrow: Dispatches, others: Mapping[str, Code]) -> dict[str, Code]:
    """`code`, but for kernels that compute across a subgroup: those are `narrow`'s."""
    result = dict(code)
    for place, piece in dispatches.pieces.items():
        (other,) = (p for (dispatch, _), p in narrow.pieces.items() if dispatch == place[0])
        if backends.named(piece.target.backend).computes_across_subgroups(code[piece.key].data):
            result[piece.key] = others[other.key]
    return result


def _generate(
    source: Path,
    folder: Path,
    targets: Sequence[Target],
    flags: Sequence[str],
    cache: Cache,
    narrow: Target | None,
    *,
    joined: bool = True,
) -> tuple[Path, list[link.Code], tuple[str, ...], dict[str, Applied | None]]:
    """The `hal` phase of `source` with all code: `folder/generated.mlirbc`; the code; the front's own flags; what is tuned.

    `joined`: see `host.assemble`.
    """
    activity.say("the model's part for all targets")
    front = front_half(source, folder, targets, flags, cache.local)
    paths = {name: folder / f"{name}.mlirbc" for name in ("assembled", "host", "generated")}
    with mlir.opened(front.sources) as module:
        mlir.strip_locations(module)  # the code of a kernel is the same wherever it comes from
        dispatches = Dispatches(module, targets, flags)
        if not dispatches.pieces:
            raise PipelineError("the model has no dispatch: nothing in it computes", where=str(source))
        code, counts = _code(dispatches, folder, cache, str(source))
        if narrow:
            others = Dispatches(module, [narrow], flags)
            code = _narrowed(dispatches, code, others, _code(others, folder / "narrow", cache, str(source))[0])
        host.assemble(module, targets, dispatches.pieces, code, joined=joined)
        mlir.save(module, paths["assembled"])
    kernels.save(folder / kernels.NAME, _kernels(dispatches, code, front))
    write(folder / "pieces.json", json.dumps(asdict(counts)).encode())
    activity.say("the host's part")
    iree_opt(paths["assembled"], paths["host"], HOST_PASSES, flags, folder / "host.log")
    with mlir.opened(paths["host"]) as module:
        host.insert(module, dispatches.pieces, code)
        mlir.save(module, paths["generated"])
        found = link.codes(module)
    for path in (front.sources, paths["assembled"], paths["host"]):
        path.unlink()
    return paths["generated"], found, front.flags, _tuned(dispatches, code)


def _kernels(dispatches: Dispatches, code: Mapping[str, Code], front: FrontHalf) -> list[kernels.Kernel]:
    """What is known of every kernel."""
    found: dict[str, dict[str, Piece]] = {}
    for (dispatch, target), piece in dispatches.pieces.items():
        found.setdefault(dispatch, {})[target] = piece
    result = []
    for dispatch, mine in found.items():
        made = {target: kernels.Made(piece.symbol, code[piece.key].seconds) for target, piece in mine.items()}
        name = dispatches.name(next(iter(mine.values())).symbol)
        nodes = {**front.called_for.get(name, {}), **front.nodes.get(name, {})}
        result.append(kernels.Kernel(dispatch, name, nodes, made))
    return result


def _gated(
    targets: Sequence[Target], declared: Mapping[str, Sequence[Gate]], codes: Sequence[link.Code], where: str
) -> tuple[Gated, ...]:
    variants = []
    for target in targets:
        try:
            mine = [code.data for code in codes if code.variant == target.name]
            gates = backends.named(target.backend).gates(target.attribute, mine, declared[target.name])
            variants.append(Gated(target.name, target.format, gates))
        except GateError as error:
            raise PipelineError(f"{target.name}: {error}", where=where) from error
    if problems := unreachable(backends.asked(variants)):
        hint = "put the narrower target first; where both accept the same devices, narrow one's gates or keep only one"
        if not unreachable(variants):
            hint = "IREE's runtime cannot tell their devices apart: a file holds one of them"
        raise UnreachableError("\n".join(problems), where=where, hint=hint)
    return tuple(variants)


def _read_back(
    path: Path, found: Sequence[link.Code], owners: Mapping[tuple[str, str], str], variants: Sequence[Gated]
) -> tuple[dict[str, tuple[Placed, ...]], vmfb.Module]:
    """Read the finished file and find every variant's code in it, by digest."""
    module = vmfb.read(path)
    segments = {segment.sha256: segment for segment in module.segments}
    code: dict[str, list[Placed]] = {variant.name: [] for variant in variants}
    for piece in found:
        segment = segments.get(sha256_bytes(piece.data))
        if segment is None:
            raise PipelineError(f"the code of {piece.variant} for {piece.dispatch} is not in the file", where=str(path))
        code[piece.variant].append(Placed(piece.dispatch, owners[piece.variant, piece.dispatch], segment))
    described = {d.gated.name: d.segments(module) for d in description.read(module, str(path))}
    if described != {name: {piece.segment for piece in pieces} for name, pieces in code.items()}:
        raise PipelineError("the file's own description of its variants is not what it holds", where=str(path))
    if choice.read(path, module) != choice.BY_GATES:
        raise PipelineError("the gates do not choose among its variants", where=str(path))
    return {name: tuple(pieces) for name, pieces in code.items()}, module


def compile_module(
    source: Path,
    folder: Path,
    targets: Sequence[Target],
    declared: Mapping[str, Sequence[Gate]],
    flags: Sequence[str] = (),
    cache: Cache | None = None,
    narrow: Target | None = None,
    identity: Mapping[str, object] | None = None,
    *,
    joined: bool = True,
) -> Compiled:
    """Compile the MLIR at `source` for `targets`, in order of preference: `folder/module.vmfb`, read back and checked.

    `declared` are the gates of the specs; the rest is derived from target attributes and generated code. Also leaves
    `folder/pieces.json`, the `Counts`, and `folder/kernels.json`, what is known of the kernels. Code comes from `cache` (default:
    what the environment names) where it has been generated before: the bytes of the file are the same. Kernels that compute
    across a subgroup are those of `narrow`, if that is given. `identity` is what the file says of itself, JSON values, to which
    flags are added. `joined`: one dispatch of a kernel for all targets, where it can be.
    """
    cache = cache or from_environment()
    generated, found, own, tuned = _generate(source, folder, targets, flags, cache, narrow, joined=joined)
    order = [target.name for target in targets]
    with mlir.opened(generated) as module:
        _check_whole(order, found, str(source))
        variants = _gated(targets, declared, found, str(source))
        if not straighten.straighten(module, order) and joined:
            return compile_module(source, folder, targets, declared, flags, cache, narrow, identity, joined=False)
        first = {format_: warm_up.code(format_, cache.local) for format_ in link.formats_to_warm_up(variants)}
        owners = link.link(module, variants, first)
        mlir.save(module, folder / "linked.mlirbc")
    generated.unlink()
    step = ["--compile-from=hal", "--compile-to=vm", _BYTECODE]
    iree_compile(folder / "linked.mlirbc", folder / "vm.mlirbc", step, folder / "vm.log")
    with mlir.opened(folder / "vm.mlirbc") as module:
        said = json.dumps({**identity, "flags": [*own, *flags]}, separators=(",", ":"), sort_keys=True) if identity else ""
        link.order_code(module, owners, order, said)
        mlir.save(module, folder / "ordered.mlirbc")
    iree_compile(folder / "ordered.mlirbc", folder / "module.vmfb", ["--compile-from=vm", *LINK_FLAGS], folder / "module.log")
    for name in ("linked", "vm", "ordered"):
        (folder / f"{name}.mlirbc").unlink()
    code, module_ = _read_back(folder / "module.vmfb", found, owners, variants)
    return Compiled(variants, own, code, module_, tuned)

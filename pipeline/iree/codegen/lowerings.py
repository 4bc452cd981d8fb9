"""How the compiler lowers a kernel, as it says at the `executable-configurations` phase: read, and replaced by what is faster."""

from __future__ import annotations

from collections.abc import Sequence

from iree.compiler import ir

from pipeline.iree.spaces import Place
from pipeline.iree.tuning import ATTRIBUTES, Change

USED, STALE, REFUSED = "used", "stale", "refused"  # what became of a kernel's entry in a tuning record


def configured(variant: ir.Operation) -> list[ir.Operation]:
    """The operations of a kernel that say how they are lowered, in order: functions, and what is tiled in them."""
    found: list[ir.Operation] = []

    def visit(operation: ir.Operation) -> ir.WalkResult:
        if any(name in operation.attributes for name in ATTRIBUTES):
            found.append(operation)
        return ir.WalkResult.ADVANCE

    variant.walk(visit, ir.WalkOrder.PRE_ORDER)
    return found


def places(variant: ir.Operation) -> tuple[Place, ...]:
    """What the compiler chose for a kernel."""
    found = []
    for index, operation in enumerate(configured(variant)):
        attributes = {name: str(operation.attributes[name]) for name in ATTRIBUTES if name in operation.attributes}
        found.append(Place(index, operation.name, attributes, _loops(operation)))
    return tuple(found)


def _loops(operation: ir.Operation) -> tuple[int | None, ...]:
    """The extents of a Linalg operation's loops, by the shapes that they run over."""
    if "indexing_maps" not in operation.attributes:
        return ()
    maps = [ir.AffineMapAttr(one).value for one in ir.ArrayAttr(operation.attributes["indexing_maps"])]
    found: list[int | None] = [None] * (maps[0].n_dims if maps else 0)
    for operand, map_ in zip(operation.operands, maps, strict=False):
        if not isinstance(operand.type, ir.RankedTensorType):
            continue
        for size, result in zip(operand.type.shape, map_.results, strict=True):
            if isinstance(result, ir.AffineDimExpr) and size >= 0:
                found[result.position] = size
    return tuple(found)


def apply(variant: ir.Operation, changes: Sequence[Change]) -> str:
    """Lower the kernel by `changes`: USED. Where it is not what they are for, nothing is changed: STALE."""
    places = configured(variant)
    try:
        for change in changes:
            place = places[change.index]
            if place.name != change.operation or str(place.attributes[change.attribute]) != change.before:
                return STALE
        parsed = [ir.Attribute.parse(change.after) for change in changes]
    except (IndexError, KeyError, ir.MLIRError):
        return STALE
    for change, attribute in zip(changes, parsed, strict=True):
        places[change.index].attributes[change.attribute] = attribute
    return USED

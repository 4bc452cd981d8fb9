"""IR surgery, by the compiler's MLIR bindings, that turns a module of several targets into one that chooses right.

It works on the `hal` phase, when all code exists and every variant has a condition that asks one made-up query,
`vmfb.variant::<name>`: it puts the real gates, evaluated once, in the place of those queries, exports the choice, and
lays the code out by variant.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from iree.compiler import ir
from iree.compiler.dialects import arith

from pipeline.errors import PipelineError
from pipeline.iree import backends
from pipeline.iree.file import choice
from pipeline.iree.gates import CHOICE, DESCRIPTION, IDENTITY, SELECTED, Gated
from pipeline.iree.mlir import body, operations, symbol

MARKER = "vmfb.variant"


@dataclass(frozen=True)
class Code:
    """One dispatch compiled for one variant: the bytes of a HAL executable of the given format."""

    variant: str
    dispatch: str
    format: str
    data: bytes


@dataclass(frozen=True)
class WarmUp:
    """The symbol of an executable that any device of a format loads."""

    executable: str
    binary: str
    format: str


def is_chosen(device: ir.Value, name: str) -> ir.Value:
    """Whether `name` is the chosen variant, before gates are known: a query of its name, where the insertion point is."""
    i1 = ir.IntegerType.get_signless(1)
    said = {"category": ir.StringAttr.get(MARKER), "key": ir.StringAttr.get(name), "default_value": ir.BoolAttr.get(False)}
    return ir.Operation.create("hal.device.query", [i1, i1], [device], said).results[1]


def add_condition(variant: ir.Operation, name: str) -> None:
    """Give `variant` the condition it has before its gates are known."""
    snippet = ir.Module.parse(
        """hal.executable private @e { hal.executable.variant public @v target(<"", "">) {
          hal.executable.condition(%device: !hal.device) -> i1 { %no = arith.constant false hal.return %no : i1 } } }"""
    )
    with ir.InsertionPoint.at_block_begin(body(variant)):
        block = body(operations(snippet, "hal.executable.condition")[0].clone())
    with ir.InsertionPoint(block.operations[-1]):
        block.operations[-1].operation.operands[0] = is_chosen(block.arguments[0], name)


def codes(module: ir.Module) -> list[Code]:
    """The generated code in a `hal` phase module, whose executables are dispatches and whose binaries are variants."""
    found = []
    for executable in operations(module, "hal.executable"):
        for binary in operations(executable, "hal.executable.binary"):
            data = memoryview(ir.DenseElementsAttr(binary.attributes["data"])).tobytes()
            format_ = ir.StringAttr(binary.attributes["format"]).value
            found.append(Code(symbol(binary), symbol(executable), format_, data))
    return found


def _quoted(name: str) -> str:
    """The MLIR reference to the symbol `name`, whatever is in it."""
    plain = (chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\{byte:02X}" for byte in name.encode())
    return f'@"{"".join(plain)}"'


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701  # MLIR, not HTML
    )
    environment.filters["symbol"] = _quoted
    environment.filters["i32"] = lambda value: value - 2**32 if value >= 2**31 else value
    return environment


def render(template: str, **values: Any) -> str:
    """The MLIR text that the template beside this module makes of `values`."""
    return _environment().get_template(template).render(**values)


def describe(variants: Sequence[Gated]) -> str:
    """The variants in order with their gates, as JSON: what the file itself can tell about its choice."""
    return json.dumps(
        [{"name": v.name, "format": v.format, "gates": [str(g) for g in v.gates]} for v in variants],
        separators=(",", ":"),
    )


def selection(variants: Sequence[Gated], warm_ups: Sequence[WarmUp] = ()) -> str:
    """The MLIR of the choice among `variants`."""
    asked = backends.asked(variants)
    return render(
        "selection.mlir.j2",
        variants=asked,
        formats=list(dict.fromkeys(v.format for v in variants)),
        queries=sorted({(g.category, g.key) for v in asked for g in v.gates}),
        warm_ups=warm_ups,
        choice=choice.encode(),
        choice_offset=len(choice.MAGIC),
        description=describe(variants).replace('"', "\\22"),
    )


def _owners(codes_: Sequence[Code], order: Sequence[str]) -> dict[tuple[str, str], str]:
    """(variant, dispatch) → the first variant in `order` whose code for that dispatch is the same to the byte."""
    first: dict[tuple[str, str, bytes], str] = {}
    owners = {}
    for code in sorted(codes_, key=lambda code: order.index(code.variant)):
        key = (code.dispatch, code.format, code.data)
        owners[code.variant, code.dispatch] = first.setdefault(key, code.variant)
    return owners


def _lay_out(module: ir.Module, owners: Mapping[tuple[str, str], str], order: Sequence[str]) -> None:
    """Regroup the code as one `hal.executable` a variant, in `order`; what `owners` says is shared is kept once."""
    old = operations(module, "hal.executable")
    groups: dict[str, ir.Operation] = {}
    with ir.InsertionPoint(old[0]):
        for variant in (v for v in order if v in owners.values()):
            snippet = ir.Module.parse(f'hal.executable private @"{variant}" {{ }}')
            groups[variant] = snippet.body.operations[0].operation.clone()
    for executable in old:
        dispatch = symbol(executable)
        for binary in operations(executable, "hal.executable.binary"):
            variant = symbol(binary)
            if owners[variant, dispatch] == variant:
                with ir.InsertionPoint(body(groups[variant]).operations[-1]):
                    binary.clone().attributes["sym_name"] = ir.StringAttr.get(dispatch)
    for operation, attribute in (
        ("hal.executable.create", "executable_target"),
        ("hal.executable.lookup.function", "entry_point"),
    ):
        for user in operations(module, operation):
            dispatch, variant, *rest = ir.SymbolRefAttr(user.attributes[attribute]).value
            owner = owners[variant, dispatch]
            user.attributes[attribute] = ir.SymbolRefAttr.get([owner, dispatch, *rest])
    for executable in old:
        executable.erase()


def _replace_queries(module: ir.Module, order: Sequence[str]) -> None:
    """Answer each `vmfb.variant::<name>` query by comparing the chosen index with the variant's."""
    i32 = ir.IntegerType.get_signless(32)
    for query in operations(module, "hal.device.query"):
        if ir.StringAttr(query.attributes["category"]).value != MARKER:
            continue
        index = order.index(ir.StringAttr(query.attributes["key"]).value)
        with ir.InsertionPoint(query):
            chosen = ir.Operation.create(
                "util.global.load", [i32], attributes={"global": ir.FlatSymbolRefAttr.get(f"{SELECTED}_index")}
            )
            constant = arith.ConstantOp(i32, ir.IntegerAttr.get(i32, index))
            equal = arith.CmpIOp(arith.CmpIPredicate.eq, chosen.results[0], constant.result)
        for result in query.results:
            result.replace_all_uses_with(equal.result)
        query.erase()


def _insert_selection(module: ir.Module, text: str) -> None:
    """Put the parsed selection code behind the initializer that finds the device."""
    operations = [operation.operation for operation in module.body.operations]
    position = next(i for i, o in enumerate(operations) if o.name == "util.initializer" and "@__device_0" in str(o)[-400:])
    snippet = ir.Module.parse(text)
    with ir.InsertionPoint(operations[position + 1]):
        for operation in snippet.body.operations:
            if operation.operation.name in ("util.initializer", "util.func") or symbol(operation).startswith(SELECTED):
                operation.operation.clone()


def _say_what_is_held(module: ir.Module, order: Sequence[str]) -> None:
    """Where there is no device, IREE names every attribute of every target: say only which variants there are."""
    for check in operations(module, "util.status.check_ok"):
        if "message" in check.attributes and "`__device_0` not found" in ir.StringAttr(check.attributes["message"]).value:
            text = f"there is no device that this module is for; it holds code for {', '.join(order)}"
            check.attributes["message"] = ir.StringAttr.get(text)


def append(module: ir.Module, text: str) -> None:
    """Add the functions of the MLIR `text` to the end of `module`."""
    with ir.InsertionPoint(module.body):
        for operation in ir.Module.parse(text).body.operations:
            if operation.operation.name == "util.func":
                operation.operation.clone()


def _warmed_up(variants: Sequence[Gated]) -> list[str]:
    """The formats of which something must be loaded before gates are evaluated, in order of preference."""
    found = dict.fromkeys(variant.format for variant in variants)
    return [f for f in found if (backend := backends.of_format(f)) and f in backend.warm_ups]


def formats_to_warm_up(variants: Sequence[Gated]) -> list[str]:
    """Those of them that have no variant without gates: then something else must be loaded."""
    return [f for f in _warmed_up(variants) if all(v.gates for v in variants if v.format == f)]


def _add_warm_up(module: ir.Module, format_: str, data: bytes) -> WarmUp:
    warm_up = WarmUp("warm_up", format_.replace("-", "_"), format_)
    text = f'<format = "{format_}", data = dense<"0x{data.hex()}"> : vector<{len(data)}xi8>>'
    held = operations(module, "hal.executable")
    if symbol(held[0]) != warm_up.executable:
        snippet = ir.Module.parse(f"hal.executable private @{warm_up.executable} {{ }}")
        with ir.InsertionPoint(held[0]):
            held = [snippet.body.operations[0].operation.clone()]
    snippet = ir.Module.parse(f"hal.executable private @e {{ hal.executable.binary public @{warm_up.binary} {text} }}")
    with ir.InsertionPoint(body(held[0]).operations[-1]):
        operations(snippet, "hal.executable.binary")[0].clone()
    return warm_up


def link(module: ir.Module, variants: Sequence[Gated], warm_up: Mapping[str, bytes]) -> dict[tuple[str, str], str]:
    """Finish a `hal` phase module: lay out the code, insert the choice among `variants`, export it.

    `warm_up` is code that any device loads, for each of `formats_to_warm_up`: without it the runtime cannot evaluate their
    gates in a fresh process. Returns (variant, dispatch) → the variant whose group holds that code.
    """
    order = [variant.name for variant in variants]
    found = codes(module)
    owners = _owners(found, order)
    _lay_out(module, owners, order)
    warm_ups = []
    for format_ in _warmed_up(variants):
        if format_ in warm_up:
            warm_ups.append(_add_warm_up(module, format_, warm_up[format_]))
        else:
            ungated = [v.name for v in variants if v.format == format_ and not v.gates]
            dispatch = found[0].dispatch
            warm_ups.append(WarmUp(owners[ungated[-1], dispatch], dispatch, format_))
    _insert_selection(module, selection(variants, warm_ups))
    _replace_queries(module, order)
    _say_what_is_held(module, order)
    module.operation.verify()
    return owners


def _rodata(owner: str, dispatch: str) -> str:
    """The symbol that the compiler gives the code of a variant for a dispatch in the `vm` phase."""
    return re.sub(rb"\W", b"_", f"{owner}_{dispatch}".encode()).decode()


def _stretches(numbers: Sequence[int]) -> list[list[int]]:
    """Ascending numbers as [first, count] of each unbroken run."""
    found: list[list[int]] = []
    for number in numbers:
        if found and sum(found[-1]) == number:
            found[-1][1] += 1
        else:
            found.append([number, 1])
    return found


def _is_choice(rodata: ir.Operation) -> bool:
    """Whether a `vm.rodata` is the constant that the choice looks at. A model's constants have another type."""
    value, held = rodata.attributes["value"], choice.encode()
    is_vector = isinstance(value, ir.DenseElementsAttr) and str(value.type) == f"vector<{len(held)}xi8>"
    return is_vector and memoryview(value).tobytes() == held


def _find_choice(module: ir.Module) -> str:
    """The symbol of that constant. PipelineError if the compiler has merged it with another, or left it out."""
    found = [symbol(rodata) for rodata in operations(module, "vm.rodata") if _is_choice(rodata)]
    users = [ir.FlatSymbolRefAttr(user.attributes["rodata"]).value for user in operations(module, "vm.const.ref.rodata")]
    if len(found) != 1 or users.count(found[0]) != 1:
        raise PipelineError("the compiler did not keep the constant that says which variant runs", hint="please report it")
    return found[0]


def _describe_code(module: ir.Module, held: Mapping[str, Sequence[int]], choice_number: int, identity: str) -> None:
    """Add to the file's description of each variant its `code`, stretches of segments as [first, count].

    Beside it the number of the segment that is the choice's constant, and the `identity`.
    """
    for operation in (*operations(module, "vm.func"), *operations(module, "vm.export")):
        if "iree.reflection" in operation.attributes:
            reflection = ir.DictAttr(operation.attributes["iree.reflection"])
            if DESCRIPTION in reflection:
                variants = json.loads(ir.StringAttr(reflection[DESCRIPTION]).value)
                text = json.dumps([v | {"code": _stretches(held[v["name"]])} for v in variants], separators=(",", ":"))
                said = {DESCRIPTION: text, CHOICE: str(choice_number), **({IDENTITY: identity} if identity else {})}
                strings = {key: ir.StringAttr.get(value) for key, value in said.items()}
                operation.attributes["iree.reflection"] = ir.DictAttr.get(strings)


def order_code(module: ir.Module, owners: Mapping[tuple[str, str], str], order: Sequence[str], identity: str) -> None:
    """In a `vm` phase module, put each variant's code side by side, behind all data: a device needs few stretches of a file.

    Then note in the file's own description which of its segments each variant's code is, by their place among all, which
    one the choice looks at, and the file's `identity`, if there is one to tell.
    """
    places = {_rodata(owner, dispatch): order.index(owner) for (_, dispatch), owner in owners.items()}
    (content,) = (body(m) for m in operations(module, "vm.module"))
    code = [o.operation for o in content.operations if o.operation.name == "vm.rodata" and symbol(o) in places]
    last = next(o.operation for o in reversed(list(content.operations)) if o.operation.name == "vm.rodata")
    for rodata in sorted(code, key=lambda o: places[symbol(o)])[::-1]:
        if rodata != last:
            rodata.move_after(last)
    names = (symbol(o) for o in content.operations if o.operation.name == "vm.rodata")
    numbers = {name: number for number, name in enumerate(names)}
    held: dict[str, set[int]] = {variant: set() for variant in order}
    for (variant, dispatch), owner in owners.items():
        held[variant].add(numbers[_rodata(owner, dispatch)])
    code_of = {variant: sorted(found) for variant, found in held.items()}
    _describe_code(module, code_of, numbers[_find_choice(module)], identity)

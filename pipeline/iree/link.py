"""IR surgery, by the compiler's MLIR bindings, that turns IREE's several-target modules into ones that choose right.

`align_loops` works on the `executable-sources` phase, `configure` on `executable-configurations`, before code is
generated: every variant gets a condition that asks one made-up query, `vmfb.variant::<name>`. `link` works on the `hal`
phase, when the code exists: it puts the real gates, evaluated once, in the place of those queries, exports the choice,
and lays the code out by variant.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from iree.compiler import ir
from iree.compiler.dialects import arith, iree_codegen

from pipeline.errors import PipelineError
from pipeline.iree.gates import DESCRIPTION, SELECTED, Gated

MARKER = "vmfb.variant"
BASELINE_FORMAT = "embedded-elf-x86_64"


@dataclass(frozen=True)
class Code:
    """One dispatch compiled for one variant: the bytes of a HAL executable of the given format."""

    variant: str
    dispatch: str
    format: str
    data: bytes


@contextmanager
def opened(path: Path) -> Iterator[ir.Module]:
    """The MLIR module (text or bytecode) at `path`, in a context of its own; PipelineError if it does not parse."""
    with ir.Context(), ir.Location.unknown():
        try:
            module = ir.Module.parse(path.read_bytes())
        except ir.MLIRError as error:
            raise PipelineError(f"not valid MLIR: {str(error).splitlines()[0]}", where=str(path)) from error
        yield module


def save(module: ir.Module, path: Path) -> None:
    """Write `module` as MLIR bytecode. (Callers stage the path.)"""
    with path.open("wb") as file:
        module.operation.write_bytecode(file)


def _operations(root: Any, name: str) -> list[ir.Operation]:
    found: list[ir.Operation] = []

    def visit(operation: ir.Operation) -> ir.WalkResult:
        if operation.name == name:
            found.append(operation)
        return ir.WalkResult.ADVANCE

    root.operation.walk(visit)
    return found


def _body(operation: Any) -> ir.Block:
    return operation.operation.regions[0].blocks[0]


def _symbol(operation: Any) -> str:
    return str(ir.StringAttr(operation.attributes["sym_name"]).value)


def set_targets(module: ir.Module, device: str) -> None:
    """Make `device`, an MLIR attribute, the only device that `module` is compiled for."""
    module.operation.attributes["hal.device.targets"] = ir.ArrayAttr.get([ir.Attribute.parse(device)])


def _marker(variant: ir.Operation) -> str:
    target = str(variant.attributes["target"])
    # The binding has no accessors for #hal.executable.target: its configuration is the printed form's only dictionary.
    configuration = ir.DictAttr(ir.Attribute.parse(target[target.index("{") : target.rindex("}") + 1]))
    return str(ir.StringAttr(configuration[MARKER]).value)


def _condition(name: str) -> ir.Module:
    return ir.Module.parse(
        f"""hal.executable private @e {{ hal.executable.variant public @v target(<"", "">) {{
          hal.executable.condition(%device: !hal.device) -> i1 {{
            %ok, %value = hal.device.query<%device : !hal.device> key("{MARKER}" :: "{name}") : i1, i1 = false
            hal.return %value : i1
          }} }} }}"""
    )


def _is_vulkan(variant: ir.Operation) -> bool:
    return '"vulkan-spirv"' in str(variant.attributes["target"])[:60]


def _align(generic: ir.Operation) -> None:
    maps = [ir.AffineMapAttr(m).value for m in ir.ArrayAttr(generic.attributes["indexing_maps"])]
    if not maps[-1].is_projected_permutation:
        return
    written = [ir.AffineDimExpr(e).position for e in maps[-1].results]
    order = written + [d for d in range(maps[-1].n_dims) if d not in written]
    if order == sorted(order):
        return
    position = ir.AffineMap.get_permutation([order.index(d) for d in range(len(order))])
    generic.attributes["indexing_maps"] = ir.ArrayAttr.get(
        [ir.AffineMapAttr.get(ir.AffineMap.get(len(order), 0, [e.compose(position) for e in m.results])) for m in maps]
    )
    kinds = list(ir.ArrayAttr(generic.attributes["iterator_types"]))
    generic.attributes["iterator_types"] = ir.ArrayAttr.get([kinds[d] for d in order])
    i64 = ir.IntegerType.get_signless(64)
    for index in _operations(generic, "linalg.index"):
        old = ir.IntegerAttr(index.attributes["dim"]).value
        index.attributes["dim"] = ir.IntegerAttr.get(i64, order.index(old))


def align_loops(module: ir.Module) -> None:
    """Order the loops of every reduction in Vulkan code as its output is laid out. (Loop order changes no result.)

    IREE 3.13 gives each fused operation its threads in the order of its own loops: where a convolution that loops
    (h, w, c) feeds an operation that loops (c, h, w), one thread reads from work-group memory what another wrote, with no
    barrier between them. Measured: PP-OCR's classifier was wrong on every device narrower than a work group.
    """
    for variant in _operations(module, "hal.executable.variant"):
        if _is_vulkan(variant):
            for generic in _operations(variant, "linalg.generic"):
                if "reduction" in str(generic.attributes["iterator_types"]):
                    _align(generic)


def _stores_unaligned(function: ir.Operation) -> bool:
    for kind in ("store", "load"):
        for access in _operations(function, f"iree_tensor_ext.dispatch.tensor.{kind}"):
            offsets = list(ir.DenseI64ArrayAttr(access.attributes["static_offsets"]))
            if offsets and (offsets[-1] < 0 or offsets[-1] % 4):  # a negative one is only known when the model runs
                return True
    return False


def _scalar_tiles(root: ir.Operation) -> tuple[str, int]:
    """A lowering configuration that gives every thread one element of `root`'s output, and the threads of a work group."""
    written = ir.AffineMapAttr(list(ir.ArrayAttr(root.attributes["indexing_maps"]))[-1]).value
    shape = ir.RankedTensorType(root.operands[len(root.operands) - 1].type).shape
    threads = math.gcd(shape[-1], 32) if shape[-1] > 0 else 1
    parallel, loops = len(written.results), written.n_dims
    tiles = [[1] * (parallel - 1) + [threads], [1] * parallel, [0] * parallel + [1] * (loops - parallel)]
    return f"#iree_codegen.lowering_config<tile_sizes = {tiles}>", threads


def _make_scalar(function: ir.Operation) -> None:
    """Take vectors out of a kernel: one element a thread, loads and stores of single elements."""
    info = iree_codegen.TranslationInfoAttr(function.attributes["translation_info"])
    roots = [g for g in _operations(function, "linalg.generic") if "lowering_config" in g.attributes]
    reducing = [g for g in roots if "reduction" in str(g.attributes["iterator_types"])]
    size, configuration = info.workgroup_size, info.configuration
    if "BaseVectorize" not in str(info.pass_pipeline):
        if len(reducing) != 1 or not ir.RankedTensorType(reducing[0].results[0].type).rank:
            return
        tiles, threads = _scalar_tiles(reducing[0])
        for root in roots:
            del root.attributes["lowering_config"]
        reducing[0].attributes["lowering_config"] = ir.Attribute.parse(tiles)
        size, configuration = [threads, 1, 1], None
    function.attributes["translation_info"] = iree_codegen.TranslationInfoAttr.get(
        ir.Attribute.parse("#iree_gpu.spirv_pipeline<BaseDistribute>"), info.codegen_spec, size, 0, configuration
    )


def _configure_kernel(function: ir.Operation, subgroup_size: int) -> None:
    """Correct what the compiler chose for one kernel of Vulkan code.

    Kernels that reduce across a subgroup must ask for the size they were generated for: the compiler does not. Kernels
    that access a tensor at an innermost offset that is no multiple of the vector width must not use vectors: IREE 3.13
    divides the offset by the width and loses the rest (measured: a padded convolution's output moved by one column).
    """
    if "translation_info" not in function.attributes:
        return
    info = iree_codegen.TranslationInfoAttr(function.attributes["translation_info"])
    if "SubgroupReduce" in str(info.pass_pipeline) and not info.subgroup_size:
        function.attributes["translation_info"] = iree_codegen.TranslationInfoAttr.get(
            info.pass_pipeline, info.codegen_spec, info.workgroup_size, subgroup_size, info.configuration
        )
    elif "Vectorize" in str(info.pass_pipeline) and _stores_unaligned(function):
        _make_scalar(function)


def configure(module: ir.Module, subgroup_sizes: Mapping[str, int]) -> dict[tuple[str, str], str]:
    """Gate every variant on the query `vmfb.variant::<name>`; `subgroup_sizes[name]` is what Vulkan kernels assume.

    Returns (executable symbol, variant symbol) → variant name, which later phases of the compiler no longer hold.
    """
    names: dict[tuple[str, str], str] = {}
    for executable in _operations(module, "hal.executable"):
        for variant in _operations(executable, "hal.executable.variant"):
            name = _marker(variant)
            names[_symbol(executable), _symbol(variant)] = name
            snippet = _condition(name)
            condition = _body(_body(_body(snippet).operations[0]).operations[0]).operations[0]
            with ir.InsertionPoint.at_block_begin(_body(variant)):
                condition.operation.clone()
            if _is_vulkan(variant):
                for function in _operations(variant, "func.func"):
                    _configure_kernel(function, subgroup_sizes[name])
    return names


def codes(module: ir.Module, names: Mapping[tuple[str, str], str]) -> list[Code]:
    """The generated code in a `hal` phase module, `names` as `configure` returned them."""
    found = []
    for executable in _operations(module, "hal.executable"):
        for binary in _operations(executable, "hal.executable.binary"):
            data = memoryview(ir.DenseElementsAttr(binary.attributes["data"])).tobytes()
            name = names[_symbol(executable), _symbol(binary)]
            found.append(Code(name, _symbol(executable), ir.StringAttr(binary.attributes["format"]).value, data))
    return found


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701  # MLIR, not HTML
    )
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


def selection(variants: Sequence[Gated], warm_up: tuple[str, str] | None = None) -> str:
    """The MLIR of the choice among `variants`; `warm_up` is the symbol of an executable that any x86-64 CPU can run."""
    return render(
        "selection.mlir.j2",
        variants=variants,
        formats=list(dict.fromkeys(v.format for v in variants)),
        queries=sorted({(g.category, g.key) for v in variants for g in v.gates}),
        warm_up=(*warm_up, BASELINE_FORMAT) if warm_up else None,
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


def _lay_out(
    module: ir.Module, names: Mapping[tuple[str, str], str], owners: Mapping[tuple[str, str], str], order: Sequence[str]
) -> None:
    """Regroup the code as one `hal.executable` a variant, in `order`; what `owners` says is shared is kept once."""
    old = _operations(module, "hal.executable")
    groups: dict[str, ir.Operation] = {}
    with ir.InsertionPoint(old[0]):
        for variant in (v for v in order if v in owners.values()):
            snippet = ir.Module.parse(f'hal.executable private @"{variant}" {{ }}')
            groups[variant] = snippet.body.operations[0].operation.clone()
    for executable in old:
        dispatch = _symbol(executable)
        for binary in _operations(executable, "hal.executable.binary"):
            variant = names[dispatch, _symbol(binary)]
            if owners[variant, dispatch] == variant:
                with ir.InsertionPoint(_body(groups[variant]).operations[-1]):
                    binary.clone().attributes["sym_name"] = ir.StringAttr.get(dispatch)
    for operation, attribute in (
        ("hal.executable.create", "executable_target"),
        ("hal.executable.lookup.function", "entry_point"),
    ):
        for user in _operations(module, operation):
            dispatch, variant_symbol, *rest = ir.SymbolRefAttr(user.attributes[attribute]).value
            owner = owners[names[dispatch, variant_symbol], dispatch]
            user.attributes[attribute] = ir.SymbolRefAttr.get([owner, dispatch, *rest])
    for executable in old:
        executable.erase()


def _replace_queries(module: ir.Module, order: Sequence[str]) -> None:
    """Answer each `vmfb.variant::<name>` query by comparing the chosen index with the variant's."""
    i32 = ir.IntegerType.get_signless(32)
    for query in _operations(module, "hal.device.query"):
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
            if operation.operation.name in ("util.initializer", "util.func") or _symbol(operation).startswith(SELECTED):
                operation.operation.clone()


def append(module: ir.Module, text: str) -> None:
    """Add the functions of the MLIR `text` to the end of `module`."""
    with ir.InsertionPoint(module.body):
        for operation in ir.Module.parse(text).body.operations:
            if operation.operation.name == "util.func":
                operation.operation.clone()


def link(module: ir.Module, names: Mapping[tuple[str, str], str], variants: Sequence[Gated]) -> dict[tuple[str, str], str]:
    """Finish a `hal` phase module: lay out the code, insert the choice among `variants`, export it.

    Returns (variant, dispatch) → the variant whose group holds that code. Raises PipelineError where CPU variants have no
    ungated baseline, without which the runtime cannot evaluate their gates in a fresh process.
    """
    order = [variant.name for variant in variants]
    found = codes(module, names)
    owners = _owners(found, order)
    _lay_out(module, names, owners, order)
    cpu = [variant for variant in variants if variant.format == BASELINE_FORMAT]
    if cpu and cpu[-1].gates:
        raise PipelineError(
            f"the last CPU variant, {cpu[-1].name}, has gates, so nothing can run before they are evaluated",
            hint="end the bundle's CPU targets with the baseline x86-64",
        )
    warm_up = (owners[cpu[-1].name, found[0].dispatch], found[0].dispatch) if cpu else None
    _insert_selection(module, selection(variants, warm_up))
    _replace_queries(module, order)
    module.operation.verify()
    return owners


def _rodata(owner: str, dispatch: str) -> str:
    """The symbol that the compiler gives the code of a variant for a dispatch in the `vm` phase."""
    return re.sub(r"\W", "_", f"{owner}_{dispatch}")


def _stretches(numbers: Sequence[int]) -> list[list[int]]:
    """Ascending numbers as [first, count] of each unbroken run."""
    found: list[list[int]] = []
    for number in numbers:
        if found and sum(found[-1]) == number:
            found[-1][1] += 1
        else:
            found.append([number, 1])
    return found


def _describe_code(module: ir.Module, held: Mapping[str, Sequence[int]]) -> None:
    """Add to the file's description of each variant its `code`: stretches of segments as [first, count]."""
    for operation in (*_operations(module, "vm.func"), *_operations(module, "vm.export")):
        if "iree.reflection" in operation.attributes:
            reflection = ir.DictAttr(operation.attributes["iree.reflection"])
            if DESCRIPTION in reflection:
                variants = json.loads(ir.StringAttr(reflection[DESCRIPTION]).value)
                text = json.dumps([v | {"code": _stretches(held[v["name"]])} for v in variants], separators=(",", ":"))
                operation.attributes["iree.reflection"] = ir.DictAttr.get({DESCRIPTION: ir.StringAttr.get(text)})


def order_code(module: ir.Module, owners: Mapping[tuple[str, str], str], order: Sequence[str]) -> None:
    """In a `vm` phase module, put each variant's code side by side, behind all data: a device needs few stretches of a file.

    Then note in the file's own description which of its segments each variant's code is, by their place among all.
    """
    places = {_rodata(owner, dispatch): order.index(owner) for (_, dispatch), owner in owners.items()}
    (body,) = (_body(m) for m in _operations(module, "vm.module"))
    code = [o.operation for o in body.operations if o.operation.name == "vm.rodata" and _symbol(o) in places]
    last = next(o.operation for o in reversed(list(body.operations)) if o.operation.name == "vm.rodata")
    for rodata in sorted(code, key=lambda o: places[_symbol(o)])[::-1]:
        if rodata != last:
            rodata.move_after(last)
    symbols = (_symbol(o) for o in body.operations if o.operation.name == "vm.rodata")
    numbers = {symbol: number for number, symbol in enumerate(symbols)}
    held: dict[str, set[int]] = {variant: set() for variant in order}
    for (variant, dispatch), owner in owners.items():
        held[variant].add(numbers[_rodata(owner, dispatch)])
    _describe_code(module, {variant: sorted(found) for variant, found in held.items()})


def force(module: ir.Module, index: int) -> None:
    """Make a linked module choose variant `index` without asking the device: for verifying one variant's very bytes."""
    for store in _operations(module, "util.global.store"):
        if ir.FlatSymbolRefAttr(store.attributes["global"]).value == f"{SELECTED}_index":
            i32 = ir.IntegerType.get_signless(32)
            with ir.InsertionPoint(store):
                store.operands[0] = arith.ConstantOp(i32, ir.IntegerAttr.get(i32, index)).result

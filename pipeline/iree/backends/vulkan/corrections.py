"""Corrections of Vulkan code: what IREE 3.13 gets wrong for GPUs, each with what was measured."""

from __future__ import annotations

import math

from iree.compiler import ir, passmanager
from iree.compiler.dialects import iree_codegen

from pipeline.iree.backends.vulkan import barriers
from pipeline.iree.mlir import body, operations


def correct_sources(variant: ir.Operation) -> None:
    """At the `executable-sources` phase: what is fused, and the order of loops."""
    fuse_producers(variant)
    align_loops(variant)
    convert_through_float(variant)


def correct_configurations(variant: ir.Operation, subgroup_size: int) -> None:
    """At `executable-configurations`: subgroup sizes and vectors."""
    for function in operations(variant, "func.func"):
        configure_kernel(function, subgroup_size)


def correct_translated(variant: ir.Operation) -> None:
    """At `executable-targets`: barriers."""
    barriers.leave_out_idle_threads(variant)
    barriers.synchronize(variant)


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
    for index in operations(generic, "linalg.index"):
        old = ir.IntegerAttr(index.attributes["dim"]).value
        index.attributes["dim"] = ir.IntegerAttr.get(i64, order.index(old))


def align_loops(variant: ir.Operation) -> None:
    """Order the loops of every reduction as its output is laid out. (Loop order changes no result.)

    IREE 3.13 gives each fused operation its threads in the order of its own loops: where a convolution that loops
    (h, w, c) feeds an operation that loops (c, h, w), one thread reads from work-group memory what another wrote, with no
    barrier between them. Measured: PP-OCR's classifier was wrong on every device narrower than a work group.
    """
    for generic in operations(variant, "linalg.generic"):
        if "reduction" in str(generic.attributes["iterator_types"]):
            _align(generic)


def convert_through_float(variant: ir.Operation) -> None:
    """Convert float16 to 64-bit integers by way of float32.

    IREE 3.13 takes the two halves of such an integer apart with the number 2**32, which float16 does not have. Measured:
    0.5 became 4294967295, and so did every other number that is not negative.
    """
    f32 = ir.F32Type.get()
    for name in ("arith.fptosi", "arith.fptoui"):
        for conversion in operations(variant, name):
            if isinstance(conversion.operands[0].type, ir.F16Type) and ir.IntegerType(conversion.result.type).width == 64:
                with ir.InsertionPoint(conversion):
                    conversion.operands[0] = ir.Operation.create("arith.extf", [f32], [conversion.operands[0]]).result


_FUSE = "builtin.module(func.func(linalg-generalize-named-ops,linalg-fuse-elementwise-ops,canonicalize,cse))"
_NOT_REDUCING = tuple(f"linalg.{name}" for name in ("fill", "index", "yield", "transpose", "broadcast", "copy", "map"))


def _reduces(operation: ir.Operation) -> bool:
    if operation.name == "linalg.generic":
        return "reduction" in str(operation.attributes["iterator_types"])
    return operation.name.startswith("linalg.") and operation.name not in _NOT_REDUCING


def _feeds_reduction(generic: ir.Operation) -> bool:
    """Whether `generic` computes single elements that nothing but a reduction reads, as one of its inputs."""
    if _reduces(generic) or len(generic.results) != 1:
        return False
    (use, *more) = [*generic.results[0].uses] or [None]
    return use is not None and not more and _reduces(use.owner.operation)


def fuse_producers(variant: ir.Operation) -> None:
    """Make what computes the elements of a reduction's input, and nothing else reads, a part of the reduction.

    IREE 3.13 computes a cast, a dequantization, a zero point's subtraction or a gather in front of a product, a
    convolution or a pooling as a tile in work-group memory, for which it puts no barrier. Measured: on every Vulkan
    device products of weights in int8 were wrong by a factor of up to 1e28, and an inner size of 771 asked for 49344
    bytes of that memory, which no device with 32 KiB has. Kernels without such an operation stay as they are.
    """
    for module in operations(variant, "builtin.module"):
        if any(map(_feeds_reduction, operations(module, "linalg.generic"))):
            passmanager.PassManager.parse(_FUSE).run(module)


def _stores_unaligned(function: ir.Operation) -> bool:
    for kind in ("store", "load"):
        for access in operations(function, f"iree_tensor_ext.dispatch.tensor.{kind}"):
            offsets = list(ir.DenseI64ArrayAttr(access.attributes["static_offsets"]))
            if offsets and (offsets[-1] < 0 or offsets[-1] % 4):  # a negative one is only known when the model runs
                return True
    return False


def _variant(operation: ir.Operation) -> ir.Operation:
    while operation.name != "hal.executable.variant":
        operation = operation.parent
    return operation


def _emulates_i64(function: ir.Operation) -> bool:
    """Whether the kernel computes on 64-bit integers, element by element, for a device that has none."""
    if "int64" in str(_variant(function).attributes["target"]):
        return False
    i64 = ir.IntegerType.get_signless(64)
    blocks = [body(generic) for generic in operations(function, "linalg.generic")]
    return any(v.type == i64 for b in blocks for v in (*b.arguments, *(r for o in b.operations for r in o.operation.results)))


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
    roots = [g for g in operations(function, "linalg.generic") if "lowering_config" in g.attributes]
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


def configure_kernel(function: ir.Operation, subgroup_size: int) -> None:
    """Correct what the compiler chose for one kernel; `subgroup_size` is what the code is made for.

    Kernels that reduce across a subgroup must ask for the size they were generated for: the compiler does not. Kernels
    that access a tensor at an innermost offset that is no multiple of the vector width must not use vectors: IREE 3.13
    divides the offset by the width and loses the rest (measured: a padded convolution's output moved by one column). Nor may
    those that compute on 64-bit integers where they are emulated: IREE fails at vectors of one of them (measured: a Cast of 64
    float32 numbers to int64 did not compile, nor did an addition of 64 int64 numbers; of 32 both did).
    """
    if "translation_info" not in function.attributes:
        return
    info = iree_codegen.TranslationInfoAttr(function.attributes["translation_info"])
    if "SubgroupReduce" in str(info.pass_pipeline) and not info.subgroup_size:
        function.attributes["translation_info"] = iree_codegen.TranslationInfoAttr.get(
            info.pass_pipeline, info.codegen_spec, info.workgroup_size, subgroup_size, info.configuration
        )
    elif "Vectorize" in str(info.pass_pipeline) and (_stores_unaligned(function) or _emulates_i64(function)):
        _make_scalar(function)

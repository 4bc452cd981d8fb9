"""Work-arounds of wrong and of slow lowerings in IREE 3.13, by IR surgery around the choice of how each kernel is lowered.

`align_loops` works on the `executable-sources` phase, `correct_variant` on `executable-configurations`, before code is
generated. This file's digest is a part of every piece's key: a change here generates all code again.
"""

from __future__ import annotations

import math
import re

from iree.compiler import ir
from iree.compiler.dialects import iree_codegen

from pipeline.iree.mlir import operations

# What IREE chooses for a matrix product of float32 on AVX-512 whose width is a multiple of 32.
_COLUMNS = 32
_MATRIX_PRODUCTS = ("linalg.matmul", "linalg.batch_matmul")


def _is_vulkan(variant: ir.Operation) -> bool:
    return '"vulkan-spirv"' in str(variant.attributes["target"])[:60]


def _has_avx512(variant: ir.Operation) -> bool:
    return '"llvm-cpu"' in str(variant.attributes["target"])[:60] and "+avx512f" in str(variant.attributes["target"])


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


def align_loops(module: ir.Module) -> None:
    """Order the loops of every reduction in Vulkan code as its output is laid out. (Loop order changes no result.)

    IREE 3.13 gives each fused operation its threads in the order of its own loops: where a convolution that loops
    (h, w, c) feeds an operation that loops (c, h, w), one thread reads from work-group memory what another wrote, with no
    barrier between them. Measured: PP-OCR's classifier was wrong on every device narrower than a work group.
    """
    for variant in operations(module, "hal.executable.variant"):
        if _is_vulkan(variant):
            for generic in operations(variant, "linalg.generic"):
                if "reduction" in str(generic.attributes["iterator_types"]):
                    _align(generic)


def _stores_unaligned(function: ir.Operation) -> bool:
    for kind in ("store", "load"):
        for access in operations(function, f"iree_tensor_ext.dispatch.tensor.{kind}"):
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


def _tiles(operation: ir.Operation) -> dict[str, list[int]]:
    """The tile sizes of an operation of CPU code, by level of tiling; nothing where its configuration holds more."""
    text = str(operation.attributes["lowering_config"]) if "lowering_config" in operation.attributes else ""
    levels = re.findall(r"(\w+) = \[([\d, ]*)\]", text)
    tiles = {name: [int(size) for size in sizes.split(",") if size] for name, sizes in levels}
    return tiles if _lowering_config(tiles) == text else {}


def _lowering_config(tiles: dict[str, list[int]]) -> str:
    return f"#iree_cpu.lowering_config<{', '.join(f'{name} = {sizes}' for name, sizes in tiles.items())}>"


def _is_plain(product: ir.Operation) -> bool:
    """Whether `product` is one of float32 matrices of known shapes as they lie in memory, wide enough for whole vectors."""
    types = [ir.RankedTensorType(operand.type) for operand in product.operands]
    maps = [ir.AffineMapAttr(m).value for m in ir.ArrayAttr(product.attributes["indexing_maps"])]
    columns = f"d{maps[1].n_dims - 2}"
    return (
        all(t.has_static_shape and isinstance(t.element_type, ir.F32Type) for t in types)
        and str(maps[1].results[-1]) == columns
        and types[-1].shape[-1] >= _COLUMNS
    )


def _widen_product(function: ir.Operation) -> None:
    """Compute a matrix product in whole vectors although its width is no multiple of them: the last ones are masked.

    IREE 3.13 chooses a power of two that divides the width. Measured on AVX-512: a product of 512x1280 and 1280x508, four
    columns at a time, ran at a quarter of the speed that it has in 32.
    """
    products = [o for name in _MATRIX_PRODUCTS for o in operations(function, name)]
    if len(products) != 1 or not _is_plain(products[0]):
        return
    tiles = _tiles(products[0])
    old = tiles.get("vector_common_parallel", [])
    if len(old) < 3 or old[-1] or old[-2] >= _COLUMNS // 2 or "vector_reduction" not in tiles:
        return
    configured = [o for o in _configured(function) if o != products[0]]
    parallel = old[:-1]
    # What is fused with the product is tiled as its result is: other tiles would not fit.
    if any(_tiles(other) != {"vector_common_parallel": parallel} or _transposes(other) for other in configured):
        return
    wide = [*parallel[:-1], _COLUMNS]
    for other in configured:
        other.attributes["lowering_config"] = ir.Attribute.parse(_lowering_config({"vector_common_parallel": wide}))
    tiles |= {"vector_common_parallel": [*wide, 0], "vector_reduction": [0] * len(wide) + [1]}
    products[0].attributes["lowering_config"] = ir.Attribute.parse(_lowering_config(tiles))


def _transposes(operation: ir.Operation) -> bool:
    maps = ir.ArrayAttr(operation.attributes["indexing_maps"]) if "indexing_maps" in operation.attributes else []
    values = [ir.AffineMapAttr(m).value for m in maps]
    return any(len(v.results) == v.n_dims and v != ir.AffineMap.get_identity(v.n_dims) for v in values)


def _configured(function: ir.Operation) -> list[ir.Operation]:
    found: list[ir.Operation] = []

    def visit(operation: ir.Operation) -> ir.WalkResult:
        if "lowering_config" in operation.attributes:
            found.append(operation)
        return ir.WalkResult.ADVANCE

    function.walk(visit)
    return found


def correct_variant(variant: ir.Operation, subgroup_size: int) -> None:
    """Correct what the compiler chose for the kernels of a variant; `subgroup_size` is what Vulkan code is made for."""
    for function in operations(variant, "func.func"):
        if _is_vulkan(variant):
            _configure_kernel(function, subgroup_size)
        elif _has_avx512(variant):
            _widen_product(function)

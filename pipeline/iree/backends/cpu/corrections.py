"""Corrections of CPU code, each with what was measured."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from iree.compiler import ir

from pipeline.iree.backends.cpu import halves, tiles
from pipeline.iree.mlir import operations

# What IREE chooses for a matrix product of float32 on AVX-512 whose width is a multiple of 32.
_COLUMNS = 32
_STEPS = 8  # of the sums of a product of float16: so many values of a row are converted at a time
Choose = Callable[[tiles.Shape, int, int], tiles.Tiles | None]
_MATRIX_PRODUCTS = ("linalg.matmul", "linalg.batch_matmul")


def _has_avx512(variant: ir.Operation) -> bool:
    return "+avx512f" in str(variant.attributes["target"])


def _has_avx2(variant: ir.Operation) -> bool:
    """Whether it is code for AVX2 with FMA, and for no wider vectors."""
    target = str(variant.attributes["target"])
    return "+avx2" in target and "+fma" in target and "+avx512f" not in target


def _vector_bytes(variant: ir.Operation) -> int:
    found = re.search(r"native_vector_size = (\d+)", str(variant.attributes["target"]))
    return int(found[1]) if found else 0


def _is_arm64(variant: ir.Operation) -> bool:
    return 'target_triple = "aarch64-' in str(variant.attributes["target"])


def _is_x86(variant: ir.Operation) -> bool:
    return 'target_triple = "x86_64-' in str(variant.attributes["target"])


def _converts_halves(variant: ir.Operation) -> bool:
    """Whether the CPU has instructions that convert float16. (Every CPU with AVX-512 has.)"""
    target = str(variant.attributes["target"])
    return "+f16c" in target or "+avx512f" in target


def correct_sources(variant: ir.Operation) -> None:
    """At the `executable-sources` phase: nothing."""


def correct_configurations(variant: ir.Operation, subgroup_size: int) -> None:
    """At `executable-configurations`: the tiles of products."""
    lanes = _vector_bytes(variant) // 4
    for function in operations(variant, "func.func"):
        if lanes > 1 and (_is_x86(variant) or _is_arm64(variant)):
            choose = tiles.of_32 if _has_avx512(variant) else tiles.of_16 if _has_avx2(variant) else tiles.of_few_rows
            fill_registers(function, lanes, choose)
            if choose is not tiles.of_few_rows and _converts_halves(variant):
                fill_registers(function, lanes, choose, ir.F16Type)
        if _has_avx512(variant):
            widen_product(function)


def correct_translated(variant: ir.Operation) -> None:
    """At `executable-targets`: conversions."""
    if _is_x86(variant):
        convert_through_i32(variant)
        if (_has_avx2(variant) or _has_avx512(variant)) and _converts_halves(variant):
            halves.broadcast_from_memory(variant)
        halves.make_exact(variant, _converts_halves(variant))


def _tiles(operation: ir.Operation) -> dict[str, list[int]]:
    """The tile sizes of an operation of CPU code, by level of tiling; nothing where its configuration holds more."""
    text = str(operation.attributes["lowering_config"]) if "lowering_config" in operation.attributes else ""
    levels = re.findall(r"(\w+) = \[([\d, ]*)\]", text)
    found = {name: [int(size) for size in sizes.split(",") if size] for name, sizes in levels}
    return found if _lowering_config(found) == text else {}


def _lowering_config(sizes: dict[str, list[int]]) -> str:
    return f"#iree_cpu.lowering_config<{', '.join(f'{name} = {size}' for name, size in sizes.items())}>"


def _is_plain(product: ir.Operation, element: type[ir.Type] = ir.F32Type) -> bool:
    """Whether `product` is one of matrices of `element`, summed up in float32, of known shapes as they lie in memory, wide enough
    for whole vectors."""
    types = [ir.RankedTensorType(operand.type) for operand in product.operands]
    maps = [ir.AffineMapAttr(m).value for m in ir.ArrayAttr(product.attributes["indexing_maps"])]
    columns = f"d{maps[1].n_dims - 2}"
    return (
        all(
            t.has_static_shape and isinstance(t.element_type, e)
            for t, e in zip(types, (element, element, ir.F32Type), strict=True)
        )
        and str(maps[1].results[-1]) == columns
        and types[-1].shape[-1] >= _COLUMNS
    )


def widen_product(function: ir.Operation) -> None:
    """Compute a matrix product in whole vectors although its width is no multiple of them: the last ones are masked.

    IREE 3.13 chooses a power of two that divides the width. Measured on AVX-512: a product of 512x1280 and 1280x508, four
    columns at a time, ran at a quarter of the speed that it has in 32.
    """
    products = [o for name in _MATRIX_PRODUCTS for o in operations(function, name)]
    if len(products) != 1 or not _is_plain(products[0]):
        return
    sizes = _tiles(products[0])
    old = sizes.get("vector_common_parallel", [])
    if len(old) < 3 or old[-1] or old[-2] > _COLUMNS // 4 or "vector_reduction" not in sizes:
        return
    configured = [o for o in _configured(function) if o != products[0]]
    parallel = old[:-1]
    # What is fused with the product is tiled as its result is: other tiles would not fit.
    if any(_tiles(other) != {"vector_common_parallel": parallel} or _transposes(other) for other in configured):
        return
    wide = [*parallel[:-1], _COLUMNS]
    for other in configured:
        other.attributes["lowering_config"] = ir.Attribute.parse(_lowering_config({"vector_common_parallel": wide}))
    sizes |= {"vector_common_parallel": [*wide, 0], "vector_reduction": [0] * len(wide) + [1]}
    products[0].attributes["lowering_config"] = ir.Attribute.parse(_lowering_config(sizes))


def fill_registers(function: ir.Operation, lanes: int, choose: Choose, element: type[ir.Type] = ir.F32Type) -> None:
    """Compute a product of matrices of `element` in tiles that fill the registers: values that are read are used most often.

    A vector has so many `lanes`, and `choose` is of `tiles`. IREE 3.13 takes 8 × 8, or one row × 8.
    Measured on AVX2: a product of 64x576 and 576x1056 takes 0.88 instead of 1.22 ms, in whose inner loop there are nine reads for
    eight products, and a core makes two of either at once; one of 1x1024 and 1024x1024 takes 0.06 instead of 0.97 ms. Of float16
    one of 64x576 and 576x288 takes 0.33 instead of 0.84 ms, with `halves.broadcast_from_memory`. On AVX-512 one of 32x192 and
    192x1120 takes 0.12 instead of 0.18 ms, of 17x256 and 256x1024 0.08 instead of 0.75, of 1x1024 and 1024x1024 0.05 instead of
    0.19; of float16 one of 64x576 and 576x288 0.21 instead of 0.32.
    """
    products = [o for name in _MATRIX_PRODUCTS for o in operations(function, name)]
    if len(products) != 1 or not _is_plain(products[0], element):
        return
    (product,), sizes = products, _tiles(products[0])
    rows, columns = ir.RankedTensorType(product.results[0].type).shape[-2:]
    old, groups = sizes.get("vector_common_parallel", []), sizes.get("distribution", [])
    if len(old) < 3 or old[-1] or len(groups) != len(old) or "vector_reduction" not in sizes:
        return
    if sizes.get("cache_parallel", groups) != groups:
        return
    configured = [o for o in _configured(function) if o != product]
    if any(_tiles(o).get("vector_common_parallel") != old[:-1] or _transposes(o) for o in configured):
        return
    if any(_tiles(o).get("cache_parallel", groups[:-1]) != groups[:-1] for o in configured):
        return
    before = math.prod(-(-n // (size or n)) for n, size in zip((rows, columns), groups[-3:-1], strict=True))
    if (chosen := choose((rows, columns), lanes, before)) is None:
        return
    outer = [*groups[:-3], *(new if size else 0 for new, size in zip(chosen.group, groups[-3:-1], strict=True))]
    inner, steps = [*old[:-3], *chosen.tile], _STEPS if element is ir.F16Type else chosen.steps
    for other in configured:
        new = {"cache_parallel": outer, "vector_common_parallel": inner}
        made = {name: new.get(name, size) for name, size in _tiles(other).items()}
        other.attributes["lowering_config"] = ir.Attribute.parse(_lowering_config(made))
    sizes |= {name: [*outer, 0] for name in ("cache_parallel", "distribution") if name in sizes}
    sizes |= {"vector_common_parallel": [*inner, 0], "vector_reduction": [0] * len(inner) + [steps]}
    product.attributes["lowering_config"] = ir.Attribute.parse(_lowering_config(sizes))


def convert_through_i32(variant: ir.Operation) -> None:
    """Convert floating-point numbers to integers of less than 32 bits by way of 32 bits, in LLVM's dialect.

    IREE 3.13 makes the same signed conversion of a cast to uint8 as of one to int8, and LLVM then packs vectors with
    saturation. Measured, without AVX-512: ONNX's Cast of float32 to uint8 gave 127 for everything from 128 to 255.
    """
    i32 = ir.IntegerType.get_signless(32)
    for name in ("llvm.fptosi", "llvm.fptoui"):
        for conversion in operations(variant, name):
            type_ = conversion.result.type
            vector = ir.VectorType(type_) if isinstance(type_, ir.VectorType) else None
            if ir.IntegerType(vector.element_type if vector else type_).width >= i32.width:
                continue
            wide_type = ir.VectorType.get(vector.shape, i32) if vector else i32
            with ir.InsertionPoint(conversion):
                wide = ir.Operation.create("llvm.fptosi", [wide_type], [conversion.operands[0]]).result
                new = ir.Operation.create("llvm.trunc", [type_], [wide]).result
            conversion.result.replace_all_uses_with(new)
            conversion.erase()


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

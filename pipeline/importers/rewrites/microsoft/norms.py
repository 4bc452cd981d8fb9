"""Normalizations and embeddings of transformers."""

from __future__ import annotations

from onnx import TensorProto

from pipeline.importers.rewrites.microsoft.call import Call


def rms(call: Call, x: str, scale: str, axes: list[int], epsilon: float) -> tuple[str, str]:
    """x over the root of its mean square, times `scale`; and one over that root. Computed in float32, as ONNX Runtime does."""
    narrow = call.float_type
    wide = narrow if narrow == TensorProto.DOUBLE else TensorProto.FLOAT
    x = x if narrow == wide else call("Cast", x, to=wide)
    root = call("Sqrt", call("Add", call.mean(call("Mul", x, x), axes), call.number(epsilon, wide)))
    scale = scale if narrow == wide else call("Cast", scale, to=wide)
    result = call("Mul", call("Div", x, root), scale)
    return result if narrow == wide else call("Cast", result, to=narrow), call("Reciprocal", root)


def simplified_layer(call: Call) -> None:
    """SimplifiedLayerNormalization, which ONNX Runtime writes into ONNX's own domain."""
    axis = call.attribute("axis", -1)
    axes = [*range(axis, 0)] if axis < 0 else [*range(axis, call.rank(call.input(0)))]
    result, inverse = rms(call, call.input(0), call.input(1), axes, call.attribute("epsilon", 1e-5))
    call.last(result)
    call.last(inverse, to=1)


def skip_layer(call: Call) -> None:
    """SkipLayerNormalization."""
    call.refuse_outputs(mean=1, inv_std_var=2)
    total = call.plus(call.input(0), call.input(1), call.input(4))
    call.last(_layer(call, total, call.input(2), call.input(3)))
    call.last(total, to=3)


def skip_simplified_layer(call: Call) -> None:
    """SkipSimplifiedLayerNormalization."""
    call.refuse_outputs(mean=1, inv_std_var=2)
    total = call.plus(call.input(0), call.input(1), call.input(3))
    result, _ = rms(call, total, call.input(2), [-1], call.attribute("epsilon", 1e-12))
    call.last(result)
    call.last(total, to=3)


def _layer(call: Call, x: str, gamma: str, beta: str) -> str:
    return call("LayerNormalization", x, gamma, *filter(None, [beta]), axis=-1, epsilon=call.attribute("epsilon", 1e-12))


def embed_layer(call: Call) -> None:
    """EmbedLayerNormalization: words, positions and segments, added and normalized."""
    ids, segments, words, positions, kinds, gamma, beta, mask, places = (call.input(i) for i in range(9))
    total = call("Gather", words, ids)
    if places:
        total = call("Add", total, call("Gather", positions, places))
    else:
        _, length = call.dimensions(ids)
        total = call("Add", total, call("Slice", positions, call.integers(0), call.listed([length]), call.integers(0)))
    if segments and kinds:
        total = call("Add", total, call("Gather", kinds, segments))
    call.last(_layer(call, total, gamma, beta))
    if call.output(1):
        counted = mask or call("Sub", ids, ids)
        call.last(call("Cast", call("ReduceSum", counted, call.integers(1), keepdims=0), to=TensorProto.INT32), to=1)
    call.last(total, to=2)


def rotary(call: Call) -> None:
    """RotaryEmbedding of (batch, sequence, hidden) or (batch, heads, sequence, head)."""
    call.refuse("is_packed_batching")
    x, places, cos, sin = (call.input(i) for i in range(4))
    shape, half = call.dimensions(x), call.fixed(call.dimensions(cos)[-1])
    flat, head, length = len(shape) == 3, call.fixed(shape[-1]), shape[-2]
    if flat:
        heads = call.attribute("num_heads", 0) or head // 2 // half
        head //= heads
        x = call("Reshape", x, call.integers(0, 0, heads, head))
    if call.rank(places) == 1:
        places = call("Unsqueeze", call.plus(places, call.counted(length, TensorProto.INT64)), call.integers(0))
    angles = [call("Unsqueeze", call("Gather", cache, places), call.integers(2 if flat else 1)) for cache in (cos, sin)]
    result = rotated(call, x, (angles[0], angles[1]), half, interleaved=bool(call.attribute("interleaved", 0)), head=head)
    if (scale := call.attribute("scale", 1.0)) != 1:
        result = call("Mul", result, call.number(scale))
    call.last(call("Reshape", result, call.integers(0, 0, -1)) if flat else result)


def rotated(call: Call, x: str, angles: tuple[str, str], half: int, *, interleaved: bool, head: int) -> str:
    """The first 2 · half of `head` values along the last of four axes, rotated in pairs; the rest as it is.

    `angles` are the cosines and sines.
    """
    cos, sin = angles

    def part(value: str, start: int, end: int, step: int = 1) -> str:
        return call("Slice", value, call.integers(start), call.integers(end), call.integers(3), call.integers(step))

    a, b = (part(x, i, 2 * half, 2) for i in (0, 1)) if interleaved else (part(x, 0, half), part(x, half, 2 * half))
    a, b = (
        call("Sub", call("Mul", a, cos), call("Mul", b, sin)),
        call("Add", call("Mul", b, cos), call("Mul", a, sin)),
    )
    if interleaved:
        pairs = [call("Unsqueeze", value, call.integers(4)) for value in (a, b)]
        turned = call("Reshape", call("Concat", *pairs, axis=4), call.integers(0, 0, 0, 2 * half))
    else:
        turned = call("Concat", a, b, axis=3)
    return turned if head == 2 * half else call("Concat", turned, part(x, 2 * half, head), axis=3)

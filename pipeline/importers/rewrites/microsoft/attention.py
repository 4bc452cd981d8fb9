"""Attention as ONNX Runtime's transformer optimizer fuses it.

Queries, keys and values are (batch, heads, length, head). Positions that are masked get `mask_filter_value` added.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
from onnx import TensorProto

from pipeline.importers.rewrites.graph import Size
from pipeline.importers.rewrites.microsoft.call import Call, UnsupportedError
from pipeline.importers.rewrites.microsoft.norms import rotated


def _heads(call: Call, value: str, heads: int) -> str:
    """(batch, length, heads · head) → (batch, heads, length, head)."""
    return call("Transpose", call("Reshape", value, call.integers(0, 0, heads, -1)), perm=[0, 2, 1, 3])


def _attended(call: Call, q: str, k: str, v: str, scale: float, *biases: str) -> str:
    """softmax(q · k · scale + biases) · v, as (batch, length, heads · head)."""
    scores = call("MatMul", q, call("Transpose", k, perm=[0, 1, 3, 2]))
    scores = call.plus(call("Mul", scores, call.number(scale)), *biases)
    result = call("MatMul", call("Softmax", scores, axis=-1), v)
    return call("Reshape", call("Transpose", result, perm=[0, 2, 1, 3]), call.integers(0, 0, -1))


def _causal(call: Call, length: Size, total: Size, window: int = 0) -> str:
    """(length, total): a position attends to itself and those before it, or only the last `window` of them.

    The others get the least number there is, whatever `mask_filter_value` says: between two masks, it is the stronger.
    """
    least = np.finfo(np.float16 if call.float_type == TensorProto.FLOAT16 else np.float32).min
    if isinstance(length, str) or isinstance(total, str):
        return _open_causal(call, length, total, window, float(least))
    hidden = np.triu(np.ones((length, total)), total - length + 1)
    if window > 0:
        hidden += np.tril(np.ones((length, total)), total - length - window)
    return call.scope.add(np.where(hidden, least, 0), call.float_type)


def _open_causal(call: Call, length: Size, total: Size, window: int, least: float) -> str:
    """The same of lengths that are open."""
    before = call("Cast", call.listed([call.reckoned("Sub", total, length)]), to=TensorProto.INT32)
    queries = call("Unsqueeze", call("Add", call.counted(length), before), call.integers(1))
    keys = call.counted(total)
    seen = call("Not", call("Less", queries, keys))
    if window > 0:
        seen = call("And", seen, call("Less", call("Sub", queries, keys), call.number(window, TensorProto.INT32)))
    return call("Where", seen, call.number(0), call.number(least))


def _mask(call: Call, mask: str, batch: Size, length: Size, total: Size) -> str:
    """What to add for a mask: of lengths (batch) or ends and starts (2 · batch), of 0 and 1 for each key, or for each pair."""
    if not mask:
        return ""
    rank, least = call.rank(mask), call.attribute("mask_filter_value", -10000.0)
    if rank == 1:
        (size,) = call.dimensions(mask)
        both = isinstance(size, int) and isinstance(batch, int) and size == 2 * batch
        if isinstance(size, int) and isinstance(batch, int) and size not in (batch, 2 * batch):
            raise UnsupportedError(f"its mask has the shape [{size}]")
        places = call("Unsqueeze", call.counted(total, call.type(mask)), call.integers(0))
        ends = call("Slice", mask, call.integers(0), call.listed([batch])) if both else mask
        kept = call("Less", places, call("Unsqueeze", ends, call.integers(1)))
        if both:
            starts = call("Unsqueeze", call("Slice", mask, call.listed([batch]), call.listed([size])), call.integers(1))
            kept = call("And", kept, call("Not", call("Less", places, starts)))
        mask, rank = kept, 2
    if rank not in (2, 3):
        raise UnsupportedError(f"its mask has {rank} dimensions")
    kept = call("Cast", mask, to=call.float_type)
    added = call("Mul", call("Sub", call.number(1), kept), call.number(least))
    return call("Unsqueeze", added, call.integers(1, 2) if rank == 2 else call.integers(1))


def _split(call: Call, value: str, *sizes: int) -> list[str]:
    """Parts of the last of three axes."""
    ends = np.cumsum([0, *sizes]).tolist()
    return [call("Slice", value, call.integers(a), call.integers(b), call.integers(2)) for a, b in itertools.pairwise(ends)]


def _of_projection(call: Call, projected: str, width: int, mask: str, past: str, bias: str) -> None:
    """Attention over the queries, keys and values that stand beside each other in `projected`."""
    call.refuse("do_rotary", "past_present_share_buffer")
    heads = call.attribute("num_heads")
    batch, length, _ = call.dimensions(call.input(0))
    sizes = call.attribute("qkv_hidden_sizes") or [width // 3] * 3
    q, k, v = (_heads(call, part, heads) for part in _split(call, projected, *sizes))
    if past:
        k, v = (
            call(
                "Concat",
                call("Squeeze", call("Slice", past, call.integers(i), call.integers(i + 1)), call.integers(0)),
                new,
                axis=2,
            )
            for i, new in enumerate((k, v))
        )
    total = call.reckoned("Add", length, call.dimensions(past)[3]) if past else length
    if call.output(1):
        call.last(call("Concat", *(call("Unsqueeze", value, call.integers(0)) for value in (k, v)), axis=0), to=1)
    biases = [_mask(call, mask, batch, length, total), bias]
    if call.attribute("unidirectional", 0):
        biases.append(_causal(call, length, total))
    scale = call.attribute("scale") or 1 / math.sqrt(sizes[0] // heads)
    call.last(_attended(call, q, k, v, scale, *biases))


def attention(call: Call) -> None:
    """Attention: one projection for queries, keys and values."""
    call.refuse_inputs(past_sequence_length=6)
    x, weights, bias, mask, past, added = (call.input(i) for i in range(6))
    width = call.shape(weights)[1]
    _of_projection(call, call.plus(call("MatMul", x, weights), bias), width, mask, past, added)


def quantized_attention(call: Call) -> None:
    """QAttention: the projection is one of integers."""
    x, weights, bias, x_scale, w_scale, mask, x_zero, w_zero, past = (call.input(i) for i in range(9))
    width = call.shape(weights)[1]
    products = call("MatMulInteger", x, weights, *_zeros(call, x, weights, x_zero, w_zero))
    products = call("Mul", call("Cast", products, to=TensorProto.FLOAT), call("Mul", x_scale, w_scale))
    _of_projection(call, call("Add", products, bias), width, mask, past, "")


def _zeros(call: Call, x: str, weights: str, x_zero: str, w_zero: str) -> list[str]:
    return [x_zero or call.number(0, call.type(x)), w_zero or call.number(0, call.type(weights))]


def multi_head(call: Call) -> None:
    """MultiHeadAttention: queries, keys and values apart, or packed together."""
    call.refuse_inputs(past_sequence_length=8, cache_indirection=9)
    call.refuse_outputs(qk=3)
    q, k, v, bias, mask, added, past_k, past_v = (call.input(i) for i in range(8))
    heads = call.attribute("num_heads")
    batch, length, *rest = call.dimensions(q)
    if call.rank(q) == 5:  # (batch, length, heads, 3, head)
        head = v_head = call.fixed(rest[2])
        q, k, v = (call("Reshape", part, call.integers(0, 0, -1)) for part in _packed(call, q, 3))
        new = length
    else:
        head = v_head = call.fixed(rest[0]) // heads
        if not k:
            raise UnsupportedError("its keys are left out")
        new = call.dimensions(k)[1 if call.rank(k) != 4 else 2]
        if call.rank(k) == 5:
            k, v = (call("Reshape", part, call.integers(0, 0, -1)) for part in _packed(call, k, 2))
        else:
            v_head = call.fixed(call.dimensions(v)[-1]) // (heads if call.rank(v) == 3 else 1)
    biases = [""] * 3
    if bias:
        ends = np.cumsum([0, heads * head, heads * head, heads * v_head]).tolist()
        biases = [call("Slice", bias, call.integers(a), call.integers(b)) for a, b in itertools.pairwise(ends)]
    q, k, v = (
        value if call.input(i) == value and call.rank(value) == 4 else _heads(call, call.plus(value, part), heads)
        for i, (value, part) in enumerate(zip((q, k, v), biases, strict=True))
    )
    if past_k and past_v:
        new = call.reckoned("Add", new, call.dimensions(past_k)[2])
        k, v = call("Concat", past_k, k, axis=2), call("Concat", past_v, v, axis=2)
    call.last(k, to=1)
    call.last(v, to=2)
    others = [_mask(call, mask, batch, length, new), added]
    if call.attribute("unidirectional", 0):
        others.append(_causal(call, length, new))
    call.last(_attended(call, q, k, v, call.attribute("scale") or 1 / math.sqrt(head), *others))


def _packed(call: Call, value: str, count: int) -> list[str]:
    """The parts of (batch, length, heads, parts, head)."""
    return [
        call("Squeeze", call("Slice", value, call.integers(i), call.integers(i + 1), call.integers(3)), call.integers(3))
        for i in range(count)
    ]


def group_query(call: Call) -> None:
    """GroupQueryAttention of a whole prompt, or of what comes after a past that each sequence has as much of as it says."""
    call.refuse("softcap", "smooth_softmax", "qk_output", "kv_cache_bit_width", "sliding_window_cache")
    call.refuse_inputs(head_sink=11, k_scale=12, v_scale=13, q_norm_weight=14, k_norm_weight=15, query_seqlens=16)
    call.refuse_outputs(output_qk=3)
    heads, groups = call.attribute("num_heads"), call.attribute("kv_num_heads")
    q, k, v = (call.input(i) for i in range(3))
    batch, length, width = call.dimensions(q)
    width = call.fixed(width)
    head = width // heads if k else width // (heads + 2 * groups)
    if not k:
        q, k, v = _split(call, q, heads * head, groups * head, groups * head)
    q, k, v = (_heads(call, value, count) for value, count in ((q, heads), (k, groups), (v, groups)))
    grown = _Grown(call, call.fixed(batch), call.fixed(length)) if call.input(3) and call.input(4) else None
    if call.attribute("do_rotary", 0):
        q, k = _turned(call, length, head, grown.first if grown else "", q, k)
    if grown:
        k, v = grown.joined(call.input(3), k), grown.joined(call.input(4), v)
    call.last(k, to=1)
    call.last(v, to=2)
    total: Size = length
    if grown:
        total = grown.total
        k, v = (call("Slice", value, call.integers(0), call.integers(grown.total), call.integers(2)) for value in (k, v))
    if groups < heads:
        shape = call.listed([batch, groups, heads // groups, total, head])
        k, v = (
            call.shaped(call("Expand", call("Unsqueeze", value, call.integers(2)), shape), [batch, heads, total, head])
            for value in (k, v)
        )
    biases, window = [call.input(10)], call.attribute("local_window_size", -1)
    if grown:
        biases.append(grown.hidden(bool(call.attribute("causal", 1)), window))
    elif call.attribute("causal", 1):
        biases.append(_causal(call, length, length, window))
    call.last(_attended(call, q, k, v, call.attribute("scale") or 1 / math.sqrt(head), *biases))


class _Grown:
    """Keys and values of which each sequence has had some: `first` is how many, (batch, 1), and `total` the most with the new.

    ONNX Runtime takes the last of `seqlens_k` for the place of the newest; a prompt, as long as the total, has no past.
    """

    def __init__(self, call: Call, batch: int, length: int) -> None:
        most = call.scope.constant(call.input(6))
        if most is None:
            raise UnsupportedError("its input total_sequence_length is not known: give it a `value` in the spec")
        self._call, self._batch, self._length, self.total = call, batch, length, int(most.item())
        self._past = call.shape(call.input(3))[2]
        if length == self.total:
            self.first = call.scope.add(np.zeros((batch, 1)), TensorProto.INT64)
        else:
            ends = call("Reshape", call("Cast", call.input(5), to=TensorProto.INT64), call.integers(batch, 1))
            self.first = call("Add", ends, call.integers(1 - length))

    def joined(self, past: str, new: str) -> str:
        """(batch, heads, places, head): for each sequence what it has of its past, then the new, then zeros."""
        call, zero = self._call, self._call.number(0)
        shape = call.shape(past)
        nothing = call("Expand", zero, call.integers(*shape[:2], 1, shape[3]))
        there = call("Concat", past, new, nothing, axis=2)
        places = call.scope.add(np.arange(max(self.total, self._past))[None], TensorProto.INT64)
        newer = call("Add", call("Sub", places, self.first), call.integers(self._past))
        is_new = call("Less", newer, call.integers(self._past + self._length))
        newer = call("Where", is_new, newer, call.integers(self._past + self._length))
        where = call("Where", call("Less", places, self.first), places, newer)
        parts = [
            call(
                "Gather",
                call("Slice", there, call.integers(i), call.integers(i + 1), call.integers(0)),
                call("Squeeze", call("Slice", where, call.integers(i), call.integers(i + 1), call.integers(0)), call.integers(0)),
                axis=2,
            )
            for i in range(self._batch)
        ]
        return call("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]

    def hidden(self, causal: bool, window: int) -> str:
        """(batch, 1, length, total): the least number for keys that a query does not see."""
        call = self._call
        keys = call.scope.add(np.arange(self.total)[None, None], TensorProto.INT64)
        queries = call("Add", self.first, call.scope.add(np.arange(self._length)[None], TensorProto.INT64))
        ends = call(
            "Unsqueeze", queries if causal else call("Add", self.first, call.integers(self._length - 1)), call.integers(2)
        )
        seen = call("Not", call("Less", ends, keys))
        if window > 0:
            seen = call(
                "And", seen, call("Less", call("Sub", call("Unsqueeze", queries, call.integers(2)), keys), call.integers(window))
            )
        least = np.finfo(np.float16 if call.float_type == TensorProto.FLOAT16 else np.float32).min
        return call("Unsqueeze", call("Where", seen, call.number(0), call.number(float(least))), call.integers(1))


def _turned(call: Call, length: Size, head: int, first: str, *values: str) -> list[str]:
    caches = [call.input(i) for i in (7, 8)]
    places = call.input(9) or call("Unsqueeze", call.counted(length, TensorProto.INT64), call.integers(0))
    if first and not call.input(9):
        places = call("Add", first, places)
    angles = [call("Unsqueeze", call("Gather", cache, places), call.integers(1)) for cache in caches]
    half, interleaved = call.shape(caches[0])[-1], bool(call.attribute("rotary_interleaved", 0))
    return [rotated(call, value, (angles[0], angles[1]), half, interleaved=interleaved, head=head) for value in values]

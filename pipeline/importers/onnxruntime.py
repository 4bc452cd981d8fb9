"""What ONNX Runtime gives for a model's test data, and what it gives when that data moves by a unit in the last place.

Run as a child process: see `evaluation`. Its optimizations are off: fused integer kernels, for one, are off by 2 % where the
model's own operators are not (measured with ONNX Runtime 1.32).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from pipeline import arrays
from pipeline.arrays import Array
from pipeline.importers import boundary, decisions, foreign, functions, kernels, saturation, verges, weights
from pipeline.importers.baked import bake
from pipeline.importers.draws import moved
from pipeline.importers.evaluation import ORDER, Run, evaluate, main
from pipeline.importers.rewrites import flow
from pipeline.importers.rewrites.graph import captured, put
from pipeline.importers.rewrites.proof import without_names
from pipeline.spec.types import Input

_HALVES = {onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.BFLOAT16: "bfloat16"}
_FLOATS = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.DOUBLE: "float64", **_HALVES}
# Initializers of fewer values may be shapes, exponents or scales of a resize, which a last place breaks.
_WEIGHTS = 16
_VERGES = 2  # copies of a quantized model whose numbers are moved before they are rounded
_LARGE = 1 << 30  # bytes of a model beyond which no copies of it are made


def _is_parted(model: onnx.ModelProto) -> bool:
    """Whether ONNX Runtime quantizes parts of a batch, as many as it has threads: what it gives would depend on the machine."""
    return any(node.op_type == "DynamicQuantizeLSTM" for node in decisions.nodes(model.graph))


def session(model: onnx.ModelProto | str) -> onnxruntime.InferenceSession:
    """The model, or that in the file of this name, as its operators say: nothing fused, nothing folded."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    if not isinstance(model, str) and _is_parted(model):
        options.intra_op_num_threads = 1
    if not isinstance(model, str):
        model = saturation.without(model) or model
    if not isinstance(model, str) and weights.any_outside(model):
        # Whatever is made of weights alone, as by DequantizeLinear, is made when it is needed, and goes.
        model = _with_weights_late(model)
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", weights.ROOT)
        options.add_session_config_entry("session.disable_prepacking", "1")  # which copies weights
    source = model if isinstance(model, str) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _with_weights_late(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which nodes that take nothing but constants stand before the first node that takes what they make."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    fixed = {weight.name for weight in copy.graph.initializer}
    waiting: dict[str, onnx.NodeProto] = {}
    nodes: list[onnx.NodeProto] = []

    def place(node: onnx.NodeProto) -> None:
        stack = [node]
        while stack:
            taken = (*stack[-1].input, *captured(stack[-1]))
            needed = next((name for name in taken if name in waiting), None)
            if needed is None:
                nodes.append(stack.pop())
            else:
                stack.append(waiting.pop(needed))

    for node in copy.graph.node:
        if {*filter(None, node.input)} <= fixed and len(node.output) == 1 and not captured(node):
            fixed.add(node.output[0])
            waiting[node.output[0]] = node
        else:
            place(node)
    for name in list(waiting):  # outputs of the model, if not of no use
        if name in waiting:
            place(waiting.pop(name))
    put(copy.graph, nodes)
    return copy


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and those inside it."""
    yield graph
    for node in graph.node:
        for inner in decisions.inside(node):
            yield from _graphs(inner)


def with_moved_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` whose weights are moved by one unit in the last place, as inputs are."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for number, tensor in enumerate(weights.tensors(copy.graph)):
        if tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16):
            array = weights.values(tensor)
            if array.size >= _WEIGHTS:
                tensor.CopyFrom(weights.tensor(moved([array], number)[0], tensor.name))
    return copy


def widened(model: onnx.ModelProto, to: int) -> onnx.ModelProto:
    """A copy of `model` that computes in float64, or only its halves in float32: `to` is an ONNX type."""
    narrow = [t for t in (_FLOATS if to == onnx.TensorProto.DOUBLE else _HALVES) if t != to]
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for graph in _graphs(copy.graph):
        del graph.value_info[:]
        for value in (*graph.input, *graph.output):
            if value.type.tensor_type.elem_type in narrow:
                value.type.tensor_type.elem_type = to
    for tensor in weights.tensors(copy.graph):
        if tensor.data_type in narrow:
            wide = weights.values(tensor).astype(onnx.helper.tensor_dtype_to_np_dtype(to))
            tensor.CopyFrom(weights.tensor(wide, tensor.name))
    for node in decisions.nodes(copy.graph):
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i in narrow:
                attribute.i = to
    return copy


def precisions(model: onnx.ModelProto) -> list[str]:
    """For each output the coarsest float type that it is computed in, from inputs to result; empty where there is none."""
    types = {t.name: t.data_type for t in model.graph.initializer}
    try:
        inferred = onnx.shape_inference.infer_shapes(model).graph
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        inferred = model.graph
    types |= {v.name: v.type.tensor_type.elem_type for v in (*inferred.value_info, *inferred.input, *inferred.output)}
    coarsest: dict[str, int] = {name: _rank(type_) for name, type_ in types.items()}
    for node in model.graph.node:
        inside = [_rank(t.data_type) for a in node.attribute for g in (a.g, *a.graphs) for t in weights.tensors(g)]
        taken = max([*inside, *(coarsest.get(name, -1) for name in node.input)], default=-1)
        for name in node.output:
            coarsest[name] = max(taken, coarsest.get(name, -1))
    ranks = [coarsest.get(o.name, -1) for o in model.graph.output]
    return [ORDER[rank] if rank >= 0 else "" for rank in ranks]


def _rank(type_: int) -> int:
    return ORDER.index(_FLOATS[type_]) if type_ in _FLOATS else -1


def depends(model: onnx.ModelProto) -> list[bool]:
    """For each output whether its values depend on the inputs' values, and not only on their shapes."""
    values = decisions.alive(model.graph)
    return [o.name in values for o in model.graph.output]


def run_session(running: onnxruntime.InferenceSession, given: Sequence[Array]) -> list[Array]:
    """What the session gives; floats become what it takes."""
    wanted = {"tensor(double)": np.float64, "tensor(float)": np.float32}
    inputs = running.get_inputs()
    types = [wanted.get(i.type) if a.dtype.kind == "f" else None for i, a in zip(inputs, given, strict=True)]
    feeds = {i.name: a.astype(t) if t else a for i, a, t in zip(inputs, given, types, strict=True)}
    return list(running.run(None, feeds))


class Others:
    """Models that should give what the model gives, but for noise; those that ONNX Runtime can run."""

    def __init__(self, model: onnx.ModelProto) -> None:
        moving: list[Any] = [lambda: with_moved_weights(model), *(partial(verges.moved, model, seed) for seed in range(_VERGES))]
        wide = [lambda: widened(model, onnx.TensorProto.DOUBLE), lambda: widened(model, onnx.TensorProto.FLOAT)]
        is_small = weights.size(model) < _LARGE
        with weights.passing():
            self._moved = [s for make in (lambda: model, *(moving if is_small else ())) if (s := self._session(make))]
            self._wide = next((s for make in wide if (s := self._session(make))), None) if is_small else None

    @staticmethod
    def _session(make: Any) -> onnxruntime.InferenceSession | None:
        try:
            made = make()
            return None if made is None else session(made)
        except Exception:  # its operators do not exist for the other type: ONNX Runtime has a dozen kinds of error for that
            return None

    def run(self, given: Sequence[Array]) -> list[list[Array]]:
        """The outputs of each."""
        found = []
        pairs = [(s, moved(given, seed)) for seed, s in enumerate(self._moved)]
        for running, inputs in [*pairs, *([(self._wide, given)] if self._wide else [])]:
            try:
                found.append(run_session(running, inputs))
            except Exception:  # noqa: S112  # as above; an index that is out of range in a wider type, for one
                continue
        return found


def _deciding(source: str, model: onnx.ModelProto, inputs: Sequence[Input]) -> onnx.ModelProto:
    """The model whose decisions are watched: those that the importer knows how to take, as by a value in the spec, are taken."""
    if not decisions.exposed(model)[1]:
        return model
    from pipeline.importers.onnx import fixed

    start = fixed(Path(source), inputs)
    decisions.number_nodes(start)  # before rounds are copied: the copies of a node are one
    return flow.settled(start) or start


def _running(model: onnx.ModelProto, source: str = "") -> tuple[onnxruntime.InferenceSession, onnx.ModelProto, str]:
    """A session of `model`, which is in the file `source`; the model that it runs; and what was changed for it to run it."""
    try:
        return session(source or model), model, ""
    except Exception:  # its exceptions have no common base that it exports
        if (supported := kernels.supported(model, session)) is None:
            raise
        return session(supported[0]), *supported


def run(source: str, folder: Path, inputs: Sequence[Input], draws: Sequence[str], limit: int = weights.LIMIT) -> dict[str, Any]:
    """What `evaluate` finds, what is known of the model's outputs, what was changed for ONNX Runtime to run it, and what
    decisions of the model the draws leave open. Weights of more than `limit` bytes stay in files.
    """
    with weights.beside(folder / ".weights.part", limit) as store:
        return _found(store, source, folder, inputs, draws)


@contextmanager
def prepared(source: Path, folder: Path, inputs: Sequence[Input]) -> Iterator[Run]:
    """The model as a function of arrays, while the block lasts. Weights lie in `folder` then."""
    with weights.beside(folder / ".weights.part", weights.LIMIT) as store:
        yield partial(run_session, _plain(store, str(source), inputs)[0])


def _plain(
    store: weights.Store, source: str, inputs: Sequence[Input]
) -> tuple[onnxruntime.InferenceSession, onnx.ModelProto, str]:
    """A session of the model as the spec has it, the model that it runs, and what was changed for ONNX Runtime to run it."""
    model = functions.inlined(weights.load(Path(source)))
    bake(model, inputs)
    is_baked = any(spec.value is not None for spec in inputs)
    changed = foreign.be_exact(model) | boundary.widen(model) | is_baked | _is_parted(model) | store.is_used | store.differs
    changed |= saturation.without(model) is not None
    return _running(model, "" if changed else source)


def _found(store: weights.Store, source: str, folder: Path, inputs: Sequence[Input], draws: Sequence[str]) -> dict[str, Any]:
    plain, model, note = _plain(store, source, inputs)
    others, coarsest = Others(model), precisions(model)
    deciding, made = decisions.exposed(_deciding(source, model, inputs))
    found = evaluate(folder, draws, [o.name for o in model.graph.output], coarsest, partial(run_session, plain), others.run)
    taken: dict[str, list[Array]] = {}
    if made:
        watched = _running(without_names(deciding))[0]
        for name in found["tolerances"]:
            taken[name] = run_session(watched, arrays.read(folder / f"{name}.inputs.npz"))[len(model.graph.output) :]
    return found | {"depends": depends(model), "note": note, "unsettled": decisions.unsettled(made, taken)}


if __name__ == "__main__":
    sys.exit(main(lambda source, *more: run(str(source), *more)))

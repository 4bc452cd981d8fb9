"""What PyTorch gives for a model's test data on a CPU, and what it gives when that data moves by a unit in the last place.

Run as a child process: see `evaluation`.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.arrays import Array
from pipeline.importers import torch as importer
from pipeline.importers.draws import moved
from pipeline.importers.evaluation import ORDER, Run, evaluate, main, tried
from pipeline.spec.types import Input

# Parameters of fewer values may be exponents or scales, which a last place breaks.
_WEIGHTS = 16


def runner(program: Any) -> Run:
    """`program` as a function of arrays."""
    import torch

    taken = [value.dtype for _, value in importer.inputs_of(program)]
    call = importer.flat(program)

    def run(given: Sequence[Array]) -> list[Array]:
        tensors = [torch.from_numpy(np.array(array)).to(type_) for array, type_ in zip(given, taken, strict=True)]
        with torch.no_grad():
            results = call(*tensors)
        wide = [result.to(torch.float32) if importer.is_wide(result) else result for result in results]
        return [np.ascontiguousarray(result.detach().numpy()) for result in wide]

    return run


def _changed(program: Any, change: Any) -> Any:
    """A copy of `program` with what `change` makes of each of its weights, by their numbers."""
    import torch

    other = copy.copy(program)
    other._state_dict = {
        name: torch.nn.Parameter(made, requires_grad=False) if isinstance(value, torch.nn.Parameter) else made
        for number, (name, value) in enumerate(program.state_dict.items())
        for made in [change(number, value.detach())]
    }
    other._constants = {
        name: change(number, value) if isinstance(value, torch.Tensor) else value
        for number, (name, value) in enumerate(program.constants.items())
    }
    return other


def _moved_weight(number: int, value: Any) -> Any:
    import torch

    if value.dtype not in (torch.float16, torch.float32, torch.float64) or value.numel() < _WEIGHTS:
        return value
    return torch.from_numpy(moved([value.cpu().numpy()], number)[0])


def widened(program: Any) -> Any:
    """A copy of `program` that computes in float64."""
    import torch

    narrow = (torch.float32, torch.float16, torch.bfloat16)
    other = _changed(program, lambda _, value: value.double() if value.dtype in narrow else value)
    other._graph_module = copy.deepcopy(program.graph_module)
    for node in other.graph.nodes:
        value = node.meta.get("val")
        if node.op == "placeholder" and isinstance(value, torch.Tensor) and value.dtype in narrow:
            node.meta["val"] = value.double()
        node.args, node.kwargs = _wide((node.args, node.kwargs), narrow)
    other.graph_module.recompile()
    return other


def _wide(value: Any, narrow: Sequence[Any]) -> Any:
    """Arguments of a node with float64 for every narrower type among them."""
    import torch
    from torch.fx.node import map_aggregate

    return map_aggregate(value, lambda item: torch.float64 if item in narrow and isinstance(item, torch.dtype) else item)


def _told(program: Any) -> tuple[list[bool], list[str]]:
    """For each output whether it depends on the inputs' values, and the coarsest float type that it is computed in."""
    import torch

    inputs = {name for name, _ in importer.inputs_of(program)}
    depends: dict[str, bool] = {}
    coarsest: dict[str, int] = {}
    for node in program.graph.nodes:
        before = [n.name for n in node.all_input_nodes]
        values = [v for v in torch.utils._pytree.tree_leaves(node.meta.get("val")) if isinstance(v, torch.Tensor)]
        own = [ORDER.index(importer.dtype(v)) if importer.dtype(v) in ORDER else -1 for v in values]
        coarsest[node.name] = max([*own, *(coarsest[name] for name in before)], default=-1)
        # What is made of sizes alone is no tensor, and the same for all data.
        depends[node.name] = node.name in inputs or (bool(values) and any(depends[name] for name in before))
    outputs = [node.name for node in importer.output_nodes(program)]
    return [depends[n] for n in outputs], [ORDER[coarsest[n]] if coarsest[n] >= 0 else "" for n in outputs]


def _program(source: Path) -> Any:
    """The program in the file."""
    importer.require()
    import torch

    torch.manual_seed(0)
    return importer.load(source)


@contextmanager
def prepared(source: Path, folder: Path, inputs: Sequence[Input]) -> Iterator[Run]:
    """The model as a function of arrays, while the block lasts."""
    yield runner(_program(source))


def run(source: Path, folder: Path, inputs: Sequence[Input], draws: Sequence[str]) -> dict[str, Any]:
    """What `evaluate` finds, and what is known of the program's outputs."""
    program = _program(source)
    depends, coarsest = _told(program)
    plain = runner(program)
    likewise = tried([lambda: runner(_changed(program, _moved_weight))])
    wide = tried([lambda: runner(widened(program))])

    def others(given: Sequence[Array]) -> list[list[Array]]:
        noisy = [partial(run, moved(given, seed)) for seed, run in enumerate([plain, *likewise])]
        return tried([*noisy, *(partial(run, given) for run in wide)])

    found = evaluate(folder, draws, importer.output_names(program), coarsest, plain, others)
    return found | {"depends": depends}


if __name__ == "__main__":
    sys.exit(main(run))

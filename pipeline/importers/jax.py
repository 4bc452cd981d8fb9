"""What JAX gives for a model's test data on a CPU, and what it gives when that data moves by a unit in the last place.

Run as a child process: see `evaluation`. It runs what `jax.export` serialized.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from iree.compiler import ir, passmanager

from pipeline.arrays import Array
from pipeline.errors import PipelineError
from pipeline.importers import stablehlo
from pipeline.importers.draws import moved
from pipeline.importers.evaluation import Run, evaluate, main, tried
from pipeline.iree import entry, mlir
from pipeline.spec.types import Input

# Numbers that numpy lacks, as the release has them.
_WIDER = {"int4": "int8", "uint4": "uint8", **dict.fromkeys(stablehlo.FLOATS, "float32")}
_MOVES = 4  # times that the inputs are moved, for constants of the program cannot be


def _run(program: Any, given: Sequence[Array]) -> list[Array]:
    import jax

    # What the program does not use it was exported without: nobody gives it, and any value will do.
    kept = dict(zip(program.module_kept_var_idx, given, strict=True))
    leaves = [
        np.asarray(kept[number], aval.dtype) if number in kept else np.zeros(aval.shape, aval.dtype)
        for number, aval in enumerate(program.in_avals)
    ]
    args, kwargs = jax.tree_util.tree_unflatten(program.in_tree, leaves)
    results = [np.asarray(result) for result in jax.tree_util.tree_leaves(program.call(*args, **kwargs))]
    return [result.astype(_WIDER.get(result.dtype.name, result.dtype)) for result in results]


def _told(function: ir.Operation) -> list[tuple[bool, str]]:
    """For each result of the function whether it depends on an argument's values, and the coarsest float type on the way to it.

    Calls, where there are any left, and regions use all that they are given.
    """
    (own,) = function.regions[0].blocks
    *_, returned = own.operations
    return [_way(value, own) for value in returned.operands]


def _way(result: ir.Value, own: ir.Block) -> tuple[bool, str]:
    depends, types, seen, waiting = False, {str(result.type)}, set(), [result]
    while waiting:
        owner = waiting.pop().owner
        if isinstance(owner, ir.Block):
            depends = depends or owner == own
        elif hash(owner) not in seen and owner.name != "stablehlo.get_dimension_size":
            seen.add(hash(owner))
            taken = list(_taken(owner))
            types.update(str(value.type) for value in taken)
            waiting += taken
    return depends, mlir.coarsest_in(" ".join(types))


def _taken(operation: ir.Operation) -> Iterator[ir.Value]:
    """The values that the operation takes, and those that operations inside it take."""
    yield from operation.operands
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield from _taken(inner.operation)


def _program(source: Path) -> Any:
    """What `jax.export` serialized into the file. Raises PipelineError where it is another."""
    with source.open("rb") as file:
        serialized = stablehlo.is_serialized(file.read(1024))
    if not serialized:
        hint = "give the file of `Exported.serialize()`, or say `reference: baseline` or `reference: [file.npy, …]`"
        raise PipelineError("JAX runs only what jax.export serialized", hint=hint)
    program = stablehlo.exported(source)
    import jax

    jax.config.update("jax_enable_x64", True)  # else it turns doubles into floats
    return program


@contextmanager
def prepared(source: Path, folder: Path, inputs: Sequence[Input]) -> Iterator[Run]:
    """The model as a function of arrays, while the block lasts."""
    yield partial(_run, _program(source))


def run(source: Path, folder: Path, inputs: Sequence[Input], draws: Sequence[str]) -> dict[str, Any]:
    """What `evaluate` finds, and what is known of the program's outputs."""
    program = _program(source)
    with mlir.parsed(program.mlir_module().encode(), str(source)) as module:
        passmanager.PassManager.parse("builtin.module(inline)").run(module.operation)
        function = entry.entry_function(module, None, str(source))
        names, told = stablehlo.output_names(function), _told(function)
    plain = partial(_run, program)

    def others(given: Sequence[Array]) -> list[list[Array]]:
        return tried([partial(plain, moved(given, seed)) for seed in range(_MOVES)])

    return evaluate(folder, draws, names, [type_ for _, type_ in told], plain, others) | {"depends": [d for d, _ in told]}


if __name__ == "__main__":
    sys.exit(main(run))

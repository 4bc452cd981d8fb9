"""What every evaluator of references does: run the draws, and measure how far what they give moves.

An evaluator is a module that runs as a child process: `python -m pipeline.importers.NAME MODEL FOLDER RESULT.json INPUTS DRAW…`;
INPUTS are those of the spec, as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pipeline import arrays
from pipeline.arrays import Array
from pipeline.compare import tolerances_for
from pipeline.errors import PipelineError
from pipeline.importers.child import inputs_of
from pipeline.importers.draws import GIVEN
from pipeline.spec.types import Input

Run = Callable[[Sequence[Array]], list[Array]]
_T = TypeVar("_T")
# The modules of evaluators, by the names that specs have for them.
MODULES = {"onnxruntime": "onnxruntime", "jax": "jax", "torch": "pytorch", "litert": "litert"}
ORDER = ("float64", "float32", "float16", "bfloat16")  # finest first


def evaluate(
    folder: Path,
    draws: Sequence[str],
    names: Sequence[str],
    coarsest: Sequence[str],
    run: Run,
    others: Callable[[Sequence[Array]], list[list[Array]]],
) -> dict[str, Any]:
    """Run each draw, FOLDER/NAME.inputs.npz, and write FOLDER/NAME.outputs.npz.

    `run` gives the outputs, called `names` and computed in the types `coarsest`; `others` gives what they might as well be, but
    for noise. Returns the tolerances of each draw's outputs, those of `given` without noise, why draws but `given` cannot be
    run, and the outputs that are other ones each time.
    """
    random: list[str] = []
    failed: dict[str, str] = {}
    tolerances: dict[str, list[Any]] = {}
    strict: list[Any] = []
    for name in draws:
        given = arrays.read(folder / f"{name}.inputs.npz")
        try:
            outputs = run(given)
        except Exception as error:  # of whatever kind the evaluator has
            if name == GIVEN:
                raise
            failed[name] = next(iter(str(error).splitlines()), type(error).__name__)
            continue
        arrays.write(folder / f"{name}.outputs.npz", outputs)
        if name == GIVEN:
            again = zip(outputs, run(given), strict=True)
            random = [names[i] for i, (a, b) in enumerate(again) if a.tobytes() != b.tobytes()]
            strict = [asdict(tolerance) for tolerance in tolerances_for(outputs, coarsest)]
        tolerances[name] = [asdict(tolerance) for tolerance in tolerances_for(outputs, coarsest, others(given))]
    return {
        "outputs": list(names),
        "precisions": list(coarsest),
        "failed": failed,
        "tolerances": tolerances,
        "strict": strict,
        "random": random,
        "note": "",
        "unsettled": [],
    }


def tried(runs: Sequence[Callable[[], _T]]) -> list[_T]:
    """What those of `runs` give that give something: a type that an operator lacks is no fault of the model."""
    found = []
    for run in runs:
        try:
            found.append(run())
        except Exception:  # noqa: S112  # every evaluator has a dozen kinds of error for that
            continue
    return found


def main(run: Callable[[Path, Path, Sequence[Input], Sequence[str]], dict[str, Any]]) -> int:
    """Call `run(source, folder, inputs, draws)` as the command line says and write what it returns; the exit code."""
    source, folder, result, inputs, *draws = sys.argv[1:]
    try:
        found = run(Path(source), Path(folder), inputs_of(inputs), draws)
    except PipelineError as error:
        print(f"error: {error.what}")
        if error.hint:
            print(f"hint: {error.hint}")
        return 3
    Path(result).write_text(json.dumps(found))
    return 0

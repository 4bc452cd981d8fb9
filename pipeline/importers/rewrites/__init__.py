"""Rewrites of ONNX graphs: what IREE 3.13 lacks or lowers to wrong numbers, said in operators that it lowers right.

Each is proved on the model at hand before it is used: on all test data, the model must give the same as before.
Where it does not, it is used for the nodes of which that holds.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx

from pipeline.importers import decisions, weights
from pipeline.importers.rewrites import (
    accumulation,
    blocks,
    bodies,
    casts,
    convolutions,
    copies,
    deformed,
    doubles,
    ends,
    faster,
    flow,
    fourier,
    layouts,
    microsoft,
    norms,
    pools,
    powers,
    quantized,
    recurrent,
    reductions,
    remainders,
    reshapes,
    resizes,
    reversals,
    samples,
    scattered,
    signs,
    sorts,
    unsigned,
    vectors,
    windows,
    writes,
)
from pipeline.importers.rewrites.graph import leaving
from pipeline.importers.rewrites.proof import Proof
from pipeline.spec.types import Input

Rewrite = Callable[[onnx.ModelProto], onnx.ModelProto | None]
# In this order: a later one may treat what an earlier one has put in.
REWRITES: Mapping[str, Rewrite] = {
    "known": flow.settled,
    "microsoft": microsoft.rewrite,
    "bodies": bodies.rewrite,
    "choices": flow.chosen,
    "steps": faster.steps,
    "recurrent": recurrent.rewrite,
    "blocks": blocks.rewrite,
    "fourier": fourier.rewrite,
    "quantized": quantized.rewrite,
    "scattered": scattered.rewrite,
    "integers": faster.whole_numbers,
    "shuffles": faster.transposed,
    "convolutions": convolutions.rewrite,
    "sums": faster.windows,
    "windows": windows.rewrite,
    "layouts": layouts.rewrite,
    "resizes": resizes.rewrite,
    "reversals": reversals.rewrite,
    "samples": samples.rewrite,
    "deformed": deformed.rewrite,
    "norms": norms.rewrite,
    "vectors": vectors.rewrite,
    "reductions": reductions.rewrite,
    "pools": pools.rewrite,
    "remainders": remainders.rewrite,
    "rows": faster.rows,
    "powers": powers.rewrite,
    "signs": signs.rewrite,
    "sorts": sorts.rewrite,
    "doubles": doubles.rewrite,
    "unsigned": unsigned.rewrite,
    "accumulation": accumulation.rewrite,
    "casts": casts.rewrite,
    "writes": writes.rewrite,
    "ends": ends.rewrite,
    "reshapes": reshapes.rewrite,
    "copies": copies.rewrite,
}


_MOST_TRIES = 24  # of one rewrite, each with test data: enough to find a node or two in a thousand


@dataclass(frozen=True)
class Tried:
    """A rewrite that applies to a model: whether it was used, and what was wrong where it was not, or not for all nodes."""

    name: str
    used: bool
    problem: str


def apply(
    model: onnx.ModelProto, inputs: Sequence[Input], where: str, without: Collection[str] = ()
) -> tuple[onnx.ModelProto, list[Tried]]:
    """`model`, whose types are inferred, with every rewrite that applies, for the nodes where it holds; and those that apply.

    Those named in `without` are not tried.
    """
    proof, tried = Proof(model, inputs, where), list[Tried]()
    for name, rewrite in REWRITES.items():
        if name in without:
            continue
        candidate, problem = _made(model, rewrite)
        if candidate is not None:
            problem = proof.problem(candidate)
        if problem:
            candidate = _in_part(model, rewrite, proof, candidate)
        if candidate is not None or problem:
            tried.append(Tried(name, candidate is not None, problem))
        model = model if candidate is None else candidate
    return model, tried


def _made(model: onnx.ModelProto, rewrite: Rewrite) -> tuple[onnx.ModelProto | None, str]:
    """What a rewrite makes of a model, or why it makes nothing. What it did not foresee is no reason to refuse the model."""
    try:
        if (made := rewrite(model)) is not None:
            weights.put_out(made)
        return made, ""
    except Exception as error:
        traceback.print_exc()
        return None, f"fails: {next(iter(str(error).strip().splitlines()), repr(error))[:200]}"


def _in_part(model: onnx.ModelProto, rewrite: Rewrite, proof: Proof, wrong: onnx.ModelProto | None) -> onnx.ModelProto | None:
    """The model with a rewrite that does not hold everywhere, for the nodes where it does: nodes are left by halves.

    `wrong` is the whole of it. A rewrite that leaves none of them gives that each time, and is not tried again.
    """
    every = range(len(decisions.nodes(model.graph)))
    found: onnx.ModelProto | None = None
    tries = 0
    left, waiting = set(every), [every[len(every) // 2 :], every[: len(every) // 2]]
    while waiting and tries < _MOST_TRIES:
        some = waiting.pop()
        candidate, problem = _made(leaving(model, left.difference(some)), rewrite)
        if candidate is not None:
            candidate = leaving(candidate, ())
        elif not problem:
            continue  # nothing of its kind is among these
        if candidate is not None and candidate in (found, wrong):
            continue
        tries += 1
        if candidate is not None and not proof.problem(candidate):
            left, found = left.difference(some), candidate
        elif len(some) > 1:
            waiting += [some[len(some) // 2 :], some[: len(some) // 2]]
    return found

"""Rewrites of ONNX graphs: what IREE 3.13 lacks or lowers to wrong numbers, said in operators that it lowers right.

Each is proved on the model at hand before it is used: on all test data, the model must give the same as before.
Where it does not, it is used for the nodes of which that holds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from pipeline.importers import decisions
from pipeline.importers.rewrites import (
    accumulation,
    blocks,
    bodies,
    casts,
    convolutions,
    doubles,
    layouts,
    microsoft,
    pools,
    powers,
    quantized,
    recurrent,
    reductions,
    resizes,
    samples,
    signs,
    sorts,
    strides,
    unsigned,
    vectors,
)
from pipeline.importers.rewrites.graph import leaving
from pipeline.importers.rewrites.proof import Proof
from pipeline.spec.types import Input

Rewrite = Callable[[onnx.ModelProto], onnx.ModelProto | None]
# In this order: a later one may treat what an earlier one has put in.
REWRITES: Mapping[str, Rewrite] = {
    "microsoft": microsoft.rewrite,
    "bodies": bodies.rewrite,
    "recurrent": recurrent.rewrite,
    "blocks": blocks.rewrite,
    "quantized": quantized.rewrite,
    "convolutions": convolutions.rewrite,
    "layouts": layouts.rewrite,
    "resizes": resizes.rewrite,
    "samples": samples.rewrite,
    "vectors": vectors.rewrite,
    "reductions": reductions.rewrite,
    "pools": pools.rewrite,
    "strides": strides.rewrite,
    "powers": powers.rewrite,
    "signs": signs.rewrite,
    "sorts": sorts.rewrite,
    "doubles": doubles.rewrite,
    "unsigned": unsigned.rewrite,
    "accumulation": accumulation.rewrite,
    "casts": casts.rewrite,
}


_MOST_TRIES = 24  # of one rewrite, each with test data: enough to find a node or two in a thousand


@dataclass(frozen=True)
class Tried:
    """A rewrite that applies to a model: whether it was used, and what was wrong where it was not, or not for all nodes."""

    name: str
    used: bool
    problem: str


def apply(model: onnx.ModelProto, inputs: Sequence[Input], where: str) -> tuple[onnx.ModelProto, list[Tried]]:
    """`model`, whose types are inferred, with every rewrite that applies, for the nodes where it holds; and those that apply."""
    proof, tried = Proof(model, inputs, where), list[Tried]()
    for name, rewrite in REWRITES.items():
        if (candidate := rewrite(model)) is None:
            continue
        if problem := proof.problem(candidate):
            candidate = _in_part(model, rewrite, proof)
        tried.append(Tried(name, candidate is not None, problem))
        model = model if candidate is None else candidate
    return model, tried


def _in_part(model: onnx.ModelProto, rewrite: Rewrite, proof: Proof) -> onnx.ModelProto | None:
    """The model with a rewrite that does not hold everywhere, for the nodes where it does: nodes are left by halves."""
    every = range(sum(1 for _ in decisions.nodes(model.graph)))
    found: onnx.ModelProto | None = None
    tries = 0
    left, waiting = set(every), [every[len(every) // 2 :], every[: len(every) // 2]]
    while waiting and tries < _MOST_TRIES:
        some = waiting.pop()
        candidate = rewrite(leaving(model, left.difference(some)))
        if candidate is None or (candidate := leaving(candidate, ())) == found:
            continue  # nothing of its kind is among these
        tries += 1
        if not proof.problem(candidate):
            left, found = left.difference(some), candidate
        elif len(some) > 1:
            waiting += [some[len(some) // 2 :], some[: len(some) // 2]]
    return found

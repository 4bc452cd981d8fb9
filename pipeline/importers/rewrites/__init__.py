"""Rewrites of ONNX graphs: what IREE 3.13 lacks or lowers to wrong numbers, said in operators that it lowers right.

Each is proved on the model at hand before it is used: on all test data, the model must give the same as before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx

from pipeline.importers.rewrites import (
    accumulation,
    blocks,
    bodies,
    casts,
    convolutions,
    copies,
    deformed,
    doubles,
    fourier,
    layouts,
    microsoft,
    pools,
    powers,
    quantized,
    reductions,
    resizes,
    samples,
    scattered,
    signs,
    sorts,
    unsigned,
    vectors,
    writes,
)
from pipeline.importers.rewrites.proof import Proof
from pipeline.spec.types import Input

# In this order: a later one may treat what an earlier one has put in.
REWRITES: Mapping[str, Callable[[onnx.ModelProto], onnx.ModelProto | None]] = {
    "microsoft": microsoft.rewrite,
    "bodies": bodies.rewrite,
    "blocks": blocks.rewrite,
    "fourier": fourier.rewrite,
    "quantized": quantized.rewrite,
    "scattered": scattered.rewrite,
    "convolutions": convolutions.rewrite,
    "layouts": layouts.rewrite,
    "resizes": resizes.rewrite,
    "samples": samples.rewrite,
    "deformed": deformed.rewrite,
    "vectors": vectors.rewrite,
    "reductions": reductions.rewrite,
    "pools": pools.rewrite,
    "powers": powers.rewrite,
    "signs": signs.rewrite,
    "sorts": sorts.rewrite,
    "doubles": doubles.rewrite,
    "unsigned": unsigned.rewrite,
    "accumulation": accumulation.rewrite,
    "casts": casts.rewrite,
    "writes": writes.rewrite,
    "copies": copies.rewrite,
}


def apply(model: onnx.ModelProto, inputs: Sequence[Input], where: str) -> tuple[onnx.ModelProto, dict[str, str]]:
    """`model`, whose types are inferred, with every rewrite that applies and holds.

    With it, those that apply, and what is wrong with those that do not hold.
    """
    proof, tried = Proof(model, inputs, where), dict[str, str]()
    for name, rewrite in REWRITES.items():
        if (candidate := rewrite(model)) is not None:
            tried[name] = proof.problem(candidate)
            model = model if tried[name] else candidate
    return model, tried

"""Scores for people. Needs no numpy: those who look at releases use it."""

from __future__ import annotations

_RATES = {"top-1": "top-1", "top-5": "top-5", "mean-iou": "mean IoU", "word-error-rate": "word error rate"}
_EVALUATORS = {"onnxruntime": "ONNX Runtime", "jax": "JAX", "torch": "PyTorch", "litert": "LiteRT"}


def evaluator(kind: str) -> str:
    """The name that people know of who computes a reference."""
    return _EVALUATORS.get(kind, kind)


def named(metric: str) -> str:
    """The metric's name in a sentence."""
    return _RATES.get(metric, metric)


def score(metric: str, value: float) -> str:
    """A score: a rate in percent, anything else as a number."""
    return f"{value:.1%}" if metric in _RATES else f"{value:.4g}"


def line(metric: str, value: float, reference: float, kind: str) -> str:
    """A score beside the reference's: `top-1 91.2% (ONNX Runtime 91.3%)`."""
    return f"{named(metric)} {score(metric, value)} ({evaluator(kind)} {score(metric, reference)})"

"""Releases of models in a program: what `import vmfb` gives. Everything else in this package may change; this keeps its promises.

    model = vmfb.load("attacut", store="https://example.org/models")
    outputs = model(tokens)                        # of several entry points: model["step"](token, *state)
    path = vmfb.fetch("attacut", device="rtx-3060")
    vmfb.explain("attacut")[0].variant             # what the best device here would run

Errors are `vmfb.Error`, with `what`, `where` and `hint`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline import __version__
from pipeline.errors import PipelineError as Error

if TYPE_CHECKING:
    from pipeline.consume.api import explain, fetch
    from pipeline.consume.choose import Choice
    from pipeline.consume.loaded import EntryPoint, Model, Tensor, aligned, load

__all__ = ["Choice", "EntryPoint", "Error", "Model", "Tensor", "__version__", "aligned", "explain", "fetch", "load"]

_WITHOUT_RUNTIME = {"explain": "api", "fetch": "api", "Choice": "choose"}


if not TYPE_CHECKING:  # which knows what there is, and shall say what there is not

    def __getattr__(name: str) -> Any:  # the runtime and numpy are imported only by those who load
        import importlib

        if name in _WITHOUT_RUNTIME:
            return getattr(importlib.import_module(f"pipeline.consume.{_WITHOUT_RUNTIME[name]}"), name)
        if name in __all__:
            return getattr(importlib.import_module("pipeline.consume"), name)
        raise AttributeError(f"vmfb has no {name}")

"""For those who have a file or a store, and a device: what is in it, what runs here and why. Needs no compiler and no doit.

import vmfb
model = vmfb.load("attacut", store="https://example.org/models")
outputs = model(tokens)             # of several entry points: model["step"](token, *state)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.consume.loaded import EntryPoint, Model, Tensor, aligned, load

__all__ = ["EntryPoint", "Model", "Tensor", "aligned", "load"]


def __getattr__(name: str) -> Any:  # the runtime and numpy are imported only by those who load
    if name in __all__:
        from pipeline.iree.devices import runtime_version

        runtime_version()  # says what to install
        from pipeline.consume import loaded

        return getattr(loaded, name)
    raise AttributeError(name)

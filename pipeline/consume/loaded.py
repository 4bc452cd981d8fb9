"""A release in a program: fetched, loaded in this process, called with numpy arrays."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pipeline.consume.cache import Cache
from pipeline.consume.choose import choices, gated, named, refusal
from pipeline.consume.facts import of_this_machine
from pipeline.consume.fetch import Progress, fetch, pick
from pipeline.consume.inputs import require_fit
from pipeline.consume.reference import parse
from pipeline.consume.resolve import Remote, Resolver, default_store, require_runtime
from pipeline.errors import PipelineError
from pipeline.iree.device import Device
from pipeline.iree.devices.session import Session, open_device
from pipeline.manifest.types import Manifest


class Model:
    """A release loaded on a device. Calling it takes one array for each input, in order, and returns the outputs in order.

    `manifest` is the release's, `variant` the code that runs, `device` where.
    """

    def __init__(self, manifest: Manifest, path: Path, variant: str, device: Device) -> None:
        self.manifest, self.path, self.variant, self.device = manifest, path, variant, device
        try:
            self._session = Session(path, open_device(device.uri))
        except (RuntimeError, ValueError) as error:  # the runtime's own
            what = f"{variant} cannot be loaded on {device.title}: {str(error).splitlines()[0]}"
            raise PipelineError(what, where=str(path), hint="`vmfb explain` tells more") from error

    def __call__(self, *inputs: ArrayLike) -> tuple[np.ndarray[Any, Any], ...]:
        """Run the model once. Raises PipelineError for arrays that are not of the signature's dtypes and shapes."""
        arrays = [np.ascontiguousarray(array).reshape(np.shape(array)) for array in inputs]
        require_fit(arrays, self.manifest.entries[0].inputs)
        results = self._session.call(self.manifest.entries[0].function, self._session.place(arrays))
        return tuple(self._output(i, self._session.read(view)) for i, view in enumerate(results))

    def _output(self, index: int, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """MLIR integers carry no sign: the signature does."""
        dtype = np.dtype(self.manifest.entries[0].outputs[index].dtype)
        return array.view(dtype) if array.dtype.kind in "iu" and array.dtype.itemsize == dtype.itemsize else array

    def __repr__(self) -> str:
        release = f"{self.manifest.model.name}@{self.manifest.version}"
        return f"<{release}: {self.variant} on {self.device.title}>"


class Quiet:
    """A Progress that shows nothing."""

    def begin(self, name: str, total: int) -> None:
        """Nothing."""

    def advance(self, count: int) -> None:
        """Nothing."""

    def end(self) -> None:
        """Nothing."""

    def waiting(self, name: str) -> None:
        """Nothing."""


def load(
    model: str,
    *,
    store: str = "",
    device: str = "auto",
    bundle: str = "",
    offline: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Model:
    """Fetch what the best device here needs of `model` (`NAME`, `NAME@VERSION` or `NAME:CHANNEL`) and load it.

    `store` is a URL or folder (default: PIPELINE_STORE), `device` as `vmfb run --device` takes it. Raises PipelineError.
    """
    kept = Cache(cache)
    remote = Remote(store or default_store(), offline)
    resolver = Resolver(remote, kept)
    manifest = resolver.manifest(parse(model))
    require_runtime(manifest)
    artifact = pick(manifest, bundle)
    found = choices(gated(artifact, remote.url), named(of_this_machine(kept, warnings.warn), device))
    best = found[0] if found else None
    if best is None or best.variant is None:
        raise PipelineError(f"no device here may run {model}:\n    {refusal(found)}", hint="`vmfb explain` tells more")
    fetched = fetch(remote, kept, artifact, [best.variant], progress or Quiet())
    made = Model(manifest, fetched.path, best.variant, best.device)
    _require_same(made, [v.name for v in artifact.variants])
    return made


def _require_same(model: Model, names: Sequence[str]) -> None:
    """The module's own word on which variant runs must be the prediction: anything else is a bug."""
    selected = model._session.selected()
    said = names[selected] if selected is not None and 0 <= selected < len(names) else None
    if said != model.variant:
        raise RuntimeError(f"predicted was {model.variant}, the module runs {said}: this is a bug")

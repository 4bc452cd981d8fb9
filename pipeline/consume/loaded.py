"""A release in a program: fetched, loaded in this process, called with numpy arrays."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from pipeline.consume import entries, evidence, inputs, runtimes, ways
from pipeline.consume.api import Quiet, opened
from pipeline.consume.choose import choices, gated, named, refusal
from pipeline.consume.evidence import Standing
from pipeline.consume.facts import of_this_machine
from pipeline.consume.fetch import Progress, fetch, fetch_weights
from pipeline.consume.inspect import require_release
from pipeline.errors import PipelineError
from pipeline.iree.backends import is_cpu
from pipeline.iree.device import Device
from pipeline.iree.devices.session import Session, aligned, open_device
from pipeline.manifest.evidence import KINDS
from pipeline.manifest.types import EntryInfo, Manifest, TensorInfo
from pipeline.plain import html_table

__all__ = ["EntryPoint", "Model", "Tensor", "aligned", "load"]

_device = functools.cache(open_device)  # so that models on one device take each other's tensors


class Tensor:
    """A result that stays on its device: an argument of further calls. `numpy.asarray` gives it on the host: to read only, and on
    a CPU without a copy.

    `shape` and `dtype` are those of an array.
    """

    def __init__(self, session: Session, view: Any, info: TensorInfo) -> None:
        self._session, self._view, self._info = session, view, info
        self.shape: tuple[int, ...] = tuple(view.shape)
        self.dtype = np.dtype(info.dtype)

    def _mapped(self) -> np.ndarray[Any, Any] | None:
        return self._session.mapped(self._view)

    def _array(self) -> np.ndarray[Any, Any]:
        """It on the host, to read and to write: not a copy, where the host sees the device's memory."""
        there = self._mapped()
        return inputs.as_said(self._session.read(self._view) if there is None else there, self._info)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """It on the host. ValueError where that takes a copy, and none is wanted."""
        there = None if copy else self._mapped()
        if copy is False and there is None:
            raise ValueError("what is on this device can only be copied")
        array = inputs.as_said(self._session.read(self._view) if there is None else there, self._info)
        if copy is None:
            array.flags.writeable = False  # others may have the same memory
        return array if dtype is None else array.astype(dtype, copy=False)

    def __repr__(self) -> str:
        return f"<{'x'.join(map(str, self.shape)) or 'scalar'} {self.dtype} on a device>"

    def on(self, session: Session) -> Any:
        """Itself as an argument for `session`; a copy if that is on another device."""
        return self._view if session.device is self._session.device else session.place([np.asarray(self)])[0]


def _contiguous(arrays: Sequence[ArrayLike | Tensor]) -> list[np.ndarray[Any, Any] | Tensor]:
    return [a if isinstance(a, Tensor) else np.ascontiguousarray(a).reshape(np.shape(a)) for a in arrays]


class EntryPoint:
    """An entry point of a model on a device. It takes one array for each input, in order: numpy's, or a Tensor.

    One that has buckets runs the function whose size is that of the arrays.
    """

    def __init__(self, group: Sequence[EntryInfo], session: Session, is_cpu: bool) -> None:
        self._group, self._session, self._is_cpu = group, session, is_cpu

    @property
    def signature(self) -> str:
        """What it takes and gives, for people."""
        one = self._group[0]
        return f"{entries.describe(one.inputs, self._group)} → {entries.describe(one.outputs)}"

    def __call__(self, *arrays: ArrayLike | Tensor) -> tuple[np.ndarray[Any, Any], ...]:
        """Run it once; the outputs, in order. Raises PipelineError for arrays that do not fit the signature.

        On a CPU outputs are not copied, nor are arrays that `aligned` made.
        """
        given = _contiguous(arrays)
        seen = (a if isinstance(a, np.ndarray) else a._mapped() for a in given)
        taken = [array for array in seen if array is not None]
        found: list[np.ndarray[Any, Any]] = []
        for tensor in self._run(given, borrows=self._is_cpu):
            array = tensor._array()
            found.append(np.copy(array) if any(np.may_share_memory(array, a) for a in (*taken, *found)) else array)
        return tuple(found)

    def on_device(self, *arrays: ArrayLike | Tensor) -> tuple[Tensor, ...]:
        """The same, but the outputs stay on the device: as arguments of the next call they are not copied."""
        return self._run(_contiguous(arrays), borrows=False)

    def _run(self, given: Sequence[np.ndarray[Any, Any] | Tensor], borrows: bool) -> tuple[Tensor, ...]:
        entry = entries.fitting(self._group, given)
        placed = [a.on(self._session) if isinstance(a, Tensor) else self._session.place([a], borrows)[0] for a in given]
        views = self._session.call(entry.function, placed)
        if len(views) != len(entry.outputs):
            raise PipelineError(f"{entry.function} gives {len(views)} outputs, its manifest says {len(entry.outputs)}")
        return tuple(Tensor(self._session, view, info) for view, info in zip(views, entry.outputs, strict=True))

    def bucket(self, **sizes: int) -> int:
        """`bucket(T=100)`: the smallest size that the dimension T may have and that holds 100, to pad to.

        Raises PipelineError where all are smaller, or there is no such dimension.
        """
        if len(sizes) != 1:
            raise TypeError("bucket takes one dimension, as in bucket(T=100)")
        ((name, size),) = sizes.items()
        return entries.smallest(self._group, name, size)


class Model:
    """A release loaded on a device. Calling it takes one array for each input, in order, and returns the outputs in order.

    Of several entry points `model["step"]` is one, and iterating gives their names. `manifest` is the release's, `variant` the
    code that runs, `device` where, `parameters` the archive of the weights that are not in the file, or None, and `evidence` what
    witnesses say of the variant.
    """

    def __init__(
        self,
        manifest: Manifest,
        path: Path,
        variant: str,
        device: Device,
        parameters: Path | None = None,
        evidence: Standing | None = None,
    ) -> None:
        self.manifest, self.path, self.variant, self.device = manifest, path, variant, device
        self.parameters, self.evidence = parameters, evidence
        self._is_cpu = is_cpu(device)
        try:
            self._session = Session(path, _device(device.uri, device.threads), parameters)
        except (RuntimeError, ValueError) as error:  # the runtime's own
            what = f"{variant} cannot be loaded on {device.title}: {str(error).splitlines()[0]}"
            raise PipelineError(what, where=str(path), hint="`vmfb explain` tells more") from error

    def __getitem__(self, name: str) -> EntryPoint:
        """The entry point `name`, or the function of one bucket. Raises PipelineError where there is none."""
        return self._entry(str(name))

    def __iter__(self) -> Iterator[str]:
        """The names of the entry points."""
        return iter(entries.groups(self.manifest.entries))

    def _entry(self, name: str) -> EntryPoint:
        where = f"{self.manifest.model.name}@{self.manifest.version}"
        return EntryPoint(entries.asked(self.manifest.entries, name, where, 'call model["NAME"]'), self._session, self._is_cpu)

    def __call__(self, *arrays: ArrayLike | Tensor) -> tuple[np.ndarray[Any, Any], ...]:
        """Run its only entry point once. Raises PipelineError for arrays that are not of the signature's dtypes and shapes."""
        return self._entry("")(*arrays)

    def on_device(self, *arrays: ArrayLike | Tensor) -> tuple[Tensor, ...]:
        """`EntryPoint.on_device` of its only entry point."""
        return self._entry("").on_device(*arrays)

    def bucket(self, **sizes: int) -> int:
        """`EntryPoint.bucket` of its only entry point."""
        return self._entry("").bucket(**sizes)

    def __repr__(self) -> str:
        release = f"{self.manifest.model.name}@{self.manifest.version}"
        return f"<{release}: {self.variant} on {self.device.title}>"

    def _repr_html_(self) -> str:
        """What notebooks show."""
        release = f"{self.manifest.model.name}@{self.manifest.version}"
        rows = [("release", release), ("runs", f"{self.variant} on {self.device.title}")]
        return html_table([*rows, *((name, self[name].signature) for name in self)])


def load(
    model: str,
    *,
    store: str = "",
    device: str = "auto",
    bundle: str = "",
    require: str = "",
    offline: bool = False,
    lock: str | Path | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Model:
    """Fetch what the best device here needs of `model` (`NAME`, `NAME@VERSION` or `NAME:CHANNEL`) and load it.

    `lock` is a file of `vmfb lock` (default: VMFB_LOCK, or none): then a name means what it says.
    `store` is a URL or folder (default: PIPELINE_STORE), `device` as `vmfb run --device` takes it, `require` the evidence that
    the variant must have at least: `device`, `emulator` or `twin`. Raises PipelineError.
    """
    if require and require not in KINDS[1:]:
        raise PipelineError(f"require={require!r} is no kind of evidence", hint=f"one of: {', '.join(KINDS[:0:-1])}")
    release = opened(model, store, bundle, offline, lock, cache)
    remote, kept, manifest, artifact = release.remote, release.cache, release.manifest, release.artifact
    testimony = release.resolver.evidence(manifest, asks=True if require else None)
    runtimes.require(release.name, manifest.compiler.version, lambda: testimony.runtimes(artifact), warnings.warn)
    found = choices(gated(artifact, remote.url), named(of_this_machine(kept, warnings.warn), device))
    best = found[0] if found else None
    if best is None or best.variant is None:
        raise PipelineError(f"no device here may run {model}:\n    {refusal(found)}", hint="`vmfb explain` tells more")
    standing = testimony.of(artifact, [entry.function for entry in manifest.entries])[best.variant]
    evidence.require(standing, require, model, best.variant)
    for seen in standing.wrong:
        warnings.warn(f"{best.variant} of {model} was wrong on {seen.place}: {seen.proof.problem}", stacklevel=2)
    weights = fetch_weights(remote, kept, manifest, progress or Quiet())
    fetched = fetch(remote, kept, artifact, [best.variant], progress or Quiet())
    require_release(fetched.path, manifest)
    suited = ways.suited(best.device, device, standing)
    made = Model(manifest, fetched.path, best.variant, suited, weights.path if weights else None, standing)
    _require_same(made, [v.name for v in artifact.variants])
    return made


def _require_same(model: Model, names: Sequence[str]) -> None:
    """The module's own word on which variant runs must be the prediction: anything else is a bug."""
    selected = model._session.selected()
    said = names[selected] if selected is not None and 0 <= selected < len(names) else None
    if said != model.variant:
        raise RuntimeError(f"predicted was {model.variant}, the module runs {said}: this is a bug")

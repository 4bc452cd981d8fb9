"""How a page says to use a file of a release: commands that can be copied, and that are run by a test as they stand there."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from pipeline.consume.entries import groups, smallest
from pipeline.layout import blob_key, release_key
from pipeline.manifest.types import Artifact, EntryInfo, TensorInfo
from pipeline.site.gather import DEFAULT_CHANNEL, Release

SOMEWHERE = "https://…"  # where a store is that does not know its address; a script puts it there, where the page is served
_IREE = {"bool": "i1", "float16": "f16", "float32": "f32", "float64": "f64"}  # of dtypes; integers are i8 to i64


def reference(release: Release) -> str:
    """What users call it: the model alone where that means it."""
    if DEFAULT_CHANNEL in release.channels:
        return release.model
    return f"{release.model}:{release.channels[0]}" if release.channels else release.name


def commands(release: Release, artifact: Artifact, address: str) -> Iterator[tuple[str, str]]:
    """How to use a file of it: by `vmfb`, in Python, by IREE's own tools, and by curl."""
    manifest = release.manifest
    name, first = shlex.quote(reference(release)), manifest.entries[0]
    several = len(groups(manifest.entries)) > 1
    bundle = f" --bundle {shlex.quote(artifact.bundle)}" if artifact is not manifest.artifacts[0] else ""
    entry = f" --function {shlex.quote(first.name)}" if several else ""
    yield (
        "vmfb",
        f"export PIPELINE_STORE={shlex.quote(address)}\n"
        f"vmfb explain {name}{bundle}\n"
        f"vmfb fetch {name}{bundle}\n"
        f"vmfb run {name}{bundle}{entry} --check",
    )
    yield "Python", _python(release, artifact, address, several)
    weights = "".join(f" \\\n    --parameters={p.scope}=weights.irpa" for p in manifest.parameters)
    inputs = "".join(f" \\\n    --input={shlex.quote(_input(tensor, first))}" for tensor in first.inputs)
    file = shlex.quote(artifact.blob.name)
    run = f"iree-run-module --device=local-task --module={file} --function={shlex.quote(first.function)}{weights}{inputs}"
    yield "IREE's own tools", run
    yield "curl", "\n".join(_curl(release, artifact, address))


def _curl(release: Release, artifact: Artifact, address: str) -> Iterator[str]:
    """All files, checked: what any program can do without this one."""
    base = address if address.startswith(("https://", "http://")) else SOMEWHERE
    yield f"STORE={shlex.quote(base)}"
    yield f'curl -fO "$STORE/{release_key(release.model, release.version)}"'
    named = [(artifact.blob.name, artifact.blob), *(("weights.irpa", p.blob) for p in release.manifest.parameters)]
    for name, blob in named:
        yield f'curl -fo {shlex.quote(name)} "$STORE/{blob_key(blob.sha256)}"'
        yield f"echo {shlex.quote(f'{blob.sha256}  {name}')} | sha256sum -c"


def _python(release: Release, artifact: Artifact, address: str, several: bool) -> str:
    first = release.manifest.entries[0]
    bundle = f", bundle={artifact.bundle!r}" if artifact is not release.manifest.artifacts[0] else ""
    arrays = ", ".join(f"np.zeros({_sized(tensor, first)}, np.{tensor.dtype})" for tensor in first.inputs)
    call = f"model[{first.name!r}]" if several else "model"
    return (
        "import numpy as np, vmfb\n"
        f"model = vmfb.load({reference(release)!r}, store={address!r}{bundle})\n"
        f"outputs = {call}({arrays})\n"
        "print(model.variant, model.device.title)"
    )


def _sized(tensor: TensorInfo, entry: EntryInfo) -> tuple[int, ...]:
    """Its shape with the smallest sizes that its dimensions may have."""
    return tuple(1 if d is None else smallest([entry], d, 0) if isinstance(d, str) else d for d in tensor.shape)


def _input(tensor: TensorInfo, entry: EntryInfo) -> str:
    type_ = _IREE.get(tensor.dtype) or tensor.dtype.replace("uint", "i").replace("int", "i")
    return f"{'x'.join(map(str, (*_sized(tensor, entry), type_)))}=0"

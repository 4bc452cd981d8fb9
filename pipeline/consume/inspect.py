"""What a vmfb holds, from the file alone: ours or anyone's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes
from pipeline.iree import backends
from pipeline.iree.file import choice, description, vmfb
from pipeline.iree.file.description import Described
from pipeline.iree.gates import Gated
from pipeline.manifest.codec import decode_identity
from pipeline.manifest.types import Identity, Manifest, SourceFile


@dataclass(frozen=True)
class Part:
    """A segment with what its own bytes tell: an executable's `format`; empty for constant data.

    `variants` are those whose code it is, by the file's own description. Not `fetched`: a hole in a file that was fetched for
    other devices.
    """

    segment: vmfb.Segment
    format: str
    variants: tuple[str, ...] = ()
    fetched: bool = True


@dataclass(frozen=True)
class Contents:
    """A vmfb's contents. `described` are the variants of a gated file, in order; empty for a file of plain iree-compile.

    `identity` is which model the file says it is, None where it does not. `forced` is the variant that it runs whatever the
    gates say, in a copy made for that; empty where the gates choose.
    """

    path: Path
    module: vmfb.Module
    parts: tuple[Part, ...]
    described: tuple[Described, ...]
    identity: Identity | None
    forced: str = ""

    @property
    def needs_parameters(self) -> bool:
        """Whether it loads weights from an archive."""
        return any(name.startswith("io_parameters.") for name in self.module.imports)

    @property
    def variants(self) -> tuple[Gated, ...]:
        """The variants as selection sees them."""
        return tuple(d.gated for d in self.described)

    @property
    def formats(self) -> dict[str, int]:
        """Executable format → bytes of code in it."""
        sizes: dict[str, int] = {}
        for part in self.parts:
            if part.format:
                sizes[part.format] = sizes.get(part.format, 0) + part.segment.length
        return sizes

    def read(self, part: Part) -> bytes:
        """The bytes of a part."""
        with self.path.open("rb") as file:
            file.seek(part.segment.offset)
            return file.read(part.segment.length)

    def holds(self, variant: str) -> bool:
        """Whether all code of `variant` is in the file, and not left out by a fetch for other devices."""
        return all(part.fetched for part in self.parts if variant in part.variants)

    def code(self, variant: str) -> tuple[int, str]:
        """The bytes of a variant's code, and its digest, as a manifest has them: over the digests of its parts in file order."""
        parts = sorted({(p.segment.offset, p.segment.length, p.segment.sha256) for p in self.parts if variant in p.variants})
        return sum(length for _, length, _ in parts), sha256_bytes("".join(sha256 for *_, sha256 in parts).encode())

    @property
    def entries(self) -> tuple[vmfb.Export, ...]:
        """The exported functions that callers are meant to use."""
        return tuple(e for e in self.module.exports if not (e.name.startswith("__") or "$" in e.name))

    @property
    def declarations(self) -> tuple[str, ...]:
        """Names and types of those functions, where the compiler kept them."""
        return tuple(e.attributes.get("iree.abi.declaration", f"@{e.name}(…)") for e in self.entries)


def _part(segment: vmfb.Segment, data: bytes, variants: tuple[str, ...], expected: str) -> Part:
    """`expected` is the format of the code that it should be; empty where the file does not say."""
    found = backends.recognize(data[: backends.HEAD])
    if found:
        backend = backends.of_format(found)
        damaged = backend is not None and not backend.is_whole(data)
        return Part(segment, f"{found} (damaged)" if damaged else found, variants)
    if expected:
        is_hole = data[:4] == bytes(4)
        return Part(segment, expected if is_hole else f"{expected} (damaged)", variants, not is_hole)
    return Part(segment, "")


def inspect(path: Path, digests: bool = True) -> Contents:
    """The contents of the vmfb at `path`. Raises PipelineError where it is none. Without `digests` large files take no time."""
    module = vmfb.read(path, digests)
    described, identity = description.read(module, str(path)), _identity(module, path)
    users: dict[int, list[Described]] = {}
    for variant in described:
        for segment in variant.segments(module):
            users.setdefault(segment.number, []).append(variant)
    parts = []
    with path.open("rb") as file:
        for segment in module.segments:
            file.seek(segment.offset)
            data = file.read(min(segment.length, backends.HEAD))
            if backends.recognize(data):
                data += file.read(segment.length - len(data))
            used = users.get(segment.number, [])
            parts.append(_part(segment, data, tuple(d.gated.name for d in used), used[0].gated.format if used else ""))
    return Contents(path, module, tuple(parts), described, identity, _forced(module, described, path))


def _forced(module: vmfb.Module, described: Sequence[Described], path: Path) -> str:
    index = choice.read(path, module) if described and description.choice(module) else choice.BY_GATES
    return "" if index == choice.BY_GATES else described[index].gated.name


def _identity(module: vmfb.Module, path: Path) -> Identity | None:
    text = description.identity(module)
    if not text:
        return None
    said = decode_identity(text, str(path))
    held = {export.name for export in module.exports}
    if strange := [entry.function for entry in said.entries if entry.function not in held]:
        raise PipelineError(f"it says that it has the function {strange[0]!r:.100}, and does not export it", where=str(path))
    return said


def require_release(path: Path, manifest: Manifest) -> None:
    """Raise PipelineError if the file at `path` says that it is of another release than the manifest's, or of other weights."""
    said = _identity(vmfb.read(path, digests=False), path)
    if said is None:  # of an older release
        return
    functions = {(entry.function, entry.sha256, entry.files) for entry in said.entries}
    wanted = {(entry.function, entry.source.sha256, entry.source.files) for entry in manifest.entries}
    blobs = [(blob.sha256, blob.size) for blob in said.parameters]
    if said.model != manifest.model.name or functions != wanted:
        what = f"is the file of another model: it says that it is {said.model!r:.100}, made of {_digests(functions)}"
    elif blobs != [(p.blob.sha256, p.blob.size) for p in manifest.parameters]:
        what = "needs other weights than its manifest names"
    else:
        return
    release = f"{manifest.model.name}@{manifest.version}"
    raise PipelineError(what, where=str(path), hint=f"the release {release} is damaged: tell who publishes it")


def _digests(functions: set[tuple[str, str, tuple[SourceFile, ...]]]) -> str:
    digests = {digest for _, sha256, files in functions for digest in (sha256, *(file.sha256 for file in files))}
    return ", ".join(f"{sha256[:16]}…" for sha256 in sorted(digests)[:3])

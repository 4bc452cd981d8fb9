"""Reproduce: a release of a store built once more from the present checkout, all of it anew, and compared byte for byte."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline import activity
from pipeline.consume import diff, fetch, inspect
from pipeline.consume.api import Quiet
from pipeline.consume.cache import Cache
from pipeline.consume.reference import Reference
from pipeline.consume.render import difference_lines
from pipeline.consume.resolve import Remote, Resolver
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import fresh_folder, sha256_file, write
from pipeline.iree import toolchain
from pipeline.iree.file import vmfb
from pipeline.layout import Layout
from pipeline.manifest import provenance as said
from pipeline.manifest.types import Artifact, Manifest, SegmentInfo
from pipeline.plain import plain
from pipeline.spec import defaults
from pipeline.spec.types import Model, Spec
from pipeline.stages import assembly, parameters, provenance, rebuild, testdata
from pipeline.stages import compile as compile_stage
from pipeline.stages.compiled import Compiled

_log = logging.getLogger(__name__)


def run(url: str, model: str, version: str, spec: Spec, own: Path, folder: Path) -> None:
    """Build MODEL@VERSION of the store at `url` again by `spec`, below `folder`, and compare; `report.txt`. `own`: doit's `out/`.

    Raises PipelineError that names the parts that differ, and what is not here as it was when it was built.
    """
    if not model or not version:
        raise PipelineError("which release?", hint="doit reproduce model=NAME version=VERSION")
    remote, notes = Remote(url), list[str]()
    with disk_errors(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
    cache = Cache(folder / "cache")
    resolver = Resolver(remote, cache, notes.append)
    manifest = resolver.manifest(Reference(model, version=version))
    notes += _changed(resolver, manifest, spec)
    for note in notes:
        _log.warning("%s", plain(note))  # before hours of work
    place = folder / model
    activity.say("building it anew")
    with disk_errors(str(place)), fresh_folder(place):
        job = rebuild.Job(model, str(spec.models[model].path.parents[1]), str(place), str(own), *_wanted(manifest, spec))
        # An empty cache that goes afterwards, and no other machine's.
        anew = {"PIPELINE_CACHE_DIR": str(place / "pieces"), "PIPELINE_CACHE": "", "PIPELINE_SCHEDULER": ""}
        rebuild.run(job, place, anew)
        shutil.rmtree(place / "pieces", ignore_errors=True)
    compared = _Compared(manifest, spec.models[model], Layout(place), remote, cache)
    differing, same = list(compared.differing()), list(compared.same)
    lines = [f"{model}@{version}", *map(plain, notes), *(f"the same: {name}" for name in same), *differing, *compared.left_out]
    write(folder / "report.txt", "".join(f"{line}\n" for line in lines).encode())
    if differing:
        what = f"{model}@{version} was built again, and differs"
        hint = f"check out what it was built from; what was built is in {place}"
        raise PipelineError("\n".join([what, *differing]), where=str(folder / "report.txt"), hint=hint)


def _wanted(manifest: Manifest, spec: Spec) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """For each bundle the executable targets that its file has; and the bundles whose files are without our optimizations."""
    targets = {artifact.bundle: tuple(v.name for v in artifact.variants) for artifact in manifest.artifacts}
    own, flag = {name: bundle.flags for name, bundle in spec.bundles.items()}, compile_stage.plain_flag()
    plain = [a.bundle for a in manifest.artifacts if flag in a.flags and flag not in own.get(a.bundle, ())]
    return targets, tuple(plain)


def _changed(resolver: Resolver, manifest: Manifest, spec: Spec) -> Iterator[str]:
    """What is not here as it was when the release was built: a reason why it may differ."""
    compiler, here = manifest.compiler, toolchain.version()
    if (compiler.version, compiler.commit) != (here["version"], here["commit"]):
        yield f"note: it was compiled by {compiler.package} {compiler.version}, here is {here['version']}"
    sources = {entry.source.sha256 for entry in manifest.entries}
    if sources != {source.sha256 for source in spec.models[manifest.model.name].sources}:
        yield "note: the spec names other model files than it was built from"
    try:
        document = resolver.provenance(manifest)
    except PipelineError as error:
        yield f"note: {error.what}: what else changed since is not known"
        return
    yield from _changed_since(document, manifest, spec)


def _changed_since(document: Mapping[str, Any], manifest: Manifest, spec: Spec) -> Iterator[str]:
    known = said.dependencies(document)
    project_then = known.get(said.PROJECT)
    commit = str(said.at(project_then, "digest", "gitCommit") or "")
    now = provenance.checkout(Path())
    if commit and (now is None or now.commit != commit):
        yield f"note: it was built from commit {commit[:12]}, here is {now.commit[:12] if now else 'no checkout'}"
    if now and not now.clean:
        yield "note: this checkout has changes that are in no commit"
    if commit and not said.at(project_then, "annotations", "clean"):
        yield "note: the checkout that it was built from had changes that are in no commit"
    for one in (provenance.own(), *provenance.programs(manifest.model.format)):
        uri = said.at(known.get(one.name), "uri")
        if uri != one.purl:
            yield f"note: it was built with {uri or f'no {one.name}'}, here is {one.purl}".replace("pkg:pypi/", "")
        elif one.sha256 and said.at(known.get(one.name), "digest", "sha256") != one.sha256:
            yield f"note: {one.name} {one.version} has other files than it was built with"
    for name, sha256 in said.specs(document).items():
        path = defaults.named(name)
        if not path.is_file() or sha256_file(path) != sha256:
            yield f"note: {name} is not as it was"


class _Compared:
    """A release beside what was built again below `layout`. `same` are the names of what does not differ, `left_out` why not all
    is compared."""

    def __init__(self, manifest: Manifest, model: Model, layout: Layout, remote: Remote, cache: Cache) -> None:
        self._manifest, self._model, self._layout = manifest, model, layout
        self._remote, self._cache = remote, cache
        self.same: list[str] = []
        self.left_out: list[str] = []

    def differing(self) -> Iterator[str]:
        """A line for each part that differs."""
        for artifact in self._manifest.artifacts:
            yield from self._file(artifact)
        yield from self._weights()
        yield from self._test_data()

    def _note(self, name: str, is_same: bool) -> bool:
        if is_same:
            self.same.append(name)
        return is_same

    def _file(self, artifact: Artifact) -> Iterator[str]:
        built = self._layout.compiled(self._model.name, artifact.bundle) / "module.vmfb"
        if self._note(artifact.blob.name, sha256_file(built) == artifact.blob.sha256):
            return
        compiled = Compiled.read(built.with_name("compiled.json"))
        now = assembly.segments(built, vmfb.read(built), compiled)
        yield f"differs: {artifact.blob.name}, {artifact.blob.size} bytes, now {built.stat().st_size}"
        yield from (f"  {line}" for line in _parts(artifact.segments, now))
        published = fetch.fetch(self._remote, self._cache, artifact, None, Quiet()).path
        difference = diff.difference(diff.of_file(inspect.inspect(published)), diff.of_file(inspect.inspect(built)))
        yield from (f"  {line}" for line in difference_lines(difference)[1:])

    def _weights(self) -> Iterator[str]:
        archive = self._layout.imported(self._model.name) / parameters.ARCHIVE
        built = sha256_file(archive) if archive.is_file() else ""
        for parameter in self._manifest.parameters:
            if not self._note(parameter.blob.name, built == parameter.blob.sha256):
                yield f"differs: {parameter.blob.name}, the weights"
        if built and not self._manifest.parameters:
            yield "differs: there are weights outside the files, and were none"

    def _test_data(self) -> Iterator[str]:
        folder = self._layout.root / "test-data"
        for entry, data in zip(self._manifest.entries, testdata.read_all(self._layout.reference(self._model.name)), strict=True):
            name = f"test data of {entry.function}"
            if not all(draw.tolerances for draw in data.draws):
                self.left_out.append(f"not compared: {name}, whose outputs are the weakest CPU variant's")
                continue
            now = assembly.draws(data, folder)
            blobs = [[b.sha256 for d in draws for b in (*d.inputs, *d.outputs)] for draws in (entry.reference.draws, now)]
            if not self._note(name, blobs[0] == blobs[1]):
                count = sum(a != b for a, b in zip(*blobs, strict=False)) + abs(len(blobs[0]) - len(blobs[1]))
                yield f"differs: {name}, {count} of {len(blobs[0])} arrays (another CPU may round otherwise)"


def _parts(before: tuple[SegmentInfo, ...], now: tuple[SegmentInfo, ...]) -> Iterator[str]:
    """How many stretches of each kind, for whom, are not there again."""
    found = {segment.sha256 for segment in now}
    kinds: dict[str, list[SegmentInfo]] = {}
    for segment in before:
        kinds.setdefault(f"{segment.kind} for {', '.join(segment.variants) or 'every device'}", []).append(segment)
    for kind, segments in kinds.items():
        if lost := [segment for segment in segments if segment.sha256 not in found]:
            yield f"{kind}: {len(lost)} of {len(segments)} stretches differ, {sum(s.length for s in lost)} bytes"

"""Being a witness: run every variant that the devices here accept against a release's test data, and say what was seen.

It takes the runtime and a store, and no compiler: what a device accepts and would not choose is run by a copy of the file that
says so.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline import arrays
from pipeline.arrays import Array
from pipeline.compare import Tolerance, compare
from pipeline.consume import fetch, inputs, inspect
from pipeline.consume.cache import Cache
from pipeline.consume.choose import gated
from pipeline.consume.inspect import Contents
from pipeline.consume.resolve import Remote
from pipeline.errors import PipelineError, disk_errors
from pipeline.iree import backends, devices
from pipeline.iree.device import Device
from pipeline.iree.devices import Run, ways
from pipeline.iree.devices.runtimes import Runtime, Trial, device_for
from pipeline.iree.file import choice
from pipeline.iree.gates import decide, select
from pipeline.machine import now, witness
from pipeline.manifest.codec import reference_digest
from pipeline.manifest.evidence import (
    EVIDENCE_SCHEMA,
    DriverLatency,
    EvidenceDocument,
    FileProof,
    FunctionProof,
    VariantProof,
)
from pipeline.manifest.types import Artifact, Blob, DrawInfo, EntryInfo, Manifest, VariantInfo

_LONG = 1.0  # seconds; of what takes longer, starting kernels is no part that is worth measuring


@dataclass(frozen=True)
class _Case:
    """A draw of an entry point, with its inputs in a file and what it must give."""

    entry: EntryInfo
    draw: DrawInfo
    inputs: Path
    wanted: Sequence[Array]


class Witnessing:
    """A release to be looked at. `say` is told what runs; `seconds` is for how long latency is measured, each."""

    def __init__(
        self,
        remote: Remote,
        cache: Cache,
        manifest: Manifest,
        progress: fetch.Progress,
        say: Callable[[str], None],
        seconds: float,
    ) -> None:
        self._remote, self._cache, self.manifest = remote, cache, manifest
        self._progress, self._say, self._seconds = progress, say, seconds

    def attest(self, found: Sequence[Device], bundle: str = "") -> EvidenceDocument:
        """What is seen of the release, or of one bundle's file, on these devices: a document that is not published yet.

        Raises PipelineError if no device here accepts any variant.
        """
        chosen = [fetch.pick(self.manifest, bundle)] if bundle else self.manifest.artifacts
        with disk_errors("the folder for temporary files"), tempfile.TemporaryDirectory(prefix="vmfb-") as name:
            folder = Path(name)
            cases = self._cases(folder)
            files = tuple(self._file(artifact, found, cases, folder / artifact.bundle) for artifact in chosen)
        if not any(file.variants for file in files):
            what = f"no device here accepts any variant of {self.manifest.model.name}@{self.manifest.version}"
            raise PipelineError(what, hint="`vmfb explain` tells why")
        return self._document(files)

    def try_runtimes(self, found: Sequence[Device], wanted: Mapping[str, Sequence[Runtime]]) -> EvidenceDocument:
        """How the files of bundles run on one of these devices in other runtimes, `wanted` for each bundle: a document that is
        not published yet. Runtimes that could not be tried are left out. Errors as `Trial.of`.
        """
        files = []
        with disk_errors("the folder for temporary files"), tempfile.TemporaryDirectory(prefix="vmfb-") as name:
            cases = self._cases(Path(name))[: len(self.manifest.entries)]
            for artifact in self.manifest.artifacts:
                if wanted.get(artifact.bundle):
                    trial = self._trial(artifact, found, cases, Path(name) / artifact.bundle)
                    tried = tuple(info for info in trial.of(wanted[artifact.bundle]) if info.works is not None)
                    files += [FileProof(artifact.bundle, artifact.blob.sha256, (), tried)] if tried else []
        return self._document(tuple(files))

    def _trial(self, artifact: Artifact, found: Sequence[Device], cases: Sequence[_Case], folder: Path) -> Trial:
        variants = gated(artifact, self._remote.url)
        device = device_for(variants, found)
        module, weights = Path(), None
        if device and (chosen := select(variants, device.facts)):
            self._say(f"{self.manifest.model.name}: {chosen} on {device.title}, in other runtimes")
            weights = fetch.fetch_weights(self._remote, self._cache, self.manifest, self._progress)
            module = fetch.fetch(self._remote, self._cache, artifact, [chosen], self._progress).path
            inspect.require_release(module, self.manifest)

        def judged(ran: Run, name: str, device: Device) -> tuple[bool | None, str]:
            info = artifact.variants[ran.selected or 0]
            proof = _judged(info, device, ran, cases, [devices.outputs(folder, name, n) for n in range(ran.done)])
            if proof.problem:
                return False, f"{info.name} on {device.title}: {proof.problem}"
            return True, f"{info.name} on {device.title}, max error {max(f.max_abs_error for f in proof.functions):.1e}"

        functions, inputs = [case.entry.function for case in cases], [case.inputs for case in cases]
        return Trial(module, device, functions, inputs, folder, weights.path if weights else None, judged)

    def _document(self, files: tuple[FileProof, ...]) -> EvidenceDocument:
        weights = tuple(p.blob.sha256 for p in self.manifest.parameters)
        reference = reference_digest(self.manifest)
        return EvidenceDocument(EVIDENCE_SCHEMA, self.manifest.model.name, reference, weights, now(), witness(), files)

    def _cases(self, folder: Path) -> list[_Case]:
        """All draws of all entry points: the first of each, then the second, …: if time runs short, each was run."""
        most = max(len(entry.reference.draws) for entry in self.manifest.entries)
        found: list[_Case] = []
        for number in range(most):
            for entry in self.manifest.entries:
                if number < len(entry.reference.draws):
                    draw, path = entry.reference.draws[number], folder / f"case-{len(found)}.npz"
                    arrays.write(path, self._arrays(draw.inputs))
                    found.append(_Case(entry, draw, path, self._arrays(draw.outputs)))
        return found

    def _arrays(self, blobs: Sequence[Blob]) -> list[Array]:
        return [inputs.load(fetch.fetch_blob(self._remote, self._cache, blob, self._progress)) for blob in blobs]

    def _file(self, artifact: Artifact, found: Sequence[Device], cases: Sequence[_Case], folder: Path) -> FileProof:
        variants = gated(artifact, self._remote.url)
        accepted = [
            (device, number)
            for device in found
            for number, variant in enumerate(variants)
            if decide([variant], device.facts)[0].accepted
        ]
        if not accepted:
            return FileProof(artifact.bundle, artifact.blob.sha256, (), ())
        wanted = [artifact.variants[number].name for number in sorted({number for _, number in accepted})]
        weights = fetch.fetch_weights(self._remote, self._cache, self.manifest, self._progress)
        fetched = fetch.fetch(self._remote, self._cache, artifact, wanted, self._progress)
        inspect.require_release(fetched.path, self.manifest)
        contents = inspect.inspect(fetched.path)
        for name in wanted:
            _require_code(contents, next(v for v in artifact.variants if v.name == name))
        proofs = []
        for place, (device, number) in enumerate(accepted):
            info = artifact.variants[number]
            module = fetched.path
            if select(variants, device.facts) != info.name:
                module = folder / f"{info.name}.vmfb"
                if not module.exists():
                    folder.mkdir(exist_ok=True)
                    choice.force(fetched.path, number, module)
            self._say(f"{self.manifest.model.name}: {info.name} on {device.title}")
            ran = devices.run(
                module,
                device,
                [case.entry.function for case in cases],
                [case.inputs for case in cases],
                folder,
                f"run-{place}",
                parameters=weights.path if weights else None,
                seconds=self._seconds,
                repeats=1,
            )
            if not ran.error and ran.selected != number:
                raise RuntimeError(f"variant {number} was to run on {device.title}, the module ran {ran.selected}: this is a bug")
            proof = _judged(info, device, ran, cases, [devices.outputs(folder, f"run-{place}", n) for n in range(ran.done)])
            drivers: tuple[DriverLatency, ...] = ()
            if not proof.problem and (ran.latency_s or _LONG) < _LONG:
                first, archive = cases[0], weights.path if weights else None
                seconds = self._seconds / 2
                drivers = ways.measure(module, device, first.entry.function, first.inputs, folder, archive, seconds)
            proofs.append(replace(proof, matrix_kernels=_matrix_kernels(contents, info), drivers=drivers))
        return FileProof(artifact.bundle, artifact.blob.sha256, tuple(proofs), ())


def _require_code(contents: Contents, variant: VariantInfo) -> None:
    """Raise PipelineError if the file's code of the variant is not that whose digest the manifest has."""
    if contents.code(variant.name) != (variant.size, variant.sha256):
        what = f"its code for {variant.name} is not the one that its manifest names"
        raise PipelineError(what, where=str(contents.path), hint="the release is damaged: tell who publishes it")


def _matrix_kernels(contents: Contents, variant: VariantInfo) -> int:
    """How many of the variant's kernels use matrix cores."""
    backend = backends.of_format(variant.format)
    code = (part for part in contents.parts if variant.name in part.variants)
    return sum(backend.uses_matrix_cores(contents.read(part)) for part in code) if backend else 0


def _judged(info: VariantInfo, device: Device, ran: Run, cases: Sequence[_Case], outputs: Sequence[Path]) -> VariantProof:
    """What the run says of the variant."""
    lanes = backends.subgroup_size(device)
    proof = VariantProof(
        variant=info.name,
        sha256=info.sha256,
        kind="device",
        reason="",
        problem="",
        device=device.name,
        driver=device.driver_info,
        subgroup_sizes=(lanes,) if lanes else (),
        functions=(),
        load_s=ran.load_s or None,
        latency_s=ran.latency_s,
        spread_s=ran.spread_s,
        rounds=ran.rounds,
        peak_memory=ran.peak_memory,
        matrix_kernels=None,
    )
    if ran.slow:
        return replace(proof, kind="untested", reason=f"{ran.error}: too slow for this device")
    if ran.error:
        return replace(proof, problem=ran.error)
    found: dict[str, list[FunctionProof]] = {}
    problem = ""
    for case, path in zip(cases, outputs, strict=False):
        tolerances = [Tolerance(**asdict(t)) for t in case.draw.tolerances]
        names = [f"output {tensor.name!r}" for tensor in case.entry.outputs]
        result = compare(arrays.read(path), case.wanted, tolerances, names, case.draw.spared)
        if result.problem and not problem:
            problem = f"{case.entry.function}: {result.problem} (test data `{case.draw.name}`)"
        errors = map(_finite, (result.max_abs, result.max_rel, round(result.of_tolerance, 6)))
        numbers = FunctionProof(case.entry.function, 1, *errors)
        found.setdefault(case.entry.function, []).append(numbers)
    if ran.spoiled:
        problem = f"writes over its inputs, for {ran.spoiled} of {ran.done} sets of test data"
    elif ran.varies and not problem:
        problem = f"gives other numbers when it is run again, for {ran.varies} of {ran.done} sets of test data"
    missing = [case.entry.function for case in cases if case.entry.function not in found]
    reason = f"not run, for other functions took all the time that there was: {', '.join(missing)}" if missing else ""
    return replace(proof, reason=reason, problem=problem, functions=tuple(_worst(of) for of in found.values()))


def _finite(error: float) -> float:
    """The error as a document can have it: what is infinite, or no number, as the largest that there is."""
    return error if math.isfinite(error) else sys.float_info.max


def _worst(proofs: Sequence[FunctionProof]) -> FunctionProof:
    return FunctionProof(
        proofs[0].function,
        len(proofs),
        max(p.max_abs_error for p in proofs),
        max(p.max_rel_error for p in proofs),
        max(p.of_tolerance for p in proofs),
    )

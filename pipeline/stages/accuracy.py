"""Accuracy: each variant that runs here, on the model's data set, against the score of its reference."""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from pipeline import activity, arrays
from pipeline.accuracy import metrics, text
from pipeline.accuracy.dataset import Call
from pipeline.arrays import Array
from pipeline.files import fresh_folder
from pipeline.iree import backends, devices
from pipeline.iree.device import Device
from pipeline.iree.gates import decide, select
from pipeline.manifest.evidence import AccuracyProof
from pipeline.stages import checks
from pipeline.stages.checks import Check, Failure, Result
from pipeline.stages.evidence import Evidence
from pipeline.stages.scored import Trial

_PATIENCE = 1800.0  # seconds for a variant on a data set
_CALLS = 256  # of one child process
_BYTES = 256 << 20  # of inputs and outputs on the disk at a time
_HINT = "`limit` in `evaluate` says how much worse a variant may be"


class _TooSlowError(Exception):
    """A data set that takes longer than there is time for."""


class _CrashedError(Exception):
    """A device that does not run a sample."""


def scored(check: Check, trials: Sequence[Trial], evidence: Sequence[Evidence]) -> list[Result]:
    """The evidence of all variants, with the accuracy of those that ran here; a failure where that is worse than it may be."""
    return [_scored(check, trials, proof) if proof.kind in ("device", "emulator") else proof for proof in evidence]


def _scored(check: Check, trials: Sequence[Trial], proof: Evidence) -> Result:
    index = next(n for n, v in enumerate(check.compiled.variants) if v.gated.name == proof.variant)
    device = _device(check, index, proof)
    for trial in trials:
        try:
            found = _one(check, index, device, trial)
        except _TooSlowError as error:
            proof = replace(proof, reason="; ".join(filter(None, [proof.reason, f"{trial.scored.function} not scored: {error}"])))
            continue
        except _CrashedError as error:
            return Failure(proof.variant, checks.place(proof.kind, device), str(error))
        proof = replace(proof, accuracy=(*proof.accuracy, found))
        if problem := _problem(found):
            return Failure(proof.variant, checks.place(proof.kind, device), problem, hint=_HINT)
    return proof


def _device(check: Check, index: int, proof: Evidence) -> Device:
    """The device that the evidence is of."""
    gated = check.compiled.variants[index].gated
    same = (d for d in check.devices if (d.name, d.driver_info) == (proof.device, proof.driver))
    return next(device for device in same if decide([gated], device.facts)[0].accepted)


def _one(check: Check, index: int, device: Device, trial: Trial) -> AccuracyProof:
    """The variant's score: on all samples, or on a part where a CPU plays the device."""
    numbers = trial.numbers(everything=not (device.emulator or backends.is_software_gpu(device)))
    metric = metrics.metric(trial.evaluation, trial.outputs, trial.data.vocabulary, trial.spec)
    for call, outputs in _run(check, index, device, trial, numbers):
        for number, of_sample in call.each(outputs, trial.data.where):
            metric.add(of_sample, trial.data.labels[number])
    whole = len(numbers) == len(trial.scored.numbers)
    return AccuracyProof(
        trial.scored.function,
        trial.evaluation.metric,
        trial.evaluation.better,
        round(metric.score(), 9),
        round(trial.scored.score if whole else trial.scored.part, 9),
        trial.scored.evaluator,
        len(numbers),
        round(trial.allowed(numbers), 9),
        trial.sha256,
    )


def _run(check: Check, index: int, device: Device, trial: Trial, numbers: Sequence[int]) -> Iterator[tuple[Call, list[Array]]]:
    """Each call with what the variant gives for it: as many in a child as have room on the disk."""
    gated, function = [v.gated for v in check.compiled.variants], trial.scored.function
    name = gated[index].name
    module = check.module if select(gated, device.facts) == name else checks.forced(check, index)
    folder, started, done = check.folder / f"scored-{name}", time.monotonic(), 0
    at_once = max(1, min(_CALLS, _BYTES // max(trial.scored.call_bytes, 1)))
    coming, waiting = trial.data.calls(numbers), list[Call]()
    while waiting := [*waiting, *itertools.islice(coming, at_once - len(waiting))]:
        if time.monotonic() > started + _PATIENCE:
            raise _TooSlowError(f"{done} of {len(numbers)} samples took {_PATIENCE:.0f} s; `samples` may be fewer")
        activity.say(f"{name}: {done} of {len(numbers)} samples")
        with fresh_folder(folder):
            files = [folder / f"{place}.inputs.npz" for place in range(len(waiting))]
            for file, call in zip(files, waiting, strict=True):
                arrays.write(file, call.inputs)
            once = partial(devices.run, module, device, function, files, folder, "run", parameters=check.parameters)
            ran = checks.asked_again(once, device)
        if ran.slow:
            raise _TooSlowError(ran.error)
        if ran.error:
            raise _CrashedError(f"{ran.error} (samples {waiting[0].samples[0]} to {waiting[-1].samples[-1]} of the data set)")
        for place, call in enumerate(waiting[: ran.done]):
            yield call, arrays.read(devices.outputs(folder, "run", place))
            done += len(call.samples)
        waiting = waiting[ran.done :]
    shutil.rmtree(folder, ignore_errors=True)


def _problem(found: AccuracyProof) -> str:
    """What is wrong with the score; empty where it is as good as it must be."""
    if found.is_within:
        return ""
    said, reference, limit = (text.score(found.metric, value) for value in (found.score, found.reference, found.limit))
    of = f"{text.named(found.metric)} of {found.function} is {said} on {found.samples} samples"
    return f"{of}, that of {text.evaluator(found.evaluator)} {reference}: it may be {limit} worse"

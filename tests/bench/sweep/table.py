"""The table of a sweep in Markdown, and why models were refused or targets left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.consume.render import size
from tests.bench.sweep.measure import Outcome

COLUMNS = ("model", "outcome", "s", "peak", "ONNX", "vmfb", "right on", "error, of allowed", "ms", "ONNX Runtime", "×")
_CPU = "x86-64"  # what the names of CPU targets begin with
_LEFT = ("model", "outcome", "right on")


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """A row for each model, in alphabetical order; below it every reason that was given, and the count of each outcome."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.name)
    rows = [_row(COLUMNS), _row(["---" if name in _LEFT else "---:" for name in COLUMNS])]
    rows += [_row(_cells(outcome)) for outcome in ordered]
    reasons = [line for outcome in ordered for line in _reasons(outcome)]
    return [*rows, "", *reasons, *([""] if reasons else []), _counts(ordered)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(outcome: Outcome) -> list[str]:
    by = f" by {outcome.stage}" if outcome.outcome in ("refused", "slow") else ""
    head = [outcome.name, outcome.outcome + by, f"{sum(outcome.seconds.values()):.0f}", size(outcome.peak), size(outcome.source)]
    if outcome.outcome != "published":
        return [*head, *[""] * (len(COLUMNS) - len(head))]
    worst = max(outcome.variants.values(), key=lambda variant: variant.of_allowed or 0)
    error = "" if worst.error is None or worst.of_allowed is None else f"{worst.error:.1e}, {worst.of_allowed:.0%}"
    return [*head, size(outcome.vmfb), _right_on(outcome), error, *_speed(outcome)]


def _right_on(outcome: Outcome) -> str:
    """How many targets of those that were asked for the file holds verified code of."""
    verified = sum(variant.kind != "untested" for variant in outcome.variants.values())
    return f"{verified} of {len(outcome.variants) + len(outcome.dropped)}"


def _speed(outcome: Outcome) -> list[str]:
    if not outcome.latency:
        return ["", "", ""]
    return [f"{outcome.latency:.2f}", f"{outcome.onnxruntime:.2f}", f"{outcome.latency / outcome.onnxruntime:.1f}"]


def _reasons(outcome: Outcome) -> Iterator[str]:
    if outcome.message:
        yield f"- {outcome.name}: {outcome.message}"
    for target, reason in outcome.dropped.items():
        yield f"- {outcome.name} without {target}: {reason.splitlines()[0]}"


def _counts(outcomes: Sequence[Outcome]) -> str:
    kinds = sorted({outcome.outcome for outcome in outcomes})
    counted = ", ".join(f"{sum(outcome.outcome == kind for outcome in outcomes)} {kind}" for kind in kinds)
    whole, seconds = sum(map(_is_whole, outcomes)), sum(sum(outcome.seconds.values()) for outcome in outcomes)
    return f"{len(outcomes)} models: {counted} ({whole} for every CPU and a GPU); {seconds:.0f} s of stages."


def _is_whole(outcome: Outcome) -> bool:
    """Whether the file holds verified code of every CPU target that was asked for and of some GPU's."""
    verified = {name for name, variant in outcome.variants.items() if variant.kind != "untested"}
    cpus = {name for name in (*outcome.variants, *outcome.dropped) if name.startswith(_CPU)}
    return outcome.outcome == "published" and cpus < verified

"""The verifier itself: `python -m tests.bench.mutation [--short] [--seed N] [--rounds N] [--json FILE]`.

Plants faults in models, in IR and in outputs, and counts those that verification catches. A fault after which the outputs
differ from the intact variant's by no more than the reference moves with the last place of inputs and weights counts as
`no effect`. Ends with 1 if less than 99 % of the others are caught, or if an intact variant is refused.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from pipeline.iree import devices
from pipeline.spec.load import load
from tests.bench.mutation import faults
from tests.bench.mutation.measure import TARGETS, Finding, Measured, measure, prepare, write_spec
from tests.bench.mutation.models import MADE

ROOT = Path(__file__).resolve().parents[3]
ENOUGH = 0.99
SHORT_MODELS = ("mlp", "half-attention", "detector", "integers")
SHORT_KINDS = (
    "channel of weights zero",
    "weights rounded",
    "activation dropped",
    "wrong for large inputs",
    *list(faults.OF_OUTPUTS)[:12],
)
VERDICTS = ("caught", "missed", "no effect", "impossible")


def _project(folder: Path, made: Sequence[str]) -> Path:
    targets = folder / "targets"
    shutil.copytree(ROOT / "targets", targets)
    for name in made:
        make, limits = MADE[name]
        write_spec(targets / "models", name, make(), limits)
    return targets


def measured(folder: Path, names: Sequence[str], kinds: Sequence[str], rounds: int = 1, seed: int = 0) -> list[Measured]:
    """Measure these models in a project in `folder`."""
    spec = load(_project(folder, [name for name in names if name in MADE]))
    device = devices.find(folder, ("local-task",))[0]
    targets = [spec.executables[name] for name in TARGETS]

    def one(name: str) -> Measured:
        model = spec.models[name]
        result = measure(prepare(model, spec.bundles[model.bundles[0]], targets, device, folder / "out", seed), kinds, rounds)
        shutil.rmtree(folder / "out" / "models" / name)
        return result

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, names))


def score(results: Sequence[Measured]) -> float:
    """The part of the faults with an effect that was caught."""
    counts = Counter(f.verdict for r in results for f in r.findings)
    return counts["caught"] / max(1, counts["caught"] + counts["missed"])


def _table(title: str, findings: Sequence[Finding], of: Callable[[Finding], str]) -> None:
    print(f"\n{title:<34} {'planted':>9}" + "".join(f"{verdict:>12}" for verdict in VERDICTS))
    for name in dict.fromkeys(map(of, findings)):
        counts = Counter(f.verdict for f in findings if of(f) == name)
        print(f"{name:<34} {counts.total():9}" + "".join(f"{counts[verdict]:12}" for verdict in VERDICTS))


def _tell(results: Sequence[Measured], seconds: float) -> None:
    findings = [f for r in results for f in r.findings]
    _table("kind of fault", findings, lambda f: f.kind)
    _table("model", findings, lambda f: f.model)
    counts = Counter(f.verdict for f in findings)
    print(f"\n{counts['caught']} of {counts['caught'] + counts['missed']} faults caught: {score(results):.2%}", end="; ")
    print(f"{counts['no effect']} without effect, {counts['impossible']} impossible; {seconds:.0f} s")
    for finding in sorted((f for f in findings if f.verdict == "missed"), key=lambda f: -f.of_tolerance):
        print(f"missed: {finding.kind}, {finding.model} for {finding.variant}: {finding.of_tolerance:.2g} of its tolerance")
    for result in results:
        for what in result.refused:
            print(f"REFUSED though intact: {result.model}, {what}")


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.mutation", description="Count the faults that verify catches.")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="only these (default: all)")
    parser.add_argument("--short", action="store_true", help=f"only {', '.join(SHORT_MODELS)}, and fewer kinds")
    parser.add_argument("--rounds", type=int, default=1, help="how often to plant each kind, at other places (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the places of the faults (default: 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every finding there, too")
    arguments = parser.parse_args()
    every = (*load(ROOT / "targets").models, *MADE)
    if unknown := set(arguments.models) - set(every):
        parser.error(f"no such model: {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    names = arguments.models or (SHORT_MODELS if arguments.short else every)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        kinds = SHORT_KINDS if arguments.short else faults.KINDS
        results = measured(Path(folder), names, kinds, arguments.rounds, arguments.seed)
    _tell(results, time.monotonic() - started)
    if arguments.json:
        arguments.json.write_text(json.dumps({"score": score(results), "models": [asdict(r) for r in results]}, indent=1))
    return int(score(results) < ENOUGH or any(r.refused for r in results))


if __name__ == "__main__":
    sys.exit(main())

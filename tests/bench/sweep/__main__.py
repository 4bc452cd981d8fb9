"""Real models through the pipeline: `python -m tests.bench.sweep [--names REGEX] [--jobs N] [--output FOLDER] [--table] …`.

Takes the models of `models/` (out of packages of the index, and some that scripts in `models/made` make) from fetch to publish,
each in processes of its own, and measures what that took and how fast the file's CPU code is beside ONNX Runtime: see `case`
and `measure`. The outcome of each is a line of `results.jsonl` in the output folder; those that are there already are not done
again. The work of a model that is not published stays in `work/`. Prints a table in Markdown; fails only if a process crashed,
never on a time.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from pipeline import process
from pipeline.errors import PipelineError
from pipeline.tasks import end_on_signals
from tests.bench.sweep.case import swept
from tests.bench.sweep.measure import Outcome
from tests.bench.sweep.table import table

DEFAULT = Path(__file__).resolve().parents[3] / "out" / "sweep"
# All of the bundle `desktop` but nvidia-ampere, whose code is amd-rdna3's where no matrix cores are used; a twin takes longest.
TARGETS = ("amd-rdna3", "vulkan-any", "x86-64-v4", "x86-64-v3", "x86-64")


def read(path: Path) -> dict[str, Outcome]:
    """The outcomes in a file, by name; the last of a name counts, and half a line is none."""
    found = {}
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            outcome = Outcome.decode(line)
        except (ValueError, KeyError, TypeError):
            continue
        found[outcome.name] = outcome
    return found


def attempt(name: str, folder: Path, targets: tuple[str, ...]) -> Outcome:
    """The outcome of a model, whose work is in `folder`; that of a published one is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    log = folder / "measure.log"
    ended = process.execute([sys.executable, "-m", "tests.bench.sweep.measure", name, folder, *targets], log)
    if process.interrupted():
        raise PipelineError("interrupted")
    if ended.returncode:
        return Outcome(name, "crashed", f"{ended.ending}: {process.tail(log, 1).strip()}")
    outcome = Outcome.decode((folder / "outcome.json").read_bytes())
    if outcome.outcome == "published":
        shutil.rmtree(folder)
    return outcome


def run(wanted: list[str], output: Path, jobs: int, targets: tuple[str, ...]) -> None:
    """Attempt what is not in the file of outcomes yet, and add to it what becomes known, at once."""
    results, lock = output / "results.jsonl", threading.Lock()
    todo = [name for name in wanted if name not in read(results)]

    def one(name: str) -> Outcome:
        outcome = attempt(name, output / "work" / name, targets)
        with lock, results.open("ab") as file:
            file.write(outcome.encode())
        return outcome

    output.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(one, name) for name in todo]
        try:
            for number, future in enumerate(as_completed(futures), 1):
                found = future.result()
                took = f"{sum(found.seconds.values()):.0f} s"
                print(f"{number}/{len(todo)} {found.name} {found.outcome} {found.stage} {took} {found.message}", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def main() -> int:
    """Run what is asked for and print what became of it."""
    parser = argparse.ArgumentParser(description="Take real models through the pipeline.")
    parser.add_argument("--names", default="", metavar="REGEX", help="only models whose name has this")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time (default: 1; more disturb the latencies)")
    parser.add_argument("--targets", nargs="+", default=TARGETS, metavar="TARGET", help=f"default: {' '.join(TARGETS)}")
    parser.add_argument("--output", type=Path, default=DEFAULT, metavar="FOLDER", help=f"default: {DEFAULT}")
    parser.add_argument("--table", action="store_true", help="only print the table of what is there")
    arguments = parser.parse_args()
    wanted = swept(arguments.names)
    end_on_signals()
    try:
        if not arguments.table:
            run(wanted, arguments.output, arguments.jobs, tuple(arguments.targets))
    except PipelineError as error:
        print(error, file=sys.stderr)
        return 2
    found = read(arguments.output / "results.jsonl")
    outcomes = [found[name] for name in wanted if name in found]
    print("\n".join(table(outcomes)))
    return 1 if any(outcome.outcome == "crashed" for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())

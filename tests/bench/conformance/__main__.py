"""ONNX's backend tests through the pipeline: `python -m tests.bench.conformance [--names REGEX] [--sample N --seed S] …`.

Takes every test of ONNX 1.17 that a spec can express through all stages up to the package, for the targets of the bundle
`desktop`, and compares what every published variant computes here with the outputs that ONNX gives: see `case`. Each test has
a process of its own, and its outcome is a line of `results.jsonl` in the output folder; those that are there already are not
done again. The work of a test that is not right stays in `work/`. Prints a summary; fails if anything published is wrong, or
anything crashed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.tasks import end_on_signals
from tests.bench.conformance import suite
from tests.bench.conformance.outcomes import bad, run, summary

DEFAULT = Path(__file__).resolve().parents[3] / "out" / "conformance"


def main() -> int:
    """Run what is asked for and print what became of it."""
    parser = argparse.ArgumentParser(description="Take ONNX's backend tests through the pipeline.")
    parser.add_argument("--names", default="", metavar="REGEX", help="only tests whose name has this, as in node/test_abs")
    parser.add_argument("--sample", type=int, default=0, metavar="N", help="only N of them")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="which ones (default: 0)")
    parser.add_argument("--targets", nargs="+", default=[], metavar="TARGET", help="only these (default: all of the bundle)")
    parser.add_argument("--open", action="store_true", help="with open dimensions, where ONNX Runtime takes other sizes too")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (default: 2)")
    parser.add_argument("--output", type=Path, default=DEFAULT, metavar="FOLDER", help=f"default: {DEFAULT}")
    arguments = parser.parse_args()
    end_on_signals()
    try:
        wheel = suite.download(arguments.output)
        cases, unfit = suite.select(suite.Suite(wheel), arguments.names, arguments.sample, arguments.seed)
        outcomes = run(
            wheel,
            cases,
            arguments.output,
            arguments.jobs,
            lambda line: print(line, flush=True),
            arguments.targets,
            is_open=arguments.open,
        )
    except PipelineError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(summary(outcomes, unfit)))
    return 1 if bad(outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())

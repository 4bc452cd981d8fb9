"""`vmfb profile`: which kernels the time of a run goes to, on the best device."""

from __future__ import annotations

import argparse

from pipeline.commands.jobs import prepare
from pipeline.files import write
from pipeline.terminal import put, put_document, say


def run(arguments: argparse.Namespace) -> None:
    """Profile what the arguments name: a table, JSON, and a flame graph. PipelineError where the device cannot be profiled."""
    work = prepare(arguments, on_reference=True)
    from pipeline.consume import profile  # numpy may not be installed: that was said first

    found = [profile.measure(work.contents, work.good[0], job.function, job.given, work.archive) for job in work.jobs]
    if arguments.output:
        write(arguments.output, profile.flame_graph(found).encode())
    if arguments.json:
        put_document(profile.as_json(found))
    else:
        for number, one in enumerate(found):
            put(*([""] if number else []), *profile.lines(one))
    if arguments.output:
        say(f"the flame graph is {arguments.output}: open it with https://www.speedscope.app")

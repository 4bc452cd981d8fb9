"""`vmfb devices`: the devices of this machine, or the names of others that are known."""

from __future__ import annotations

import argparse
import json

from pipeline.commands.release import here
from pipeline.consume import facts
from pipeline.consume.render import device_line
from pipeline.terminal import put, put_document


def run(arguments: argparse.Namespace) -> None:
    """Print the devices, for people or as JSON. PipelineError where the runtime is missing."""
    if arguments.known:
        names = facts.known_machines()
        width = max(map(len, names))
        put(*(f"{name.ljust(width)}  {', '.join(device.title for device in facts.of_machine(name))}" for name in names))
        return
    found = here("auto")
    if arguments.json:
        put_document(json.dumps(facts.to_json(found), indent=1))
    else:
        put(*map(device_line, found))

"""The command `vmfb`: parse, one call, render. The only place for consumers that prints or exits."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pipeline import __version__
from pipeline.consume import explain, inspect
from pipeline.consume.explain import MACHINES, Answer
from pipeline.consume.inspect import Contents
from pipeline.errors import PipelineError
from pipeline.iree import devices
from pipeline.iree.devices import Device


def _kilobytes(size: int) -> str:
    return f"{size / 1000:,.1f} kB"


def _print_contents(contents: Contents) -> None:
    module = contents.module
    print(f"{contents.path}: module @{module.name}, {_kilobytes(module.size)}")
    for line in inspect.signature(contents):
        print(f"  {line}")
    constants = sum(p.segment.length for p in contents.parts if not p.format)
    rows = [("constants", constants, sum(not p.format for p in contents.parts))]
    rows += [(f"code {name}", size, sum(p.format == name for p in contents.parts)) for name, size in contents.formats.items()]
    for name, size, count in rows:
        print(f"  {name:<32} {_kilobytes(size):>14}  {size / module.size:>4.0%}  {count} segments")
    print(f"  imports {len(module.imports)} functions of the runtime")
    if not contents.variants:
        print("  no gates: a device takes the first code of its format, right for it or not")
    for variant in contents.variants:
        print(f"  variant {variant.name} ({variant.format})")
        for gate in variant.gates:
            print(f"    if {gate}")


def _json_contents(contents: Contents) -> str:
    module = contents.module
    return json.dumps(
        {
            "module": module.name,
            "size": module.size,
            "exports": [{"name": e.name, "attributes": dict(e.attributes)} for e in module.exports],
            "imports": list(module.imports),
            "segments": [
                {
                    "name": p.segment.name,
                    "offset": p.segment.offset,
                    "length": p.segment.length,
                    "sha256": p.segment.sha256,
                    "format": p.format,
                }
                for p in contents.parts
            ],
            "variants": [{"name": v.name, "format": v.format, "gates": [str(g) for g in v.gates]} for v in contents.variants],
        },
        indent=1,
    )


def _print_answer(answer: Answer) -> None:
    runs = f"runs {answer.selected}" if answer.selected else "refuses the file"
    print(f"{answer.device.title}{' [software]' if answer.device.software and answer.device.driver == 'vulkan' else ''}: {runs}")
    chosen = False
    for decision in answer.decisions:
        mark = "→" if decision.variant == answer.selected and not chosen else ("·" if decision.accepted else "✗")
        chosen = chosen or mark == "→"
        accepted = "the first whose gates all hold" if mark == "→" else "would do too"
        print(f"  {mark} {decision.variant:<16} {accepted if decision.accepted else decision.reason}")
    for warning in answer.warnings:
        print(f"  ! {warning}")


def _devices(pretend: str | None) -> list[Device]:
    if pretend is None:
        with tempfile.TemporaryDirectory() as folder:
            return devices.find(Path(folder))
    named = MACHINES / f"{pretend}.json"
    return explain.pretend(named if named.exists() else Path(pretend))


def _inspect(arguments: argparse.Namespace) -> None:
    contents = inspect.inspect(arguments.file)
    if arguments.json:
        print(_json_contents(contents))
    else:
        _print_contents(contents)


def _explain(arguments: argparse.Namespace) -> None:
    contents = inspect.inspect(arguments.file)
    if not contents.variants:
        print(f"{arguments.file} has no gates. It holds {', '.join(contents.formats) or 'no code'}.")
        if "vulkan-spirv-fb" in contents.formats and len(contents.formats) == 1:
            print("There is no CPU code in it: where it runs, a Vulkan driver runs it, perhaps a software one.")
    for answer in explain.explain(contents, _devices(arguments.pretend)):
        _print_answer(answer)


def _list_devices(arguments: argparse.Namespace) -> None:
    found = _devices(None)
    if arguments.json:
        print(explain.to_json(found))
        return
    for device in found:
        held = [name for name, value in device.facts.answers.items() if value and device.driver == "local-task"]
        size = device.facts.answers.get("vulkan.device::subgroup_size")
        facts = f"subgroup size {size}" if device.driver == "vulkan" else " ".join(n.split("::")[1] for n in held)
        print(f"{device.uri}: {device.title}, {facts}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vmfb", description="what a vmfb holds, and what of it runs on a device")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("inspect", help="what is in a vmfb, from the file alone")
    command.add_argument("file", type=Path)
    command.add_argument("--json", action="store_true", help="for programs")
    command.set_defaults(call=_inspect)
    command = commands.add_parser("explain", help="which code of a vmfb each device runs, and why")
    command.add_argument("file", type=Path)
    names = ", ".join(sorted(p.stem for p in MACHINES.glob("*.json")))
    command.add_argument("--pretend", metavar="FACTS", help=f"for another machine: a file of `vmfb devices --json`, or {names}")
    command.set_defaults(call=_explain)
    command = commands.add_parser("devices", help="the devices of this machine")
    command.add_argument("--json", action="store_true", help="all facts, for --pretend")
    command.set_defaults(call=_list_devices)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point: 0, or 1 after a message on standard error."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.call(arguments)
    except PipelineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The command `vmfb`: parse, one call, render. Only this and `commands` print and exit for consumers (by way of `terminal`)."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

from pipeline import __version__, colors, completion, exits, variables
from pipeline.consume.lock import DEFAULT_FILE
from pipeline.errors import PipelineError, permitted
from pipeline.manifest.evidence import KINDS
from pipeline.plain import plain_lines
from pipeline.terminal import EndedError, at_work, flush, give_up_output, prepare_streams, say, signals_raise

_OTHER = "another machine: a file of `vmfb devices --json`, or a name of `vmfb devices --known`"
_RELEASE = "a model of the store; of it a version, or what a channel points to (default: latest)"
_STORE = "s3://…, https://…, hf://…, oci://… or a folder (default: PIPELINE_STORE, or out/store)"


def _bytes(text: str) -> int:
    units = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", text.strip().lower())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write 5GB, 500MB, …")
    return int(Decimal(match[1]) * units.get(match[2], 1))


def _command(commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, about: str) -> argparse.ArgumentParser:
    """A subcommand, which says of itself what the list of all says of it."""
    return commands.add_parser(name, help=about, description=about)


def _add_lock(command: argparse.ArgumentParser) -> None:
    command.add_argument("--lock", metavar="FILE", help="only what `vmfb lock` wrote there (default: VMFB_LOCK)")


def _add_store(command: argparse.ArgumentParser, bundle: bool = True) -> None:
    command.add_argument("--store", metavar="URL", help=_STORE)
    command.add_argument("--offline", action="store_true", help="only what the cache holds")
    if bundle:
        _add_lock(command)
        command.add_argument("--bundle", default="", help="which of the release's files (default: the first)")


def _add_parameters(command: argparse.ArgumentParser) -> None:
    command.add_argument("--parameters", type=Path, metavar="FILE", help="a FILE's weights (default: FILE.irpa beside it)")


def _add_fetch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = _command(commands, "fetch", "fetch a release's file, with the code that devices here need")
    command.add_argument("model", metavar="MODEL[@VERSION|:CHANNEL]", help=_RELEASE)
    command.add_argument(
        "--device",
        default="auto",
        metavar="DEVICE",
        help=f"auto (all of this machine), local, vulkan or another driver, a device's name; or {_OTHER}",
    )
    much = command.add_mutually_exclusive_group()
    much.add_argument("--full", action="store_true", help="the whole file, for every device")
    much.add_argument("--parameters", action="store_true", help="only the weights, where the file does not hold them")
    command.add_argument("-o", "--output", metavar="PATH", help="copy it there (default: only into the cache)")
    command.add_argument("-q", "--quiet", action="store_true", help="print only the path")
    _add_store(command)
    command.set_defaults(module="fetch")


def _add_attest(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = _command(commands, "attest", "run a release on all devices here, and add what was seen")
    command.add_argument("model", nargs="?", metavar="MODEL[@VERSION|:CHANNEL]", help=_RELEASE)
    command.add_argument("--all", action="store_true", help="what the channels of all models point to")
    command.add_argument("--since", default="", metavar="DAY", help="with --all: not what this machine has since attested (7d)")
    command.add_argument("--device", default="auto", help="only this one: local, vulkan or another driver, or a device's name")
    command.add_argument("--seconds", type=float, default=0.5, help="of measuring latency, for each variant (default: 0.5)")
    command.add_argument("--store", metavar="URL", help="s3://… or a folder (default: PIPELINE_STORE, or out/store)")
    _add_lock(command)
    command.add_argument("--bundle", default="", help="only this one of the release's files (default: all)")
    command.add_argument("-o", "--output", metavar="FILE", help="write the document there instead of to the store; -: print it")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress")
    command.set_defaults(module="attest")


def _add_diff(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = _command(commands, "diff", "compare two releases, or files")
    command.add_argument("before", metavar="A", help="FILE or MODEL[@VERSION|:CHANNEL]")
    command.add_argument("after", metavar="B", help="what it is compared with, likewise")
    command.add_argument("--kernels", action="store_true", help="fetch both files to tell which kernels changed")
    command.add_argument("--json", action="store_true", help="for programs")
    _add_store(command)
    command.set_defaults(module="diff")


def _add_what_runs(command: argparse.ArgumentParser) -> None:
    command.add_argument("what", metavar="FILE|MODEL", help="a vmfb, or MODEL[@VERSION|:CHANNEL] of the store")
    command.add_argument("--device", default="auto", help="auto (the best), local, vulkan or another driver, or a device's name")
    command.add_argument("--input", action="append", default=[], metavar="INPUT", help="x.npy, or like 1x3xf32=0.5; one for each")
    command.add_argument("--function", default="", help="which entry point, or exported function (default: the only one)")
    _add_parameters(command)


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = _command(commands, "run", "run a file or a release on the best device for it")
    _add_what_runs(command)
    command.add_argument("--output", type=Path, metavar="FOLDER", help="write outputs there as .npy instead of printing them")
    command.add_argument("--require", default="", choices=KINDS[:0:-1], help="refuse a variant that has less evidence")
    command.add_argument("--check", action="store_true", help="compare with the reference data that the release ships")
    command.add_argument("--benchmark", action="store_true", help="median latency and load time on every device")
    _add_store(command)
    command.set_defaults(module="run")


def _add_profile(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = _command(commands, "profile", "tell which kernels a run's time goes to")
    _add_what_runs(command)
    command.add_argument("--json", action="store_true", help="for programs")
    command.add_argument("-o", "--output", type=Path, metavar="FILE", help="a flame graph, for https://www.speedscope.app")
    _add_store(command)
    command.set_defaults(module="profile")


def _add_releases(command: argparse.ArgumentParser, everything: str) -> None:
    command.add_argument("models", nargs="*", metavar="MODEL[@VERSION|:CHANNEL]", help=_RELEASE)
    command.add_argument("--all", action="store_true", help=everything)
    command.add_argument("--channel", default="", metavar="NAME", help="move this one there (default: the one that was named)")
    command.add_argument("--store", metavar="URL", help="the store to copy from (default: PIPELINE_STORE, or out/store)")
    command.add_argument("-q", "--quiet", action="store_true", help="no progress, no notes of the store")
    _add_lock(command)


def _add_copy(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = _command(commands, "copy", "copy releases into another store, with all that is theirs")
    _add_releases(command, "all releases and channels; and who signs them, into an empty store")
    command.add_argument("--to", required=True, metavar="URL", help="the store to copy to: s3://…, hf://…, oci://… or a folder")
    command.set_defaults(module="copy")
    command = _command(commands, "bundle", "write releases into one file, which is a store")
    _add_releases(command, "all releases and channels")
    command.add_argument("-o", "--output", required=True, metavar="FILE.tar", help="which `--store FILE.tar` reads in place")
    command.set_defaults(module="bundle")
    command = _command(commands, "lock", "write what names mean now into a file, for --lock")
    command.add_argument("models", nargs="*", metavar="MODEL[@VERSION|:CHANNEL]", help="default: those that the file has")
    command.add_argument("-o", "--output", default=DEFAULT_FILE, metavar="FILE", help=f"default: {DEFAULT_FILE}")
    command.add_argument("--store", metavar="URL", help=_STORE)
    command.set_defaults(module="lock")


def _add_trust(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = _command(commands, "trust", "say whose signatures count: add, list, remove, key")
    actions = command.add_subparsers(required=True, metavar="ACTION", dest="action")
    add = _command(actions, "add", "believe a store only as it is signed from this root of trust on")
    add.add_argument("store", metavar="STORE", help="s3://…, https://… or a folder")
    add.add_argument("root", metavar="ROOT", help="the file root.json, from who publishes the store")
    _command(actions, "list", "list the stores whose signers are known")
    remove = _command(actions, "remove", "forget who signs a store")
    remove.add_argument("store", metavar="STORE", help="as `vmfb trust list` shows it")
    key = _command(actions, "key", "make a key to sign with, as a witness or a publisher")
    key.add_argument("file", metavar="FILE.pem", help="the private key; the public one goes beside it")
    command.set_defaults(module="trust")


class _Parser(argparse.ArgumentParser):
    """What it says of arguments is said as all else is."""

    def error(self, message: str) -> NoReturn:
        """End with the message, and what to say instead where one command's word was given to another."""
        if "unrecognized arguments" in message and "--pretend" in message:
            message += ": other machines are for `vmfb explain --pretend`, and for `vmfb fetch --device`"
        super().error(message)

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message("\n".join(plain_lines(message or "")), file)


def parser() -> argparse.ArgumentParser:
    """What the command line may say."""
    result: argparse.ArgumentParser = _Parser(
        prog="vmfb",
        description="fetch vmfbs, see what they hold, what of it runs here and why",
        epilog=f"{exits.told()}; {variables.told()}",
    )
    result.add_argument("--version", action="version", version=__version__)
    commands = result.add_subparsers(required=True, metavar="COMMAND")
    command = _command(commands, "init", "begin a project, in which `doit` makes releases")
    command.add_argument("folder", nargs="?", default=".", metavar="FOLDER", help="default: this one")
    command.add_argument("--ci", default="github", choices=("github", "gitlab", "none"), help="whose workflow (default: github)")
    command.set_defaults(module="init")
    command = _command(commands, "list", "list the models of a store")
    command.add_argument("url", nargs="?", metavar="STORE", help="the same as --store")
    _add_store(command, bundle=False)
    command.add_argument("--json", action="store_true", help="for programs")
    command.set_defaults(module="list_")
    _add_fetch(commands)
    command = _command(commands, "inspect", "tell what is in a vmfb, or in a release")
    command.add_argument("what", metavar="FILE|MODEL", help="a vmfb, or MODEL[@VERSION|:CHANNEL] of the store")
    command.add_argument("--json", action="store_true", help="for programs")
    _add_store(command)
    more = command.add_mutually_exclusive_group()
    more.add_argument("--evidence", action="store_true", help="who verified the release, when, on what, and how fast it was")
    more.add_argument(
        "--provenance", action="store_true", help="where the release comes from: commit, specs, sources, compiler, builder"
    )
    command.set_defaults(module="inspect")
    _add_parameters(command)
    command = _command(commands, "explain", "say which code each device runs, and why")
    command.add_argument("what", metavar="FILE|MODEL", help="a vmfb, or MODEL[@VERSION|:CHANNEL] of the store")
    command.add_argument("--device", default="auto", help="only this one: local, vulkan or another driver, or a device's name")
    _add_parameters(command)
    command.add_argument("--pretend", metavar="FACTS", help=f"for {_OTHER}")
    _add_store(command)
    command.set_defaults(module="explain")
    _add_run(commands)
    _add_attest(commands)
    _add_diff(commands)
    _add_profile(commands)
    command = _command(commands, "devices", "list the devices of this machine")
    said = command.add_mutually_exclusive_group()
    said.add_argument("--json", action="store_true", help="all facts, for --pretend and --device elsewhere")
    said.add_argument("--known", action="store_true", help="the machines that --pretend and --device know by name")
    command.set_defaults(module="devices")
    _add_copy(commands)
    _add_trust(commands)
    command = _command(commands, "cache", "look after what was fetched: list, verify, prune")
    actions = command.add_subparsers(required=True, metavar="ACTION", dest="action")
    _command(actions, "list", "list every file, the last used first")
    _command(actions, "verify", "check every byte; what is damaged will be fetched again")
    prune = _command(actions, "prune", "remove the longest unused")
    prune.add_argument("--max-size", type=_bytes, metavar="SIZE", help="keep at most so much, like 5GB")
    prune.add_argument("--unused", type=float, metavar="DAYS", help="remove what was not used for so long")
    command.set_defaults(module="cache")
    command = _command(commands, "completion", 'complete words in a shell: eval "$(vmfb completion bash)"')
    command.add_argument("shell", choices=completion.SHELLS, help="which")
    command.set_defaults(module="completion")
    for name, command in commands.choices.items():
        command.add_argument(
            "--color", default="auto", choices=colors.CHOICES, help="default: on terminals, or NO_COLOR, FORCE_COLOR"
        )
        command.set_defaults(command=name)
    return result


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point: what `exits` says, after a message on standard error where it is not 0."""
    prepare_streams()
    known = parser()
    if completion.is_asked_for():
        completion.answer(known)
    arguments = known.parse_args(argv)
    try:
        if sys.stdout is None:
            raise PipelineError("is closed", where="standard output")
        colors.choose(arguments.color)
        quiet = getattr(arguments, "quiet", False) or arguments.module == "completion"
        with signals_raise(), permitted(), nullcontext() if quiet else at_work(f"vmfb {arguments.command}"):
            importlib.import_module(f"pipeline.commands.{arguments.module}").run(arguments)
            flush()
    except PipelineError as error:
        if sys.stdout is not None:
            with suppress(BrokenPipeError, PipelineError):
                flush()
        say(*f"error: {error}".split("\n"))
        return error.exit_code
    except BrokenPipeError:
        give_up_output()  # nothing more can be said there
        return 0
    except EndedError as ended:
        return exits.SIGNAL + int(ended.args[0])
    except KeyboardInterrupt:
        say("interrupted: what has arrived is kept")
        return exits.SIGNAL + 2
    except Exception:
        say(*traceback.format_exc().rstrip().split("\n"))
        return exits.BUG
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The command `vmfb`: parse, one call, render. Only this prints and exits for consumers (by way of `terminal`)."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import __version__
from pipeline.consume import choose, facts, fetch
from pipeline.consume.cache import Cache
from pipeline.consume.entries import Signature, asked, fitting
from pipeline.consume.meanwhile import Watched, meanwhile
from pipeline.consume.reference import parse
from pipeline.consume.resolve import Remote, Resolver, default_store, require_runtime
from pipeline.errors import PipelineError
from pipeline.files import is_file
from pipeline.iree.device import Device
from pipeline.iree.devices import NoRuntimeError
from pipeline.manifest.codec import encode
from pipeline.manifest.types import Artifact, EntryInfo, EvidenceInfo, Manifest, TensorInfo
from pipeline.platforms import SEPARATORS
from pipeline.terminal import Bar, EndedError, flush, give_up_output, prepare_streams, put, say, signals_raise

if TYPE_CHECKING:
    import numpy as np

    from pipeline.consume.explain import Answer
    from pipeline.consume.inspect import Contents
    from pipeline.iree.gates import Gated

# What only some commands need is imported by them: a warm fetch takes a tenth of a second.


def _is_file(text: str) -> bool:
    return any(separator in text for separator in SEPARATORS) or text.endswith(".vmfb") or is_file(text)


class _Release:
    """A release that a command names, with what is needed to fetch it."""

    def __init__(self, arguments: argparse.Namespace, text: str) -> None:
        self.cache = Cache()
        self.remote = Remote(arguments.store or default_store(), arguments.offline)
        self.text = text
        self.manifest: Manifest = Resolver(self.remote, self.cache, say).manifest(parse(text))
        self.artifact: Artifact = fetch.pick(self.manifest, arguments.bundle)
        self.variants = choose.gated(self.artifact, self.remote.url)
        self.bar = Bar(getattr(arguments, "quiet", False))

    def fetch(self, variants: Sequence[str] | None) -> fetch.Fetched:
        """The artifact in the cache, with the code of these variants."""
        return fetch.fetch(self.remote, self.cache, self.artifact, variants, self.bar)

    def weights(self) -> Path | None:
        """The weights that the artifact does not hold, in the cache; None where it holds all."""
        got = fetch.fetch_weights(self.remote, self.cache, self.manifest, self.bar)
        return got.path if got else None

    def reference(self, entry: EntryInfo) -> tuple[list[Path], list[Path]]:
        """The files of an entry point's reference inputs and outputs, fetched."""
        inputs, outputs = (
            [fetch.fetch_blob(self.remote, self.cache, blob, self.bar) for blob in blobs]
            for blobs in (entry.reference.inputs, entry.reference.outputs)
        )
        return inputs, outputs


def _here(name: str, note: Callable[[str], None] = say) -> list[Device]:
    return choose.named(facts.of_this_machine(Cache(), note), name)


def _wanted(release: _Release, device: str, note: Callable[[str], None] = say) -> list[str] | None:
    """The variants to fetch for `--device`; None: all, for this machine's devices cannot be known. `note` is told why."""
    known = device in facts.known_machines() or (device not in choose.WORDS and is_file(device))
    if not known:
        require_runtime(release.manifest)
        try:
            found = choose.choices(release.variants, _here(device, note))
        except NoRuntimeError:
            if device != "auto":
                raise
            note("IREE's runtime is not installed, so the devices here are not known: fetching the code for all")
            return None
    else:
        found = choose.choices(release.variants, facts.of_machine(device))
    variants = choose.worth_having(found)
    if not variants:
        raise PipelineError(
            f"no device may run {release.text}:\n    {choose.refusal(found)}",
            hint="`vmfb explain` tells more; `--full` fetches it nevertheless",
        )
    return variants


def _target(output: str | None, name: Path) -> Path | None:
    """Where `--output` says that the file `name` goes; None where it says nothing."""
    if output is None:
        return None
    if not output:
        raise PipelineError("names no file", where="--output", hint="give -o FILE, or -o FOLDER/")
    is_folder = output.endswith(SEPARATORS) or Path(output).is_dir()  # there or not; Path drops the slash
    return Path(output) / name if is_folder else Path(output)


def _wanted_with_weights(release: _Release, device: str) -> tuple[list[str] | None, int]:
    """As `_wanted`, while the release's weights come into the cache; and how many bytes of them came.

    A machine is asked for its devices by a child for each driver, seconds for the first time; weights are for all of them.
    """
    if not release.manifest.parameters:
        return _wanted(release, device), 0
    notes: list[str] = []
    with meanwhile(lambda: _wanted(release, device, notes.append)) as wanted:
        got = fetch.fetch_weights(release.remote, release.cache, release.manifest, Watched(release.bar, wanted))
        variants = wanted.result()
    for note in notes:
        say(note)
    return variants, got.came if got else 0


def _fetch_weights(release: _Release, target: Path | None) -> tuple[fetch.Brought, Path] | None:
    """The release's weights in the cache, copied to `target` if there is one; None where its files hold all."""
    for parameters in release.manifest.parameters:
        if target:
            return fetch.deliver_weights(release.remote, release.cache, parameters, target, release.bar), target
    got = fetch.fetch_weights(release.remote, release.cache, release.manifest, release.bar)
    return (got, got.path) if got else None


def _fetch(arguments: argparse.Namespace) -> None:
    from pipeline.consume.render import size
    from pipeline.consume.weights import beside

    release = _Release(arguments, arguments.model)
    name = f"{release.manifest.model.name}@{release.manifest.version}"
    file = Path(release.artifact.blob.name)
    target = _target(arguments.output, beside(file) if arguments.parameters else file)
    if arguments.parameters:
        weights = _fetch_weights(release, target)
        if not weights:
            raise PipelineError("holds all its weights: there is no archive of them", where=name)
        if not arguments.quiet:
            say(f"{name}: {_came(weights[0])}; its weights are {size(weights[0].present)}")
        put(weights[1])
        return
    variants, came = (None, 0) if arguments.full else _wanted_with_weights(release, arguments.device)
    weights = _fetch_weights(release, beside(target) if target else None)  # first: a file is there when all of it is
    if target:
        fetched, path = fetch.deliver(release.remote, release.cache, release.artifact, variants, target, release.bar)
    else:
        fetched = release.fetch(variants)
        path = fetched.path
    if not arguments.quiet:
        total = release.artifact.blob.size
        part = "all of it" if fetched.present == total else f"{size(fetched.present)} of {size(total)}"
        say(f"{name}: {_came(fetched)}; here is {part}, for {', '.join(fetched.variants)}")
        if weights:
            say(f"its weights, {size(weights[0].present)}: {_came(weights[0], came)}; they are {weights[1]}")
    put(path)


def _came(got: fetch.Brought, before: int = 0) -> str:
    from pipeline.consume.render import size

    return f"fetched {size(got.came + before)}" if got.came + before else "nothing to fetch"


def _list(arguments: argparse.Namespace) -> None:
    from pipeline.consume.render import index_lines

    if arguments.url and arguments.store:
        raise PipelineError("two stores are named", hint="give STORE or --store")
    remote = Remote(arguments.url or arguments.store or default_store(), arguments.offline)
    index = Resolver(remote, Cache(), say).index()
    put(encode(index).decode() if arguments.json else "\n".join(index_lines(index)))


def _inspect(arguments: argparse.Namespace) -> None:
    from pipeline.consume import inspect, render, weights

    if _is_file(arguments.what):
        contents = inspect.inspect(Path(arguments.what))
        if arguments.parameters:
            weights.of_file(contents, arguments.parameters, whole=True)
        put(render.contents_json(contents) if arguments.json else "\n".join(render.contents_lines(contents)))
    else:
        _no_archive(arguments)
        manifest = _Release(arguments, arguments.what).manifest
        put(encode(manifest).decode() if arguments.json else "\n".join(render.manifest_lines(manifest)))


@dataclass(frozen=True)
class _Subject:
    """What is explained: a file's or a release's entry points, and its variants with what devices do with them.

    `archive` are the weights that it needs; `lacking` says why it cannot be loaded without them.
    """

    path: Path
    entries: Sequence[Signature]
    variants: Sequence[Gated]
    formats: Sequence[str]
    answers: Sequence[Answer]
    proofs: Mapping[str, Sequence[EvidenceInfo]]
    archive: Path | None
    lacking: str


def _of_file(arguments: argparse.Namespace, found: Sequence[Device]) -> _Subject:
    from pipeline.consume import explain, inspect, weights

    contents, archive, lacking = inspect.inspect(Path(arguments.what), digests=False), None, ""
    answers = explain.explain_file(contents, found)
    if arguments.pretend is None:
        try:
            archive = weights.of_file(contents, arguments.parameters)
        except weights.MissingError as error:
            lacking = str(error)
    entries = contents.identity.entries if contents.identity else ()
    return _Subject(contents.path, entries, contents.variants, list(contents.formats), answers, {}, archive, lacking)


def _of_release(arguments: argparse.Namespace, found: Sequence[Device]) -> _Subject:
    from pipeline.consume import explain, inspect
    from pipeline.consume.render import size

    _no_archive(arguments)
    release, archive, lacking = _Release(arguments, arguments.what), None, ""
    file = fetch.entry(release.cache, release.artifact)
    held = fetch.held(release.artifact, file.present())
    if held and arguments.pretend is None:
        inspect.require_release(file.path, release.manifest)
    for parameters in release.manifest.parameters:
        kept = fetch.weights_entry(release.cache, parameters)
        archive = kept.path
        if not kept.present().issuperset(kept.stretches):
            lacking = f"its weights are not here, {size(kept.size)}: `vmfb fetch {release.text}` brings them"
    proofs = {v.name: v.evidence for v in release.artifact.variants}
    formats = list(dict.fromkeys(v.format for v in release.variants))
    answers = explain.explain(release.variants, found, held)
    return _Subject(file.path, release.manifest.entries, release.variants, formats, answers, proofs, archive, lacking)


def _explain(arguments: argparse.Namespace) -> None:
    from pipeline.consume import explain, render

    found = facts.of_machine(arguments.pretend) if arguments.pretend is not None else _here(arguments.device)
    what = (_of_file if _is_file(arguments.what) else _of_release)(arguments, found)
    answers, is_here = what.answers, arguments.pretend is None
    if not what.variants:
        put(f"{arguments.what} has no gates. It holds {', '.join(what.formats) or 'no code'}.")
        for lack in explain.lacks(what.formats):
            put(lack)
    elif is_here and not what.lacking:
        answers = explain.ask(what.path, what.variants, answers, what.archive)
    for answer in answers:
        put("\n".join(render.answer_lines(answer, {v.name: v.format for v in what.variants}, what.proofs)))
    if what.variants and not what.proofs:
        put("A file does not tell how its variants were verified; a release does: `vmfb explain MODEL`.")
    for line in render.entry_lines(what.entries):
        put(line)
    for line in explain.machine_advice(what.formats, found) if is_here else ():
        put(f"! {line}")
    if is_here and what.lacking:
        put(f"! not loaded: {what.lacking}")
    if any(answer.bug for answer in answers):
        raise PipelineError("the prediction from the gates is not what the file does")


def _no_archive(arguments: argparse.Namespace) -> None:
    if arguments.parameters:
        what = "--parameters is for a FILE: the weights of a release are fetched with it"
        raise PipelineError(what, where=arguments.what, hint="leave it out, or give the file's path")


def _devices(arguments: argparse.Namespace) -> None:
    from pipeline.consume.render import device_line

    found = _here("auto")
    if arguments.json:
        put(json.dumps(facts.to_json(found), indent=1))
    else:
        put("\n".join(device_line(device) for device in found))


@dataclass(frozen=True)
class _Job:
    """A function to run on arrays; what its outputs are, where that is known, and what they must be, where it is compared."""

    function: str
    given: Sequence[np.ndarray[Any, Any]]
    outputs: Sequence[TensorInfo] | None
    entry: EntryInfo | None = None
    wanted: Sequence[Path] = ()


def _jobs(release: _Release, arguments: argparse.Namespace, given: Sequence[np.ndarray[Any, Any]]) -> list[_Job]:
    """What to run of a release: on the arrays given, or on the reference data of all that `--function` leaves."""
    from pipeline.consume import inputs

    entries = release.manifest.entries
    if given or not (arguments.check or arguments.benchmark):
        entry = fitting(asked(entries, arguments.function, release.text), given)
        return [_Job(entry.function, given, entry.outputs, entry)]
    jobs = []
    for entry in asked(entries, arguments.function, release.text) if arguments.function else entries:
        taken, wanted = release.reference(entry)
        jobs.append(_Job(entry.function, [inputs.load(path) for path in taken], entry.outputs, entry, wanted))
    return jobs


def _run(arguments: argparse.Namespace) -> None:
    found = _here(arguments.device)  # says what to install where the runtime is not, and numpy neither
    from pipeline.consume import inputs, inspect, run, weights

    given = [inputs.parse(text) for text in arguments.input]
    if arguments.check and (given or _is_file(arguments.what)):
        raise PipelineError("--check compares with the reference data of a release: give a MODEL, and no --input")
    if _is_file(arguments.what):
        contents = inspect.inspect(Path(arguments.what), digests=False)
        good = run.runnable(contents, found)
        jobs = [_Job(function, given, outputs) for function, outputs in [run.entry_of(contents, given, arguments.function)]]
        archive = weights.of_file(contents, arguments.parameters)
    else:
        _no_archive(arguments)
        release = _Release(arguments, arguments.what)
        require_runtime(release.manifest)
        good = run.good(choose.choices(release.variants, found), release.text)
        jobs = _jobs(release, arguments, given)
        archive = release.weights()
        fetched = release.fetch([c.variant for c in good[: None if arguments.benchmark else 1] if c.variant])
        inspect.require_release(fetched.path, release.manifest)
        contents = inspect.inspect(fetched.path, digests=False)
    for job in jobs:
        _do(job, contents, good, archive, arguments, f"{job.function}: " if len(jobs) > 1 else "")


def _do(
    job: _Job, contents: Contents, good: Sequence[choose.Choice], archive: Path | None, arguments: argparse.Namespace, name: str
) -> None:
    """Run one function, as the command says: `name` tells it from others."""
    from pipeline.consume import inputs, run

    if arguments.check or arguments.output or not arguments.benchmark:
        ran = run.run(contents, good[0], job.function, job.given, archive)
        say(f"{name}{ran.choice.variant} on {ran.choice.device.title}: loaded in {ran.run.load_s * 1000:.1f} ms")
        if job.entry and arguments.check:
            wanted = [inputs.load(path) for path in job.wanted]
            put(f"{name}{run.check(ran, wanted, job.entry.reference.tolerances)}")
        told = job.outputs or [TensorInfo(f"output{i}", str(array.dtype), array.shape) for i, array in enumerate(ran.outputs)]
        if len(told) != len(ran.outputs):
            raise PipelineError(f"gives {len(ran.outputs)} outputs, but it says {len(told)}", where=str(contents.path))
        outputs = {tensor.name: inputs.as_said(array, tensor) for tensor, array in zip(told, ran.outputs, strict=True)}
        _put_out(outputs, arguments, job.function if name else "")
    if arguments.benchmark:
        lines, count = run.benchmark(contents, good, job.function, job.given, archive)
        put("\n".join([*([name.rstrip(": ")] if name else []), *lines]))
        if not count:
            raise PipelineError("no device ran it", where=str(contents.path), hint="`vmfb explain` tells more")


def _put_out(outputs: dict[str, Any], arguments: argparse.Namespace, folder: str) -> None:
    """Write outputs as .npy into `folder` below that of --output, or print them; nothing after a check without one."""
    from pipeline.consume import inputs, render

    if arguments.output:
        for path in inputs.save(outputs, arguments.output / folder):
            put(path)
    elif not arguments.check:
        for name, array in outputs.items():
            put("\n".join(render.array_lines(name, array)))


def _cache(arguments: argparse.Namespace) -> None:
    from pipeline.consume import render

    cache = Cache()
    if arguments.action == "list":
        put(f"{cache.root}")
        put("\n".join(render.usage_lines(cache.usages())))
    elif arguments.action == "verify":
        damaged = unknown = 0
        for entry, right, bad in cache.verify():
            if bad is None:
                unknown += 1
                put(f"{entry.path}: not checked: what is said of it beside it is damaged; its next fetch checks it")
                continue
            damaged += len(bad)
            said = f"{len(bad)} stretches were damaged and will be fetched again" if bad else "right"
            put(f"{entry.name}: {render.size(right)} {said}")
        if damaged:
            raise PipelineError(f"{damaged} stretches were damaged", where=str(cache.root), hint="fetch again: only they come")
        if unknown:
            raise PipelineError(f"{unknown} files were not checked", where=str(cache.root), hint="fetch again, or remove them")
    else:
        if arguments.max_size is None and arguments.unused is None:
            raise PipelineError("say what to remove", hint="--max-size 5GB, or --unused 30 (days)")
        most = arguments.max_size if arguments.max_size is not None else 1 << 62
        removed = cache.prune(most, arguments.unused if arguments.unused is not None else 1e9)
        put(f"removed {len(removed)} files, {render.size(sum(u.bytes for u in removed))}")


def _bytes(text: str) -> int:
    units = {"k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", text.strip().lower())
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write 5GB, 500MB, …")
    return int(Decimal(match[1]) * units.get(match[2], 1))


def _add_store(command: argparse.ArgumentParser, bundle: bool = True) -> None:
    command.add_argument("--store", metavar="URL", help="s3://…, https://… or a folder (default: PIPELINE_STORE, or out/store)")
    command.add_argument("--offline", action="store_true", help="only what the cache holds")
    if bundle:
        command.add_argument("--bundle", default="", help="which of the release's files (default: the first)")


def _add_parameters(command: argparse.ArgumentParser) -> None:
    command.add_argument("--parameters", type=Path, metavar="FILE", help="a FILE's weights (default: FILE.irpa beside it)")


def _add_fetch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("fetch", help="a release's file, with the code that the devices here need")
    command.add_argument("model", metavar="MODEL[@VERSION|:CHANNEL]")
    machines = ", ".join(facts.known_machines())
    command.add_argument(
        "--device",
        default="auto",
        metavar="DEVICE",
        help="auto (all of this machine), local, vulkan or another driver, a device's name, or another machine: "
        f"a file of `vmfb devices --json`, {machines}",
    )
    much = command.add_mutually_exclusive_group()
    much.add_argument("--full", action="store_true", help="the whole file, for every device")
    much.add_argument("--parameters", action="store_true", help="only the weights, where the file does not hold them")
    command.add_argument("-o", "--output", metavar="PATH", help="copy it there (default: only into the cache)")
    command.add_argument("-q", "--quiet", action="store_true", help="print only the path")
    _add_store(command)
    command.set_defaults(call=_fetch)


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("run", help="run a file or a release on the best device for it")
    command.add_argument("what", metavar="FILE|MODEL")
    command.add_argument("--device", default="auto", help="auto (the best), local, vulkan or another driver, or a device's name")
    command.add_argument("--input", action="append", default=[], metavar="INPUT", help="x.npy, or like 1x3xf32=0.5; one for each")
    command.add_argument("--output", type=Path, metavar="FOLDER", help="write outputs there as .npy instead of printing them")
    command.add_argument("--function", default="", help="which entry point, or exported function (default: the only one)")
    command.add_argument("--check", action="store_true", help="compare with the reference data that the release ships")
    _add_parameters(command)
    command.add_argument("--benchmark", action="store_true", help="median latency and load time on every device")
    _add_store(command)
    command.set_defaults(call=_run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vmfb", description="fetch vmfbs, see what they hold, what of it runs here and why")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("list", help="the models of a store")
    command.add_argument("url", nargs="?", metavar="STORE", help="the same as --store")
    _add_store(command, bundle=False)
    command.add_argument("--json", action="store_true", help="for programs")
    command.set_defaults(call=_list)
    _add_fetch(commands)
    command = commands.add_parser("inspect", help="what is in a vmfb, from the file alone, or in a release")
    command.add_argument("what", metavar="FILE|MODEL")
    command.add_argument("--json", action="store_true", help="for programs")
    _add_store(command)
    command.set_defaults(call=_inspect)
    _add_parameters(command)
    command = commands.add_parser("explain", help="which code each device runs, and why")
    command.add_argument("what", metavar="FILE|MODEL")
    command.add_argument("--device", default="auto", help="only this one: local, vulkan or another driver, or a device's name")
    names = ", ".join(facts.known_machines())
    _add_parameters(command)
    command.add_argument("--pretend", metavar="FACTS", help=f"for another machine: a file of `vmfb devices --json`, or {names}")
    _add_store(command)
    command.set_defaults(call=_explain)
    _add_run(commands)
    command = commands.add_parser("devices", help="the devices of this machine")
    command.add_argument("--json", action="store_true", help="all facts, for --pretend and --device elsewhere")
    command.set_defaults(call=_devices)
    command = commands.add_parser("cache", help="what was fetched: list, verify, prune")
    actions = command.add_subparsers(required=True, metavar="ACTION", dest="action")
    actions.add_parser("list", help="every file, the last used first")
    actions.add_parser("verify", help="check every byte; what is damaged will be fetched again")
    prune = actions.add_parser("prune", help="remove the longest unused")
    prune.add_argument("--max-size", type=_bytes, metavar="SIZE", help="keep at most so much, like 5GB")
    prune.add_argument("--unused", type=float, metavar="DAYS", help="remove what was not used for so long")
    command.set_defaults(call=_cache)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The entry point: 0, 1 after a message on standard error, or what a shell says of a signal."""
    arguments = _parser().parse_args(argv)
    prepare_streams()
    try:
        if sys.stdout is None:
            raise PipelineError("is closed", where="standard output")
        with signals_raise():
            arguments.call(arguments)
            flush()
    except PipelineError as error:
        if sys.stdout is not None:
            with suppress(BrokenPipeError, PipelineError):
                flush()
        say(f"error: {error}")
        return 1
    except BrokenPipeError:
        give_up_output()  # nothing more can be said there
        return 0
    except EndedError as ended:
        return 128 + int(ended.args[0])
    except KeyboardInterrupt:
        say("interrupted: what has arrived is kept")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

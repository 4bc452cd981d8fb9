"""What `doit` prints: what is running and for how long, what failed and why, and a table of what was made."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from doit.exceptions import BaseFail, InvalidCommand, UnmetDependency
from doit.reporter import ConsoleReporter

from pipeline import activity, colors, jobsummary, process
from pipeline.accuracy import text
from pipeline.groups import BUILD_GROUPS
from pipeline.iree import tuning
from pipeline.layout import Layout, stamp
from pipeline.manifest.evidence import KINDS
from pipeline.plain import plain, plain_lines
from pipeline.snapshot import Snapshot
from pipeline.stages.witnesses import answers
from pipeline.terminal import say, write_out

_HEARTBEAT = 30.0
REPORTING = (
    "reduce:",
    "tune:",
    "report:",
    "reproduce:",
    "runtimes:",
    "promote:",
    "rollback:",
    "yank:",
    "prune:",
    "fsck:",
    "site:",
    "trust-",
)  # steps whose first output is printed
_COLUMNS = 120  # of a terminal that does not say how wide it is


class _StatusLine:
    """On a terminal one line that tells what is running; elsewhere a line every 30 seconds. Drawn by its own thread."""

    def __init__(self, out: Any) -> None:
        self._out = out
        self._live = out.isatty() and not os.environ.get("CI")
        self._running: dict[str, float] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, name: str) -> None:
        with self._lock:
            self._running[name] = time.monotonic()
            if self._thread is None:
                self._thread = threading.Thread(target=self._draw, daemon=True)
                self._thread.start()

    def end(self, name: str) -> float:
        with self._lock:
            return time.monotonic() - self._running.pop(name, time.monotonic())

    def say(self, text: str) -> None:
        with self._lock:
            lines = (colors.painted(line, self._out) for line in plain_lines(text))
            write_out(self._out, ("\r\x1b[K" if self._live else "") + "\n".join(lines) + "\n")

    def close(self) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()
        if self._live:
            write_out(self._out, "\r\x1b[K")

    def _text(self) -> str:
        now = time.monotonic()
        shown = []
        for name, since in self._running.items():
            doing = activity.text(name)
            shown.append(f"{name} ({doing + ', ' if doing else ''}{now - since:.0f} s)")
        return ", ".join(shown)

    def _draw(self) -> None:
        while not self._stop.wait(0.2 if self._live else _HEARTBEAT):
            with self._lock:
                text = plain(self._text())
                if text:
                    width = (os.get_terminal_size(self._out.fileno()).columns or _COLUMNS) if self._live else 500
                    write_out(self._out, f"\r\x1b[K  {text}"[: width + 4] if self._live else f"  still at work: {text}\n")


def _error(proof: dict[str, Any]) -> str:
    worst = max(proof["functions"], key=lambda measured: measured["of_tolerance"], default=None)
    return f"{worst['max_abs_error']:.1e} ({_percent(worst['of_tolerance'])})" if worst else ""


def _percent(part: float) -> str:
    return f"{part:.0%}" if part >= 0.01 or not part else "<1%"


def _where(evidence: dict[str, Any]) -> str:
    place = evidence["driver"] or evidence["device"]
    if evidence["kind"] == "emulator":
        place = f"{evidence['device']}, played by {place}"
    scores = [text.line(a["metric"], a["score"], a["reference"], a["evaluator"]) for a in evidence["accuracy"]]
    return "; ".join(filter(None, [*scores, place, evidence["reason"]]))


def strongest(verified: Path) -> dict[str, dict[str, Any]]:
    """The evidence of each variant: that from here, or the stronger that a witness gave."""
    found = {e["variant"]: e for e in json.loads((verified / "evidence.json").read_text("utf-8"))}
    for heard in answers.read(verified):
        for file in heard.document.files if heard.document else ():
            for proof in file.variants:
                if KINDS.index(proof.kind) > KINDS.index(found[proof.variant]["kind"]):
                    said = asdict(proof) | {"driver": f"{proof.driver or proof.device} at {heard.witness}"}
                    said["functions"] = [{**f, "seconds": proof.latency_s} for f in said["functions"]]
                    found[proof.variant] = said
    return found


def told(verified: Path) -> list[str]:
    """A line for each witness that was asked: what it saw right, and where, or why it says nothing."""
    lines = []
    for heard in answers.read(verified):
        proofs = [proof for file in heard.document.files for proof in file.variants] if heard.document else []
        seen: dict[str, list[str]] = {}
        for proof in proofs:
            place = proof.driver or proof.device if proof.kind != "untested" else f"untested ({proof.reason})"
            seen.setdefault(place, []).append(proof.variant)
        said = "; ".join(f"{', '.join(names)}: {place}" for place, names in seen.items())
        lines.append(plain(f"witness {heard.witness}: {said or heard.problem}"))  # a line, whatever a witness says
    return lines


def table(name: str, verified: Path) -> list[tuple[str, ...]]:
    """The rows for one verified bundle, called `name`: a row a variant, then a row a dropped target."""
    compiled = json.loads((verified / "compiled.json").read_text("utf-8"))
    evidence = strongest(verified)
    rows: list[tuple[str, ...]] = []
    for variant in compiled["variants"]:
        proof = evidence[variant["gated"]["name"]]
        size = sum({p["offset"]: p["length"] for p in variant["code"]}.values())
        functions = proof["functions"]
        seconds = f"{functions[0]['seconds'] or 0:.3f}" if functions else ""
        row = (proof["variant"], proof["kind"], _error(proof), f"{size / 1000:.0f} kB", seconds, _where(proof))
        rows.append((name, *row))
        name = ""
    rows += [("", d["name"], "DROPPED", "", "", "", "see below") for d in compiled["dropped"]]
    tuned = [
        tuning.told(v["gated"]["name"], v["tuning"]["tuned"], v["tuning"]["kernels"]) for v in compiled["variants"] if v["tuning"]
    ]
    rows += [("", "", "note", "", "", "", note) for note in (*compiled["notes"], *tuned)]
    rows.append(("", "", "", "", f"{(verified / 'module.vmfb').stat().st_size / 1000:.0f} kB", "", "the whole file"))
    return rows


def _write(*lines: str) -> None:
    write_out(sys.stdout, "".join(f"{colors.painted(plain(line))}\n" for line in lines))


def _published(receipt: dict[str, Any]) -> str:
    if not (receipt["blobs_sent"] or receipt["manifest_created"] or receipt["channel_moved"]):
        return f"unchanged: {receipt['release']} has it, in {receipt['store']}, channel {receipt['channel']}"
    return f"published {receipt['release']} to {receipt['store']}, channel {receipt['channel']}"


def left_out(name: str, folder: Path) -> list[str]:
    """Which targets a file is without, and why, in whole sentences: one for targets with the same reason."""
    reasons: dict[str, list[str]] = {}
    for dropped in json.loads((folder / "compiled.json").read_text("utf-8"))["dropped"]:
        reasons.setdefault(dropped["reason"], []).append(dropped["name"])
    return [f"{name} is without {', '.join(names)}: {reason}" for reason, names in reasons.items()]


_HEADINGS = ("model / bundle", "variant", "verified", "max error (of allowed)", "code", "seconds", "where, or why not")


def render(rows: list[tuple[str, ...]], width: int) -> str:
    """`rows` under headings, columns aligned, lines cut at `width`; 0, as in logs: they may have any length."""
    rows = [_HEADINGS, *(tuple(map(plain, row)) for row in rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        cells = [cell.rjust(w) if i in (3, 4, 5) else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=False))]
        line = "  ".join([*cells, row[-1]]).rstrip()
        lines.append(line if not width or len(line) <= width else f"{line[: width - 1]}…")
    return "\n".join(lines)


class Reporter(ConsoleReporter):  # type: ignore[misc]  # doit is untyped
    """doit's reporter for people and for logs."""

    desc = "progress, reasons of failures, and a table at the end"
    snapshot: Snapshot
    database: Path
    layout: Layout

    def initialize(self, tasks: dict[str, Any], selected_tasks: list[str]) -> None:
        """Called once before anything runs. A selection that selects nothing is a mistake, not a success."""
        self._tasks = tasks
        self._line = _StatusLine(sys.stdout)
        self._started = time.monotonic()
        self._seconds: dict[str, float] = {}
        self._ran = 0
        self._blocked: list[Any] = []
        self._quiet: list[Any] = []
        if not selected_tasks:
            raise InvalidCommand("nothing matches the selection: `doit list --all` shows every task")

    def execute_task(self, task: Any) -> None:
        """A task starts."""
        if task.actions:
            self._line.start(task.name)

    def add_success(self, task: Any) -> None:
        """A task is done."""
        if task.actions:
            self._ran += 1
            self._seconds[task.name] = seconds = self._line.end(task.name)
            self._line.say(f"✓ {task.name}  {seconds:.1f} s")
            for line in told(Path(task.targets[0]).parent) if task.name.startswith("verify:") else ():
                self._line.say(f"  {line}")
            if task.name.startswith(REPORTING):
                self._line.say(Path(task.targets[0]).read_text("utf-8").rstrip())

    def skip_uptodate(self, task: Any) -> None:
        """A task has nothing to do."""
        if task.actions:
            self._quiet.append(task)

    def add_failure(self, task: Any, fail: BaseFail) -> None:
        """A task failed, or could not run because another did."""
        seconds = self._line.end(task.name)
        if isinstance(fail, UnmetDependency):
            self._blocked += [task] if task.actions else []
            return
        message = "".join(fail.traceback) or fail.message
        self.failures.append({"task": task, "exception": fail, "seconds": seconds, "message": message})
        self._line.say(f"✗ {task.name}  {seconds:.1f} s\n  " + message.rstrip().replace("\n", "\n  "))

    def complete_run(self) -> None:
        """Called at the end, interrupted or not."""
        self._line.close()
        for message in self.runtime_errors:
            say(*plain_lines(f"error: {message}"))
        if self._ran:
            self._table()
        seconds = time.monotonic() - self._started
        counts = [
            (self._ran, "done"),
            (len(self._quiet), "up to date"),
            (len(self.failures), "failed"),
            (len(self._blocked), "blocked"),
        ]
        said = ", ".join(f"{n} {what}" for n, what in counts if n)
        if said:
            _write(f"{said} in {seconds:.1f} s")
            self._tell_job(f"{said} in {seconds:.1f} s")
        self._summarize(seconds)
        if self._quiet and not (self._ran or self.failures or self._blocked or process.interrupted()):
            with contextlib.suppress(OSError, ValueError, KeyError):  # then the next run looks properly
                self._remember()

    def _summarize(self, seconds: float) -> None:
        """Write the page about this run, if it built anything or tried to. Whatever comes of that, the run is what it is."""
        ended = [(name, "done", took, "") for name, took in self._seconds.items()]
        ended += [(f["task"].name, "failed", f["seconds"], f["message"]) for f in self.failures]
        if not any(name.split(":")[0] in BUILD_GROUPS for name, *_ in ended) or process.interrupted():
            return
        ended += [(task.name, "up to date", 0.0, "") for task in self._quiet]
        ended += [(task.name, "blocked", 0.0, "") for task in self._blocked]
        try:
            from pipeline import summary  # which takes its time, and is not for runs that have nothing to do

            steps = [summary.Ended(*one[:3], Path(self._tasks[one[0]].targets[0]), one[3]) for one in ended]
            _write(f"report: {summary.write(self.layout, steps, seconds)}")
        except Exception as error:
            say(f"note: there is no report of this run: {type(error).__name__}: {error}")

    def _tell_job(self, head: str) -> None:
        """Say on the page of the CI job, where this is one, what came of the run."""
        if not os.environ.get(jobsummary.VARIABLE):
            return
        rows = [row for label, folder in self._verified() for row in table(label, folder)]
        published = [(_published(receipt), receipt["differs"]) for receipt in self._receipts()]
        failed = {f["task"].name: f["message"] for f in self.failures}
        try:
            jobsummary.append(jobsummary.lines(head, [_HEADINGS, *rows], published, failed))
        except OSError as error:
            say(f"note: {jobsummary.VARIABLE}: {error.strerror}")

    def _remember(self) -> None:
        """Note how all files look after a run that had nothing to do; doit's database, which says so, among them."""
        files, receipts = {str(self.database)}, []
        for task in self._quiet:
            files |= {*task.file_dep, *task.targets, str(stamp(task.name, Path(task.targets[0])))}
            if task.name.startswith("publish:"):
                receipt = json.loads(Path(task.targets[0]).read_text("utf-8"))
                files |= {o for o in receipt["objects"] if "://" not in o}
                receipts += [task.targets[0]] if "://" in receipt["store"] else []
        self.snapshot.take(files, len(self._quiet), receipts)

    def _code(self) -> str:
        """Where the code of this run came from; empty if nothing was compiled."""
        compiled = [Path(self._tasks[n].targets[0]).parent / "pieces.json" for n in self._seconds if n.startswith("compile:")]
        counts = [json.loads(path.read_text("utf-8")) for path in compiled if path.exists()]
        if not counts:
            return ""
        total, local, shared, generated, saved = (
            sum(c[key] for c in counts) for key in ("total", "local", "shared", "generated", "seconds_saved")
        )
        parts = [(generated, "generated"), (local, "from this machine's cache"), (shared, "from the shared cache")]
        said = ", ".join(f"{count} {what}" for count, what in parts if count)
        return f"{total} pieces of code: {said}" + (f"; that saved {saved:.0f} s of code generation" if saved >= 1 else "") + "\n"

    def _done(self, stage: str) -> list[tuple[str, Path]]:
        """The steps of a stage that this run did, and the first file that each made."""
        names = [name for name in self._tasks if name.startswith(f"{stage}:") and name in self._seconds]
        return [(name, Path(self._tasks[name].targets[0])) for name in names]

    def _verified(self) -> list[tuple[str, Path]]:
        return [(" / ".join(name.split(":")[1:]), path.parent) for name, path in self._done("verify")]

    def _receipts(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text("utf-8")) for _, path in self._done("publish")]

    def _table(self) -> None:
        verified = self._verified()
        rows = [row for label, folder in verified for row in table(label, folder)]
        if rows:
            width = (os.get_terminal_size().columns or _COLUMNS) if sys.stdout.isatty() else 0
            lacks = [line for label, folder in verified for line in left_out(label, folder)]
            _write("", *render(rows, width).split("\n"), *(line for lack in lacks for line in lack.split("\n")), "")
        write_out(sys.stdout, self._code())
        for receipt in self._receipts():
            _write(_published(receipt), *(f"  {line}" for line in receipt["differs"]))

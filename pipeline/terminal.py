"""What the command `vmfb` and the shell that calls it have between them: streams, the progress of a transfer, signals."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline import colors, platforms
from pipeline.errors import PipelineError
from pipeline.plain import plain, plain_lines


class _PlainFormatter(logging.Formatter):
    """A log's lines as all others: see `say`."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(plain_lines(super().format(record)))


def prepare_streams() -> None:
    """Text that a terminal's encoding lacks, or a name that is no text, is no reason to fail. Nor is a closed standard error."""
    if logging.lastResort:
        logging.lastResort.setFormatter(_PlainFormatter())
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # or print would take standard output
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            errors = "backslashreplace" if stream is sys.stderr else "replace"
            stream.reconfigure(encoding=platforms.TEXT_ENCODING, errors=errors)


def say(*lines: str) -> None:
    """Tell a person: on standard error. What is in a line stays there, and moves, colours and hides nothing."""
    _spoke()
    print("\n".join(colors.painted(plain(line), sys.stderr) for line in lines), file=sys.stderr)


def put(*lines: object) -> None:
    """Print a result: on standard output, each line as `say` does. Raises PipelineError if it cannot be written to.

    At once, so that it stands before what is said after it where both go to one file.
    """
    _spoke()
    with _output_errors():
        print("\n".join(colors.painted(plain(str(line))) for line in lines), flush=True)


def put_document(text: str) -> None:
    """Print JSON, whose own line feeds are all that it has."""
    _spoke()
    with _output_errors():
        print("\n".join(map(plain, text.rstrip("\n").split("\n"))))


SILENCE, LATER = 10.0, 30.0  # seconds after which a command says that it is at work, and then again
_last = [0.0]  # when this process last said something; a bar says it all the time


def _spoke() -> None:
    _last[0] = time.monotonic()


@contextmanager
def at_work(what: str) -> Iterator[None]:
    """While the block lasts, say on standard error that `what` is still at work, where nothing else was said for so long."""
    began = _last[0] = time.monotonic()
    over = threading.Event()

    def watch() -> None:
        limit = SILENCE
        while not over.wait(max(0.01, _last[0] + limit - time.monotonic())):
            if time.monotonic() >= _last[0] + limit:
                limit = LATER
                say(f"{what}: still at work, {time.monotonic() - began:.0f} s so far")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _output_errors() -> Iterator[None]:
    """Standard output that cannot be written to is an error, but for a pipe that nobody reads any more."""
    try:
        yield
    except OSError as error:
        if platforms.is_closed_pipe(error):
            raise BrokenPipeError from error
        give_up_output()
        raise PipelineError(f"cannot be written: {error.strerror}", where="standard output") from error


def give_up_output() -> None:
    """Drop what is still in the buffer of standard output, which cannot be written to."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write_out(out: Any, text: str) -> None:
    """Write to `out`, standard output, for a run that goes on where nobody reads it any more."""
    try:
        out.write(text)
        out.flush()
    except OSError as error:
        if not platforms.is_closed_pipe(error):
            raise
        give_up_output()


def flush() -> None:
    """Write what is in the buffer of standard output. Raises as `put` does."""
    with _output_errors():
        sys.stdout.flush()


class Bar:
    """The progress of a transfer, on standard error: a bar on a terminal, elsewhere a line every ten seconds."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bar: Any = None
        self._lock = threading.Lock()

    def begin(self, name: str, total: int) -> None:
        """`total` bytes of the file `name` are about to come."""
        self._name, self._total, self._came = name, total, 0
        self._started = self._said = time.monotonic()
        if sys.stderr.isatty() and not self._quiet:
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=name, unit="B", unit_scale=True, leave=False, file=sys.stderr)

    def advance(self, count: int) -> None:
        """`count` more bytes came."""
        with self._lock:
            self._came += count
            if self._bar is not None:
                self._bar.update(count)
                _spoke()
            elif not self._quiet and (now := time.monotonic()) > self._said + 10:
                from pipeline.consume.render import size

                self._said, rate = now, self._came / (now - self._started)
                left = f", about {(self._total - self._came) / rate:.0f} s left" if rate and self._came < self._total else ""
                say(f"{self._name}: {size(self._came)} of {size(self._total)}, {size(int(rate))}/s{left}")

    def end(self) -> None:
        """Nothing more comes."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def waiting(self, name: str) -> None:
        """Another process is fetching the same file."""
        if not self._quiet:
            say(f"another process is fetching {name}: waiting for it")


class EndedError(BaseException):
    """This process is told to end, by the signal in its argument."""


@contextmanager
def signals_raise() -> Iterator[None]:
    """Let SIGTERM and its like unwind as an interrupt does: at once they would leave child processes behind."""

    def unwind(number: int, _frame: object) -> None:
        raise EndedError(number)

    def default(number: int) -> bool:
        return signal.getsignal(number) == signal.SIG_DFL  # nohup ignores SIGHUP

    is_main = threading.current_thread() is threading.main_thread()
    taken = [number for number in platforms.ENDING_SIGNALS if is_main and default(number)]
    for number in taken:
        signal.signal(number, unwind)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)

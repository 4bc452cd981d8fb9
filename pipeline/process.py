"""The only place that starts processes: argv list in, exit code out, a log beside the output, no orphans."""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import PipelineError, disk_errors

_running: set[subprocess.Popen[bytes]] = set()
_lock = threading.RLock()  # the signal handler may interrupt its own holder
_inherited: set[int] = set()
_refusing = threading.Event()


class TimedOutError(PipelineError):
    """A process that did not end in the time it was given."""


@dataclass(frozen=True)
class Result:
    """How a process ended. `returncode` is negative for a signal; `seconds` is wall time."""

    returncode: int
    seconds: float
    log: Path

    @property
    def ending(self) -> str:
        """The ending in words: `exit code 1`, `killed by SIGILL`, …"""
        if self.returncode < 0:
            return f"killed by {signal.Signals(-self.returncode).name}"
        return f"exit code {self.returncode}"


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for sig, patience in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(process.pid, sig)
        except ProcessLookupError:
            return
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue


def share(descriptor: int) -> None:
    """Let every process started from now on hold `descriptor` open: a lock on it lasts until the last of them ends."""
    _inherited.add(descriptor)


def refuse_more() -> None:
    """Start no process from now on: this run is being interrupted."""
    _refusing.set()


def interrupted() -> bool:
    """Whether this run is being interrupted."""
    return _refusing.is_set()


def end_all() -> None:
    """End every process started here, with its children; for interrupt and termination handlers."""
    with _lock:
        processes = list(_running)
    for process in processes:
        _end_group(process)


def _spawn(
    words: Sequence[str], stdin: BinaryIO | None, output: BinaryIO, env: Mapping[str, str], pass_fds: Sequence[int], log: Path
) -> subprocess.Popen[bytes]:
    try:
        with _lock:
            process = subprocess.Popen(
                words,
                stdin=stdin or subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(*_inherited, *pass_fds),
                env=env,
            )
            _running.add(process)
            return process
    except OSError as error:
        raise PipelineError(f"cannot start {words[0]}: {error.strerror}", where=str(log)) from error


def _wait(process: subprocess.Popen[bytes], timeout: float) -> int:
    """Wait for its end. `Popen.wait` with a timeout looks only every 50 ms: long, for tools that take as long."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:  # ended and waited for, by an interrupt's handler
        return process.wait()
    try:
        waiter = select.poll()
        waiter.register(descriptor, select.POLLIN)
        if not waiter.poll(timeout * 1000):
            raise TimeoutError
    finally:
        os.close(descriptor)
    return process.wait()


def execute(
    argv: Sequence[str | Path],
    log: Path,
    *,
    stdin: Path | None = None,
    timeout: float = 3600,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Result:
    """Run `argv` with standard output and error into `log`; PipelineError if it cannot start or outlasts `timeout` s.

    The child has its own process group, which is ended as a whole on a timeout or when this call is interrupted.
    """
    if _refusing.is_set():
        raise PipelineError("interrupted")
    started = time.monotonic()
    words = [str(word) for word in argv]
    with disk_errors(str(log)):
        log.parent.mkdir(parents=True, exist_ok=True)
        output = log.open("wb")
        source = stdin.open("rb") if stdin else None
    try:
        with disk_errors(str(log)):
            output.write(f"$ {shlex.join(words)}{f' < {stdin}' if stdin else ''}\n".encode())
            output.flush()
        process = _spawn(words, source, output, {**os.environ, **(env or {})}, pass_fds, log)
        try:
            if _refusing.is_set():
                raise PipelineError("interrupted")
            returncode = _wait(process, timeout)
        except TimeoutError:
            raise TimedOutError(
                f"{Path(words[0]).name} did not end within {timeout:.0f} s and was stopped", where=str(log)
            ) from None
        finally:
            _end_group(process)
            with _lock:
                _running.discard(process)
    finally:
        output.close()
        if source:
            source.close()
    return Result(returncode, time.monotonic() - started, log)


def tail(log: Path, lines: int = 12, width: int = 300) -> str:
    """The last `lines` lines of `log`, each cut at `width` characters."""
    text = log.read_text("utf-8", "replace").splitlines()[1:]
    return "\n".join("    " + line[:width] for line in text[-lines:])


def run(
    argv: Sequence[str | Path],
    log: Path,
    *,
    stdin: Path | None = None,
    timeout: float = 3600,
    env: Mapping[str, str] | None = None,
) -> Result:
    """`execute`, but an exit code other than 0 is a PipelineError with the command, its ending and the log's tail."""
    result = execute(argv, log, stdin=stdin, timeout=timeout, env=env)
    if result.returncode:
        raise PipelineError(
            f"{Path(str(argv[0])).name}: {result.ending}\n{tail(log)}", where=str(log), hint=f"the whole log is {log}"
        )
    return result

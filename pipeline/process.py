"""The only place that starts processes: argv list in, exit code out, a log beside the output, no orphans."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pipeline import platforms, watchdog
from pipeline.errors import PipelineError, disk_errors
from pipeline.logs import LOOK, Log

_running: set[subprocess.Popen[bytes]] = set()
_lock = threading.RLock()  # the signal handler may interrupt its own holder
_inherited: set[int] = set()
_refusing = threading.Event()
_SIGKILL = 9
_SPEECH = {"PYTHONIOENCODING": "utf-8:backslashreplace"}  # logs are read so, whatever the user's terminal takes
_EXCEPTIONS = 0xC0000000  # what Windows gives as the return code of a process that an exception ended begins here


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
        return f"killed by the exception 0x{self.returncode:08X}" if self.crashed else f"exit code {self.returncode}"

    @property
    def crashed(self) -> bool:
        """Whether it did not end by itself: by a signal, or on Windows by an exception such as 0xC000001D."""
        return self.returncode < 0 or self.returncode >= _EXCEPTIONS

    @property
    def killed(self) -> bool:
        """Whether it was killed by force, as Linux does for want of memory."""
        return self.returncode == -_SIGKILL


def _end_group(process: subprocess.Popen[bytes]) -> None:
    for forcibly, patience in ((False, 2.0), (True, 10.0)):
        if not platforms.end_group(process, forcibly):
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


def pause(seconds: float) -> None:
    """Wait. Raises PipelineError, at once, where this run is being interrupted."""
    if _refusing.wait(seconds):
        raise PipelineError("interrupted")


def end_all() -> None:
    """End every process started here, with its children; for interrupt and termination handlers."""
    with _lock:
        processes = list(_running)
    for process in processes:
        _end_group(process)


def _spawn(
    words: Sequence[str],
    stdin: BinaryIO | int,
    output: BinaryIO | int,
    errors: BinaryIO | int,
    env: Mapping[str, str],
    pass_fds: Sequence[int],
    log: Path,
) -> subprocess.Popen[bytes]:
    try:
        with _lock:
            process = subprocess.Popen(
                words,
                bufsize=0,
                stdin=stdin,
                stdout=output,
                stderr=errors,
                start_new_session=True,
                pass_fds=(*_inherited, *pass_fds),
                env={**env, **_SPEECH, **watchdog.mark()},
            )
            _running.add(process)
            return process
    except OSError as error:
        raise PipelineError(f"cannot start {words[0]}: {error.strerror}", where=str(log)) from error


def _watched(log: Log, wait: Callable[[float], int], timeout: float) -> int:
    """What `wait`, which takes seconds and may raise TimeoutError, returns within `timeout` s. The log is kept short."""
    deadline = time.monotonic() + timeout
    while True:
        left = max(deadline - time.monotonic(), 0.0)
        try:
            return wait(min(left, LOOK))
        except TimeoutError:
            if left <= LOOK:
                raise
        log.limit()


def execute(
    argv: Sequence[str | Path],
    log: Path,
    *,
    stdin: Path | None = None,
    timeout: float = 3600,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    output: Path | None = None,
) -> Result:
    """Run `argv` with standard output and error into `log`; PipelineError if it cannot start or outlasts `timeout` s.

    `output`: where standard output goes instead.

    The child has its own process group, which is ended as a whole on a timeout or when this call is interrupted.
    """
    if _refusing.is_set():
        raise PipelineError("interrupted")
    started = time.monotonic()
    words = [str(word) for word in argv]
    begun = Log(log, words, f" < {stdin}" if stdin else "")
    with disk_errors(str(log)):
        said = log.open("ab")
        source = stdin.open("rb") if stdin else None
        result = output.open("wb") if output else said
    try:
        process = _spawn(words, source or subprocess.DEVNULL, result, said, {**os.environ, **(env or {})}, pass_fds, log)
        try:
            if _refusing.is_set():
                raise PipelineError("interrupted")
            returncode = _watched(begun, lambda seconds: platforms.wait(process, seconds), timeout)
        except TimeoutError:
            raise TimedOutError(
                f"{Path(words[0]).name} did not end within {timeout:.0f} s and was stopped", where=str(log)
            ) from None
        finally:
            _end_group(process)
            begun.limit()
            with _lock:
                _running.discard(process)
    finally:
        for file in (said, result, source):
            if file:
                file.close()
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


class Forks:
    """Processes that start at once: forks of one that `argv` starts, which imports what they need and then calls `serve`.

    Starting Python and importing numpy and a runtime takes longer than most of what is done with them. What waits for the
    next request ends with this process. Where nothing can be forked, each is a process that `argv` starts.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = argv
        self._idle: list[subprocess.Popen[bytes]] = []
        atexit.register(self._close)

    def _close(self) -> None:
        while self._idle:
            _end(self._idle.pop())

    def execute(self, arguments: Sequence[str | Path], log: Path, *, timeout: float, env: Mapping[str, str]) -> Result:
        """Let a fork do what `serve` does with `arguments`. As `execute`, with `env` added to this process's environment."""
        if _refusing.is_set():
            raise PipelineError("interrupted")
        if not platforms.FORKS:
            return execute([*self._argv, *arguments], log, timeout=timeout, env=env)
        started = time.monotonic()
        words = [str(word) for word in arguments]
        begun = Log(log, [*self._argv, *words])
        server = self._take() or self._start(log)
        request = {"arguments": words, "log": str(log), "folder": str(Path.cwd()), "environment": {**os.environ, **env}}
        try:
            returncode = _ask(server, json.dumps(request).encode() + b"\n", timeout, begun)
        except TimeoutError:
            self._idle.append(server)
            what = f"it did not end within {timeout:.0f} s and was stopped"
            raise TimedOutError(what, where=str(log)) from None
        except BaseException:
            _end(server)
            raise
        self._idle.append(server)
        return Result(returncode, time.monotonic() - started, log)

    def _take(self) -> subprocess.Popen[bytes] | None:
        with _lock:
            while self._idle:
                server = self._idle.pop()
                if server.poll() is None:
                    return server
                _end(server)
        return None

    def _start(self, log: Path) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # a process that forks should have one thread
        with disk_errors(str(log)), log.open("ab") as errors:
            return _spawn(self._argv, subprocess.PIPE, subprocess.PIPE, errors, environment, (), log)


def _end(server: subprocess.Popen[bytes]) -> None:
    _end_group(server)
    for pipe in (server.stdin, server.stdout):
        if pipe:
            with suppress(OSError):
                pipe.close()
    with _lock:
        _running.discard(server)


def _ask(server: subprocess.Popen[bytes], request: bytes, timeout: float, log: Log) -> int:
    """Send the request, wait for its end: the fork's return code, or the server's own if it ended. May raise TimeoutError."""
    if server.stdin is None or server.stdout is None:
        raise ValueError("the server has no pipes")
    with suppress(BrokenPipeError):
        server.stdin.write(request)
        server.stdin.flush()
    fork = server.stdout.readline()
    answer = server.stdout.fileno()

    def wait(seconds: float) -> int:
        if platforms.becomes_readable(answer, seconds):
            return 0
        raise TimeoutError

    late = False
    try:
        if fork:
            _watched(log, wait, timeout)
    except TimeoutError:
        late = True
    log.limit()
    for forcibly in (False, True) if late else ():
        platforms.end_fork(int(fork), forcibly)  # the server tells first that it has ended: until then the number is its own
        if platforms.becomes_readable(answer, 2):
            break
    ended = server.stdout.readline()
    if late:
        raise TimeoutError
    return int(ended) if ended else server.wait()


def serve(act: Callable[[list[str]], int]) -> int:
    """The other side of `Forks`: a fork of this process for each request. Returns in each what `act` does with it, and in this
    process 0, when nobody is there to ask any more. A process that was given arguments is none that forks: `act` has them."""
    if sys.argv[1:]:
        return act(sys.argv[1:])
    requests, answers = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    while line := requests.readline():
        fork = platforms.fork()
        if not fork:
            requests.close()
            answers.close()
            return act(_become(json.loads(line)))
        answers.write(b"%d\n" % fork)
        answers.write(b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]))
    return 0


def _become(request: dict[str, Any]) -> list[str]:
    """Make this process what the request says: its log, folder and environment. Returns its arguments."""
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    arguments: list[str] = request["arguments"]
    return arguments

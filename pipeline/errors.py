"""The one error family of the project: what went wrong, where, and what to do. Anything else that escapes is a bug."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pipeline import exits, platforms
from pipeline.plain import plain, plain_lines, without_secrets

_REFUSED = (1, 13, 30)  # not permitted, denied, read-only
_DENIED = "check the owner and permissions of that folder"
if not platforms.OPEN_FILES_CAN_GO:
    _DENIED += ", and that no program has the file open"


class PipelineError(Exception):
    """A mistake or failure the user can act on. `where` is a file, task or URL; `hint` is the next step."""

    exit_code = exits.NOT_DONE  # of a command that ends with it

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = map(without_secrets, (what, where, hint))
        super().__init__(self.what)

    def __str__(self) -> str:
        """For people: its own lines, and nothing that a terminal obeys."""
        head = f"{plain(self.where)}: " if self.where else ""
        said = "\n".join(plain_lines(self.what))
        return f"{head}{said}\n  → {plain(self.hint)}" if self.hint else f"{head}{said}"


class DeniedError(PipelineError):
    """This user may not do that: other things may work."""


class WrongError(PipelineError):
    """What was looked at is wrong: numbers are not those of the reference, or bytes are damaged."""

    exit_code = exits.WRONG


class ManyProblemsError(PipelineError):
    """Several independent problems found in one pass, reported together, one a line."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def _refusal(error: OSError, where: str) -> PipelineError:
    hint = {
        28: "free some space and run the same command again; nothing half-written was kept",
        2: "check the path; what doit made is made again after `rm -rf out`",
        20: "a part of that path is a file: choose another folder",
        30: "the file system is read-only: choose another folder, or remount it",
        13: _DENIED,
        1: _DENIED,
    }.get(error.errno or 0, "")
    kind = DeniedError if error.errno in _REFUSED else PipelineError
    return kind(f"{error.strerror or error}", where=str(error.filename or where), hint=hint)


@contextmanager
def disk_errors(where: str) -> Iterator[None]:
    """Turn the operating system's refusals (full, read-only, not permitted) into a PipelineError about `where`."""
    try:
        yield
    except OSError as error:
        raise _refusal(error, where) from error


@contextmanager
def permitted() -> Iterator[None]:
    """Around a whole command: what this user may not do, wherever nobody foresaw it, is a PipelineError too, and no bug."""
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        raise _refusal(error, "this machine") from error

"""What `vmfb` and `doit` end with, once: for both commands, the help of one and the reference of both."""

from __future__ import annotations

from collections.abc import Sequence

DONE = 0
NOT_DONE = 1
USAGE = 2  # as argparse has it
BLOCKED = 2  # as doit has it
NOTHING_RUN = 3  # as doit has it
WRONG = 4
BUG = 70  # EX_SOFTWARE of sysexits.h
AWAY = 75  # EX_TEMPFAIL there
SIGNAL = 128

# Command, code, meaning.
EXITS: Sequence[tuple[str, str, str]] = (
    ("`vmfb`", f"{DONE}", "done"),
    ("`vmfb`", f"{NOT_DONE}", "not done: bad input, or refused; a message on standard error says what, where and what next"),
    ("`vmfb`", f"{USAGE}", "the command line is wrong"),
    ("`vmfb`", f"{WRONG}", "something is wrong: outputs are not those of the reference, bytes are damaged"),
    ("`vmfb`", f"{BUG}", "a bug of this program, with a traceback"),
    ("`vmfb`", f"{AWAY}", "a store or server cannot be reached: the same command may go through later"),
    ("`vmfb`", f"{SIGNAL} and more", f"ended by a signal: {SIGNAL + 2} by an interrupt, {SIGNAL + 15} by SIGTERM"),
    ("`doit`", f"{DONE}", "done, or nothing to do"),
    (
        "`doit`",
        f"{NOT_DONE} or {BLOCKED}",
        "a step failed: its message says why, and all that does not need it was done; 2 if others were blocked",
    ),
    ("`doit`", f"{NOTHING_RUN}", "nothing was run: a mistake in a spec, a variable or a step's name"),
    ("`doit`", f"{SIGNAL + 2}", "ended by an interrupt, SIGTERM or SIGHUP; the next run goes on where it stopped"),
    ("`doit check`", f"{NOT_DONE}", "there are mistakes in specs"),
)


def told() -> str:
    """The codes of `vmfb` in one line, for the foot of its help."""
    return f"exit codes: {DONE} done, {NOT_DONE} not done, {USAGE} usage, {WRONG} wrong, {AWAY} a server is away, {BUG} a bug"

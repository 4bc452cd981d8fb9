"""Where witnesses are: `PIPELINE_WITNESSES` as values."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from pipeline.errors import PipelineError

VARIABLE = "PIPELINE_WITNESSES"
TIMEOUT = "PIPELINE_WITNESS_TIMEOUT"
DASK = "dask"
_HINT = "give ssh://[user@]host[:port][/path/to/vmfb], several with commas between them, or dask"
# What begins with a hyphen would be an option of ssh's.
_HOST, _USER = re.compile(r"[0-9A-Za-z_.:%][0-9A-Za-z_.:%-]*"), re.compile(r"[0-9A-Za-z_.][0-9A-Za-z_.@+-]*")


@dataclass(frozen=True)
class SshAddress:
    """A machine that is reached by ssh, where `command` is the program `vmfb`: a name or a path."""

    host: str
    user: str = ""
    port: int | None = None
    command: str = "vmfb"

    @property
    def name(self) -> str:
        """What people, and evidence, call it."""
        return self.host if self.port is None else f"{self.host}:{self.port}"

    @property
    def words(self) -> list[str]:
        """Where to, as arguments of ssh."""
        port = [] if self.port is None else ["-p", str(self.port)]
        return [*port, "--", f"{self.user}@{self.host}" if self.user else self.host]


def _ssh(text: str) -> SshAddress:
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise PipelineError(f"{text!r} names no machine: {error}", where=VARIABLE, hint=_HINT) from error
    host, user = url.hostname or "", unquote(url.username or "")
    well_formed = url.scheme == "ssh" and _HOST.fullmatch(host) and (not user or _USER.fullmatch(user))
    if not well_formed or url.password or url.query or url.fragment:
        raise PipelineError(f"{text!r} names no machine", where=VARIABLE, hint=_HINT)
    return SshAddress(host, user, port, unquote(url.path) if url.path not in ("", "/") else "vmfb")


def parse(text: str) -> SshAddress | None:
    """The machine that one of `addresses` names; None for the workers of the Dask cluster."""
    return None if text == DASK else _ssh(text)


def addresses(text: str) -> tuple[str, ...]:
    """The witnesses that the value of PIPELINE_WITNESSES names, each once.

    Raises PipelineError for what names none, and for what the other variables say of them and is wrong.
    """
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for one in found:
        parse(one)
        patience()
    if DASK in found and not os.environ.get("PIPELINE_SCHEDULER"):
        raise PipelineError("dask is a witness, but PIPELINE_SCHEDULER is not set", where=VARIABLE, hint=_HINT)
    return found


def patience() -> float:
    """For how many seconds an answer is waited for. Raises PipelineError where the variable is no such number."""
    text = os.environ.get(TIMEOUT) or "600"
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < 1e6:
        raise PipelineError(f"{text!r} is no number of seconds", where=TIMEOUT)
    return seconds

"""What a user asks for: `MODEL`, `MODEL:CHANNEL`, `MODEL@VERSION`, or one manifest: `MODEL@sha256:DIGEST`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.errors import PipelineError
from pipeline.names import RULE, is_name, is_version

DEFAULT_CHANNEL = "latest"
_PIN = "sha256:"


@dataclass(frozen=True)
class Reference:
    """A release: by `version`, which never changes, by `channel`, which moves, or by the digest of its manifest, `sha256`.

    Two of the three are empty.
    """

    model: str
    version: str = ""
    channel: str = ""
    sha256: str = ""

    def __str__(self) -> str:
        if self.sha256:
            return f"{self.model}@{_PIN}{self.sha256}"
        return f"{self.model}@{self.version}" if self.version else f"{self.model}:{self.channel}"


def parse(text: str) -> Reference:
    """The reference in `text`. Raises PipelineError that says what is wrong with it."""
    model, at, version = text.partition("@")
    model, colon, channel = (model, "", "") if at else text.partition(":")
    if not is_name(model):
        hint = "give MODEL, MODEL@VERSION, MODEL@sha256:DIGEST or MODEL:CHANNEL; a file needs its whole path"
        raise PipelineError(f"{text!r} is neither a file nor a model's name", hint=hint)
    if version.startswith(_PIN):
        if not re.fullmatch(r"[0-9a-f]{64}", digest := version.removeprefix(_PIN)):
            raise PipelineError(f"{digest!r} is no SHA-256", hint="give all 64 lower-case hex digits: `vmfb inspect` shows them")
        return Reference(model, sha256=digest)
    if at and not is_version(version):
        raise PipelineError(f"{version!r} cannot be a version", hint=f"{RULE}; capitals and '+' too")
    if colon and not is_name(channel):
        raise PipelineError(f"{channel!r} cannot be a channel", hint=RULE)
    return Reference(model, version, "" if at else channel or DEFAULT_CHANNEL)

"""What a user asks for: `MODEL`, `MODEL@VERSION` or `MODEL:CHANNEL`."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import PipelineError
from pipeline.names import RULE, is_name, is_version

DEFAULT_CHANNEL = "latest"


@dataclass(frozen=True)
class Reference:
    """A release: by `version`, which never changes, or by `channel`, which moves. One of the two is empty."""

    model: str
    version: str = ""
    channel: str = ""

    def __str__(self) -> str:
        return f"{self.model}@{self.version}" if self.version else f"{self.model}:{self.channel}"


def parse(text: str) -> Reference:
    """The reference in `text`. Raises PipelineError that says what is wrong with it."""
    model, at, version = text.partition("@")
    model, colon, channel = (model, "", "") if at else text.partition(":")
    if not is_name(model):
        hint = "give MODEL, MODEL@VERSION or MODEL:CHANNEL; a file needs its whole path"
        raise PipelineError(f"{text!r} is neither a file nor a model's name", hint=hint)
    if at and not is_version(version):
        raise PipelineError(f"{version!r} cannot be a version", hint=f"{RULE}; capitals and '+' too")
    if colon and not is_name(channel):
        raise PipelineError(f"{channel!r} cannot be a channel", hint=RULE)
    return Reference(model, version, "" if at else channel or DEFAULT_CHANNEL)

"""What a store is: objects by key, with the two conditional writes that releases need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Object:
    """An object read from a store; `tag` names this state of it for `replace`."""

    data: bytes
    tag: str


class Store(Protocol):
    """Objects by key. Every method raises PipelineError for a store that is missing, refuses, or goes away."""

    url: str

    def get(self, key: str) -> Object | None:
        """The object at `key`, or None where there is none."""

    def size(self, key: str) -> int | None:
        """The size in bytes of the object at `key`, or None where there is none."""

    def upload(self, key: str, path: Path) -> None:
        """Put the file at `path`, whole or not at all; what was there is replaced."""

    def create(self, key: str, data: bytes) -> bool:
        """Put `data` only if there is nothing at `key`; False, and nothing changed, if there is."""

    def replace(self, key: str, data: bytes, tag: str | None) -> bool:
        """Put `data` only if the object is still in the state `tag` (None: does not exist); False if it is not."""

"""What is known of a file's kernels beside it, in `kernels.json`: what a model's author calls them, and what each cost to make.

A compile leaves it beside the file. The file itself says only which dispatch a kernel is, by the names of its segments.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError, disk_errors
from pipeline.files import write

NAME = "kernels.json"


@dataclass(frozen=True)
class Made:
    """A kernel's code for one variant: the name of its function there, and the seconds that it took to generate, roughly."""

    symbol: str
    seconds: float


@dataclass(frozen=True)
class Kernel:
    """A kernel of a model: its dispatch, the compiler's name for it, and its code by variant.

    `nodes` are those of the model that it computes, each with its operators, as far as the compiler kept track.
    """

    dispatch: str
    name: str
    nodes: Mapping[str, Sequence[str]]
    code: Mapping[str, Made]

    @property
    def operators(self) -> tuple[str, ...]:
        """The operators that it computes, each once."""
        return tuple(dict.fromkeys(name for names in self.nodes.values() for name in names))


def save(path: Path, kernels: Iterable[Kernel]) -> None:
    """Write `kernels` to `path`, whole or not at all."""
    write(path, json.dumps([asdict(kernel) for kernel in kernels], separators=(",", ":")).encode())


def read(path: Path) -> tuple[Kernel, ...]:
    """What `save` wrote. Raises PipelineError for what it did not."""
    try:
        with disk_errors(str(path)):
            text = path.read_bytes()
        return tuple(_kernel(value) for value in json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PipelineError(f"damaged: {error!r:.200}", where=str(path), hint="remove it: then kernels have no names") from error


def _kernel(value: dict[str, Any]) -> Kernel:
    nodes = {str(node): tuple(map(str, names)) for node, names in value["nodes"].items()}
    code = {str(variant): Made(str(made["symbol"]), float(made["seconds"])) for variant, made in value["code"].items()}
    return Kernel(str(value["dispatch"]), str(value["name"]), nodes, code)

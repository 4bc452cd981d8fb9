"""The text of `#hal.executable.target` attributes: their parameters have no accessors in the compiler's Python bindings."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Values of a GPU's parameters that a spec may set, as they stand in #iree_gpu.target<… wgp = <…>>.
AttributeValue = int | str | tuple[int, ...]


def _split(text: str) -> list[str]:
    """The comma-separated parts of `text` outside any brackets."""
    parts, depth, start = [], 0, 0
    for at, char in enumerate(text):
        depth += (char in "<[{(") - (char in ">]})")
        if char == "," and depth == 0:
            parts.append(text[start:at].strip())
            start = at + 1
    return [*parts, text[start:].strip()]


def _inside(text: str, opening: str) -> tuple[int, int]:
    """Where the bracketed text that begins with `opening` starts and ends inside `text`."""
    start = text.index(opening) + len(opening)
    depth = 1
    for at in range(start, len(text)):
        depth += (text[at] in "<[{(") - (text[at] in ">]})")
        if depth == 0:
            return start, at
    raise ValueError(f"unbalanced brackets in {text}")


def override(attribute: str, changes: Mapping[str, AttributeValue]) -> str:
    """`attribute` with parameters of its GPU changed."""
    start, end = _inside(attribute, "wgp = <")
    entries = dict(part.split(" = ", 1) for part in _split(attribute[start:end]))
    entries |= {key: str(list(value)) if isinstance(value, tuple) else str(value) for key, value in changes.items()}
    return attribute[:start] + ", ".join(f"{k} = {v}" for k, v in entries.items()) + attribute[end:]


def entry(attribute: str, key: str, opening: str, closing: str) -> str:
    """What stands between `opening` and `closing` behind `key = `; empty where there is no such parameter."""
    if (start := attribute.find(f"{key} = {opening}")) < 0:
        return ""
    start += len(f"{key} = {opening}")
    return attribute[start : attribute.index(closing, start)]


def with_entry(attribute: str, key: str, value: str) -> str:
    """`attribute` with one more parameter of its target."""
    start, _ = _inside(attribute, ", {")
    return f"{attribute[:start]}{key} = {value}, {attribute[start:]}"


def format_of(attribute: str) -> str:
    """The executable format of the code, as IREE's runtime knows it."""
    match = re.match(r'#hal\.executable\.target<"[^"]*", "([^"]*)"', attribute)
    if not match:
        raise ValueError(f"no executable target: {attribute[:100]}")
    return match[1]

"""What a channel asks of a release before it moves there: `channels` of `targets/policy.yaml`, and of a bundle."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipeline.names import RULE, is_name
from pipeline.spec.keys import FACTOR, PART
from pipeline.spec.reader import Fields
from pipeline.spec.types import Policy


def read_policy(fields: Fields | None) -> Mapping[str, Policy]:
    """The policies of the channels that are keys here."""
    found = {}
    for channel in fields.data if fields else ():
        assert fields is not None  # for the type checker
        if not is_name(channel):
            fields.problem(channel, f"cannot be a channel: {RULE}")
        if sub := fields.sub(channel):
            found[channel] = _policy(sub)
            sub.done()
    if fields:
        fields.done()
    return found


def _policy(fields: Fields) -> Policy:
    evidence = fields.text("evidence")
    return Policy(
        evidence=evidence or "untested",
        untested=fields.text("untested", "refused" if evidence else "allowed"),
        slower=_part(fields, "slower"),
        larger=_part(fields, "larger"),
        less_exact=_factor(fields, "less_exact"),
        path=fields.path,
    )


def _written(fields: Fields, key: str) -> str:
    """The text of a key, also where YAML reads a number: that is refused with what it should be."""
    fields.known.add(key)
    value = fields.data.get(key)
    return "" if value is None else str(value).strip()


def _part(fields: Fields, key: str) -> float | None:
    """A part such as `10%`, as 0.1."""
    text = _written(fields, key)
    match = re.fullmatch(PART, text)
    if text and not match:
        fields.problem(key, f"must be a part such as 10%, not {text!r}")
    return float(match[1]) / 100 if match else None


def _factor(fields: Fields, key: str) -> float | None:
    """A factor such as `2x`, of 1 or more."""
    text = _written(fields, key)
    match = re.fullmatch(FACTOR, text)
    if text and (not match or float(match[1]) < 1):
        fields.problem(key, f"must be a factor of 1 or more, such as 2x, not {text!r}")
        return None
    return float(match[1]) if match else None

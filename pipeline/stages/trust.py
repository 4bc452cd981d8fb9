"""Trust: begin to sign a store, and keep that up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.files import expanded, write
from pipeline.names import whole_number
from pipeline.store.base import Store
from pipeline.store.open import address_of, open_to_publish


def run(action: str, url: str, asked: Mapping[str, str], folder: Path) -> None:
    """Do `init`, `rotate`, `witness` or `refresh` with the store at `url`, as `asked` by the words of the command line;
    `report.txt` into `folder`."""
    store, name = open_to_publish(url), address_of(url).name
    lines = {"init": _init, "rotate": _rotate, "witness": _witness, "refresh": _refresh}[action](store, name, asked)
    write(folder / "report.txt", "".join(f"{line}\n" for line in lines).encode())


def _number(asked: Mapping[str, str], name: str, default: int) -> int:
    if not asked[name]:
        return default
    if not (number := whole_number(asked[name])):
        raise PipelineError(f"{name}={asked[name]:.60} is no number of keys: give 1 or more")
    return number


def _init(store: Store, name: str, asked: Mapping[str, str]) -> list[str]:
    from pipeline.trust.repository import DEFAULT_DAYS, read_days
    from pipeline.trust.setup import Setup, begin

    setup = Setup(_number(asked, "roots", 1), _number(asked, "threshold", 1), {**DEFAULT_DAYS, **read_days(asked["days"])})
    return begin(store, name, setup)


def _rotate(store: Store, name: str, asked: Mapping[str, str]) -> list[str]:
    from pipeline.trust.repository import read_days
    from pipeline.trust.rotate import Rotation, rotate
    from pipeline.trust.signed import required_anchor

    if (add := asked["add"]) not in ("yes", "no"):
        raise PipelineError(f"add={add:.60} is neither yes nor no")
    threshold, days = _number(asked, "threshold", 0), tuple(read_days(asked["days"]).items())
    role, model = asked["role"], asked["model"]
    if bool(role) == bool(model):
        raise PipelineError("which role?", hint="give role=NAME, or model=NAME for that of a model")
    rotation = Rotation(role or model, asked["key"], add == "yes", asked["remove"], threshold, days, bool(model))
    return rotate(store, required_anchor(store, name), rotation)


def _witness(store: Store, name: str, asked: Mapping[str, str]) -> list[str]:
    from pipeline.trust.keys import find_keys, read_public_key
    from pipeline.trust.signed import required_anchor
    from pipeline.trust.upkeep import set_witness

    given, removed = asked["name"] and asked["key"], asked["remove"]
    if bool(given) == bool(removed):
        raise PipelineError("which witness?", hint="give name=NAME key=FILE, its public key, or remove=NAME")
    key = read_public_key(expanded(asked["key"])) if given else None
    return set_witness(store, required_anchor(store, name), find_keys(), asked["name"] or removed, key)


def _refresh(store: Store, name: str, _asked: Mapping[str, str]) -> list[str]:
    from pipeline.trust.keys import find_keys
    from pipeline.trust.signed import required_anchor
    from pipeline.trust.upkeep import refresh

    return refresh(store, required_anchor(store, name), find_keys())

"""Whom this machine believes: for each store that it knows the signers of, a root of trust, in the user's configuration.

policy.json                     which stores have to be signed: {"signed": ["https://models.example.org*"]}
stores/<id>/store.json          the store's URL
stores/<id>/root.json           the root that was given by `vmfb trust add`: whoever signs otherwise is not believed
stores/<id>/metadata/           what was last seen of the store's metadata: older ones are refused
stores/<id>/view.json           what that says, so that nothing has to be verified twice
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from pipeline import platforms
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import expanded, locked, sha256_bytes, write
from pipeline.trust.view import View, decode_view

_PATIENCE = 120.0  # seconds to wait for another process that asks the same store
WITNESS_KEY = "VMFB_WITNESS_KEY"  # the variable that names what a witness signs with: a file, or a URI
_REQUIRED = "VMFB_REQUIRE_SIGNED"


class TrustError(PipelineError):
    """What a store says is not signed by those who are believed, or is not what they say now."""


def folder() -> Path | None:
    """VMFB_TRUST_DIR, or `vmfb-pipeline/trust` in the user's configuration; None for a user without a home."""
    if named := os.environ.get("VMFB_TRUST_DIR"):
        return expanded(named)
    try:
        return platforms.config_folder() / "vmfb-pipeline" / "trust"
    except RuntimeError:
        return None


def _required_folder() -> Path:
    if (found := folder()) is None:
        raise PipelineError("you have no home folder, so nothing is known of signers", hint="set VMFB_TRUST_DIR to a folder")
    return found


@dataclass(frozen=True)
class Anchor:
    """What is known of the signers of the store with the name `store`, below `folder`."""

    store: str
    folder: Path

    @property
    def _root(self) -> Path:
        return self.folder / "root.json"

    @property
    def root(self) -> bytes:
        """The root of trust, as it was given."""
        with disk_errors(str(self._root)):
            return self._root.read_bytes()

    @property
    def sha256(self) -> str:
        """Its digest."""
        return sha256_bytes(self.root)

    def view(self) -> View | None:
        """What was last seen; None where nothing was."""
        try:
            return decode_view((self.folder / "view.json").read_bytes())
        except OSError:
            return None

    def keep(self, view: View) -> None:
        """Remember what was seen, where this folder can be written to."""
        with suppress(PipelineError):
            write(self.folder / "view.json", view.encode())

    def vouched(self, witnesses: str) -> set[str]:
        """The keys of documents that witnesses have signed, as was once found out; where their list still has this digest."""
        try:
            known, *keys = (self.folder / "vouched.txt").read_text("utf-8").splitlines()
        except (OSError, ValueError):
            return set()
        return set(keys) if known == witnesses else set()

    def keep_vouched(self, witnesses: str, keys: set[str]) -> None:
        """Remember that, where this folder can be written to."""
        with suppress(PipelineError):
            write(self.folder / "vouched.txt", "\n".join([witnesses, *sorted(keys)]).encode())

    def seen(self, role: str) -> bytes | None:
        """The metadata of a role as it was last seen and verified."""
        try:
            return (self.folder / "metadata" / f"{role}.json").read_bytes()
        except OSError:
            return None

    @contextmanager
    def metadata(self) -> Iterator[Path]:
        """The folder of what was last seen, for one process at a time. One that cannot be written to is copied for it."""
        place = self.folder / "metadata"
        if os.access(self.folder, os.W_OK):
            with locked(self.folder / ".lock", "another process asks this store", patience=_PATIENCE):
                yield place
            return
        import tempfile

        with tempfile.TemporaryDirectory(prefix="vmfb-") as copy, disk_errors(str(place)):
            if place.is_dir():
                shutil.copytree(place, copy, dirs_exist_ok=True, symlinks=False)
            yield Path(copy)


def anchor_of(store: str) -> Anchor | None:
    """What is known of the signers of the store `store`; None where nothing is. Raises PipelineError where it cannot be read."""
    if (base := folder()) is None:
        return None
    found = Anchor(store, _place(base, store))
    with disk_errors(str(base)):
        return found if found._root.is_file() else None


def _place(base: Path, store: str) -> Path:
    return base / "stores" / sha256_bytes(store.encode())[:16]


def every() -> list[Anchor]:
    """Those of all stores, in the order of their names."""
    base, found = folder(), []
    if base is not None:
        with disk_errors(str(base)):
            for path in base.glob("stores/*/store.json"):
                try:
                    found.append(Anchor(str(json.loads(path.read_bytes())["store"]), path.parent))
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    raise PipelineError(
                        "is damaged", where=str(path), hint="remove its folder, and add the store again"
                    ) from error
    return sorted(found, key=lambda anchor: anchor.store)


def add(store: str, root: bytes) -> Anchor:
    """Believe who is named by `root`, which must be a root of trust, of what the store says from now on.

    Raises PipelineError where another one is known for it.
    """
    if before := anchor_of(store):
        if before.root == root:
            return before
        hint = "if it is not the one you know any more, `vmfb trust remove` it first"
        raise PipelineError("has a root of trust already, another one", where=store, hint=hint)
    made = Anchor(store, _place(_required_folder(), store))
    write(made.folder / "store.json", json.dumps({"store": store}).encode())
    write(made._root, root)  # last: this is what counts
    return made


def remove(store: str) -> None:
    """Forget who signs the store. Raises PipelineError where that is not known."""
    found = anchor_of(store)
    if found is None:
        known = ", ".join(anchor.store for anchor in every()) or "none"
        raise PipelineError("no root of trust is known for it", where=store, hint=f"known: {known}")
    with disk_errors(str(found.folder)):
        found._root.unlink()  # first: this is what counts
        shutil.rmtree(found.folder)


def must_be_signed(store: str) -> str:
    """What says that the store has to be signed; empty where nothing does. Raises PipelineError for a policy that is damaged."""
    if os.environ.get(_REQUIRED, "0") not in ("", "0"):
        return _REQUIRED
    if (base := folder()) is None:
        return ""
    path = base / "policy.json"
    with disk_errors(str(path)):
        if not path.is_file():
            return ""
        text = path.read_bytes()
    try:
        policy = json.loads(text)
        patterns = policy.pop("signed")
        if policy or not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        hint = 'it is like {"signed": ["https://models.example.org*", "s3://*"]}'
        raise PipelineError("is no policy", where=str(path), hint=hint) from error
    return str(path) if any(fnmatchcase(store, pattern) for pattern in patterns) else ""


def require_allowed(store: str) -> None:
    """Raise TrustError for a store whose signers are not known, where it has to be signed."""
    if who := must_be_signed(store):
        hint = "get its root.json from who publishes it, then `vmfb trust add STORE root.json`"
        raise TrustError(f"has to be signed ({who}), and no root of trust is known for it", where=store, hint=hint)

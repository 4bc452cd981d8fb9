"""What a timer does for a signed store: sign anew what would expire."""

from __future__ import annotations

import datetime
from typing import Any

from tuf.api.metadata import Metadata

from pipeline.store.base import Store
from pipeline.trust.anchors import Anchor
from pipeline.trust.keys import Keys
from pipeline.trust.repository import Repository, change


def refresh(store: Store, anchor: Anchor, keys: Keys) -> list[str]:
    """Sign the timestamp anew, and all else that is in the second half of its time, where its keys are here. What to tell."""
    said: list[str] = []

    def edit(repository: Repository) -> bool:
        said.clear()
        repository.require("snapshot", "timestamp")
        late = [role for role in repository.roles if _is_late(repository, role, repository.roles[role])]
        able = [role for role in late if repository.can_sign(role)]
        repository.changed |= {*able, *(["snapshot"] if _is_late(repository, "snapshot", repository.snapshot) else [])}
        said.extend(f"signed anew: {role}" for role in sorted(repository.changed))
        waiting: list[tuple[str, Metadata[Any]]] = [(role, repository.roles[role]) for role in late if role not in able]
        if _is_late(repository, "root", repository.root):
            waiting.append(("root", repository.root))
        said.extend(f"! {role} ends {metadata.signed.expires:%Y-%m-%d}: {_how(role)}" for role, metadata in waiting)
        return True

    change(store, anchor, keys, edit)
    return [f"{anchor.store} is signed anew", *said]


def _is_late(repository: Repository, role: str, metadata: Metadata[Any]) -> bool:
    left = metadata.signed.expires - datetime.datetime.now(datetime.UTC)
    return bool(left < datetime.timedelta(days=repository.days(role)) / 2)


def _how(role: str) -> str:
    if role == "root":
        return "`doit trust-rotate role=root keep=yes`, where its keys are"
    return f"`doit trust-refresh` where the keys of `{role}` are"

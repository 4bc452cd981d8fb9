"""What the signed metadata of a store says, as far as it was read and verified: values alone, and no library for them."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

TARGETS = "targets"  # the name of the role that says what a store holds, unless it has given that away
EVIDENCE = "evidence"  # the role of what witnesses saw, by the key that is online
TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class Target:
    """A document that is signed: its size (bytes), its digest, and what else the signer says of it."""

    length: int
    sha256: str
    custom: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Delegation:
    """A role that may sign the keys that fit `paths`, where `targets` and the roles before it say nothing of them."""

    role: str
    paths: tuple[str, ...]

    def fits(self, key: str) -> bool:
        """Whether the role may sign the key: a `*` stands for a part of the name of one folder or file, as TUF says."""
        return any(_fits(key, path) for path in self.paths)

    @property
    def example(self) -> str:
        """A key that the role may sign, and that nothing has."""
        return self.paths[0].replace("*", "-").replace("?", "-")


def _fits(key: str, path: str) -> bool:
    parts, patterns = key.split("/"), path.split("/")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


class NotReadError(Exception):
    """The `roles` have to be read, to tell."""

    def __init__(self, *roles: str) -> None:
        super().__init__(*roles)
        self.roles = roles


@dataclass(frozen=True)
class View:
    """What a store's metadata says: `timestamp` is the digest of the file that names all the rest, `root` the root's version.

    `expires` is when the first of what was read ends. `roles`: those that were read, by name, with their targets by key.
    """

    timestamp: str
    root: int
    expires: str
    delegations: tuple[Delegation, ...]
    roles: Mapping[str, Mapping[str, Target]]

    @property
    def has_expired(self) -> bool:
        """Whether it says nothing any more."""
        return self.expires <= datetime.datetime.now(datetime.UTC).strftime(TIME)

    def _of(self, key: str) -> Iterator[str]:
        yield TARGETS
        yield from (d.role for d in self.delegations if d.fits(key))

    def find(self, key: str) -> tuple[str, Target] | None:
        """The role that signs `key`, and what it says of it; None where none does. Raises NotReadError."""
        for role in self._of(key):
            if role not in self.roles:
                raise NotReadError(role)
            if target := self.roles[role].get(key):
                return role, target
        return None

    def keys(self, prefix: str) -> list[str]:
        """The keys that are signed and begin with `prefix`, in alphabetical order. Raises NotReadError."""
        asked = [one for one in self.delegations if any(_may_begin(path, prefix) for path in one.paths)]
        if lacking := [one.role for one in asked if one.role not in self.roles]:
            raise NotReadError(*lacking)
        found = {key for key in self.roles[TARGETS] if key.startswith(prefix)}
        for one in asked:
            found |= {key for key in self.roles[one.role] if key.startswith(prefix) and one.fits(key)}
        return sorted(found)

    def encode(self) -> bytes:
        """As JSON."""
        roles = {name: {k: [t.length, t.sha256, t.custom] for k, t in role.items()} for name, role in self.roles.items()}
        told = {"timestamp": self.timestamp, "root": self.root, "expires": self.expires, "roles": roles}
        return json.dumps({**told, "delegations": [[d.role, *d.paths] for d in self.delegations]}).encode()


def _may_begin(path: str, prefix: str) -> bool:
    """Whether a key that fits `path` may begin with `prefix`, which ends in a whole name or is the beginning of one."""
    parts, patterns = prefix.split("/"), path.split("/")
    whole = zip(parts[:-1], patterns, strict=False)
    return len(parts) <= len(patterns) and all(fnmatchcase(part, pattern) for part, pattern in whole)


def decode_view(data: bytes) -> View | None:
    """What `encode` gave; None for anything else."""
    try:
        value = json.loads(data)
        roles = {
            str(name): {str(k): Target(int(length), str(sha256), dict(custom)) for k, (length, sha256, custom) in role.items()}
            for name, role in value["roles"].items()
        }
        if TARGETS not in roles:
            return None
        delegations = tuple(Delegation(str(name), tuple(map(str, paths))) for name, *paths in value["delegations"])
        return View(str(value["timestamp"]), int(value["root"]), str(value["expires"]), delegations, roles)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None

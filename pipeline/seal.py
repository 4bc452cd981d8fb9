"""Who made a cache's entry: a tag over its place and its bytes, by a key that the builders share (HMAC-SHA256)."""

from __future__ import annotations

import hmac
import os
from dataclasses import dataclass, field

from pipeline import platforms
from pipeline.errors import PipelineError, disk_errors
from pipeline.files import expanded

VARIABLE = "PIPELINE_CACHE_KEY"
MAKE_KEY = (
    f"make one, `(umask 077; head -c 32 /dev/urandom > KEY)`, give it to the builders alone, and set {VARIABLE} to its path"
)
_LEAST = 32  # bytes, as many as a tag has
_MOST = 1 << 16
_MAGIC = b"vmfb-cache 2 "  # before it entries had no tag
_HEAD = len(_MAGIC) + 64 + 1


@dataclass(frozen=True)
class Seal:
    """What entries are sealed with. An empty `secret` finds damage only, in a folder that nobody else writes to.

    `purpose` says what kind of entries these are: one of another kind, or of another key, is not authentic.
    """

    purpose: str
    secret: bytes = field(default=b"", repr=False)

    @property
    def name(self) -> str:
        """What this key is called, in 16 hex digits, which tell nothing of it."""
        return self._tag("name", b"")[:16].decode()

    def _tag(self, key: str, data: bytes) -> bytes:
        tag = hmac.new(self.secret, digestmod="sha256")
        for part in (_MAGIC, self.purpose.encode(), key.encode()):
            tag.update(len(part).to_bytes(8, "big") + part)
        tag.update(data)
        return tag.hexdigest().encode()

    def sealed(self, key: str, data: bytes) -> bytes:
        """The entry that keeps `data` under `key`."""
        return _MAGIC + self._tag(key, data) + b"\n" + data

    def opened(self, key: str, entry: bytes) -> bytes | None:
        """What was `sealed` under `key`; None if anything of it is damaged, forged, or from elsewhere."""
        head, data = entry[:_HEAD], entry[_HEAD:]
        wanted = _MAGIC + self._tag(key, data) + b"\n"
        return data if hmac.compare_digest(head, wanted) else None


def from_environment(purpose: str) -> Seal | None:
    """The seal by the key file that PIPELINE_CACHE_KEY names; None where it is not set.

    Raises PipelineError for a file that is no key, or that others can read.
    """
    name = os.environ.get(VARIABLE)
    if not name:
        return None
    path = expanded(name)
    with disk_errors(str(path)), path.open("rb") as file:
        secret = file.read(_MOST + 1)
        state = os.fstat(file.fileno())
    if not platforms.is_own(state, to_read=True):
        hint = f"`chmod 600 {path}`; a key that others may have read is to be made anew"
        raise PipelineError("others can read this key, or own it", where=f"{VARIABLE}={path}", hint=hint)
    if not _LEAST <= len(secret) <= _MOST:
        what = f"is no key: it has {state.st_size} bytes, and must have from {_LEAST} to {_MOST}"
        raise PipelineError(what, where=f"{VARIABLE}={path}", hint=MAKE_KEY)
    return Seal(purpose, secret)

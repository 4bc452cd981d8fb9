"""Copying releases from one store into another, as they are: whatever is there already is not sent again."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from pipeline.consume.cache import Cache, Stretch
from pipeline.consume.fetch import Progress
from pipeline.consume.parts import Parts
from pipeline.consume.transfer import transfer
from pipeline.errors import PipelineError
from pipeline.files import sha256_file
from pipeline.layout import blob_key, channel_key, release_key, yank_key
from pipeline.manifest.codec import decode
from pipeline.manifest.types import Blob, Channel, Yank
from pipeline.store.base import Object, Source, Store
from pipeline.store.documents import add_evidence, swap
from pipeline.store.index import require_our_index, update_index
from pipeline.store.leases import Claim
from pipeline.store.releases import create_manifest, is_published, point, points, upload_blob
from pipeline.store.yanks import find_yank
from pipeline.trust.signed import require_keys, sign_changes

_BLOBS = 3  # at a time, each by up to 8 connections


@dataclass(frozen=True)
class Copied:
    """What became of a release: how many blobs and bytes were sent, the channels that moved, whether it is new there."""

    name: str
    blobs: int
    bytes: int
    moved: tuple[str, ...]
    is_new: bool


class Copier:
    """Puts releases of `source` into `store`. Blobs come by way of files in `staging`, to go on there after a kill."""

    def __init__(
        self,
        source: Source,
        store: Store,
        staging: Cache,
        progress: Progress,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._source, self._store, self._staging, self._progress, self._note = source, store, staging, progress, note
        self._stop = threading.Event()

    def begin(self) -> None:
        """Raise PipelineError where nothing could be put into the store in the end."""
        require_our_index(self._store)

    def put(self, parts: Parts, channels: Sequence[str] = ()) -> Copied:
        """Put a release, and point these channels of the store to it, but to none that was yanked.

        A kill at any moment leaves either no release or a whole one. Raises PipelineError where another release has its version.
        """
        manifest, store = parts.manifest, self._store
        model, version = manifest.model.name, manifest.version
        key = release_key(model, version)
        moving = [] if parts.is_yanked or find_yank(store, model, version) else list(channels)
        yanked = [yank_key(model, version)] if parts.yank is not None else []
        require_keys(store, key, *yanked, *parts.beside, *(channel_key(model, channel) for channel in moving))
        is_there = is_published(store, manifest, parts.data)  # a version that is taken is refused before anything is sent
        self._put_yank(parts)
        blobs = parts.blobs
        claim = Claim(store, model, version, blobs)
        sent, is_new = dict[str, int](), False
        if is_there and all(points(store, manifest, channel, parts.data) for channel in moving):
            sent = self._send(parts.name, list(blobs.values()))  # what is damaged: nothing is about to need a lease
        else:
            while claim.renew(self._note):
                sent |= self._send(parts.name, list(blobs.values()))
            is_new = create_manifest(store, manifest, parts.data)  # never without a lease: its blobs may be going
        for name, data in (*parts.beside.items(), *parts.signatures.items()):
            if not store.create(name, data) and (found := store.get(name)) and found.data != data:
                self._note(f"{store.url}/{name} is another one there, and stays")
        if parts.evidence:
            add_evidence(store, model, version, *parts.evidence)
        moved = [channel for channel in moving if point(store, manifest, channel, claim=claim)[0]]
        for channel in set(channels) - set(moving):
            self._note(f"the channel {channel} does not move to {parts.name}, which was yanked")
        return Copied(parts.name, len(sent), sum(sent.values()), tuple(moved), is_new)

    def set_channel(self, model: str, channel: str, data: bytes) -> bool:
        """Make a channel what it is in the source, byte for byte, with its history; whether it was another.

        It stays as it is where it points to a release that is not here: it moved after the releases were asked for, or that
        was pruned here.
        """
        key, store = channel_key(model, channel), self._store
        current, version = store.get(key), decode(Channel, data, f"{self._source.url}/{key}").version
        if current and current.data == data:
            return False
        Claim(store, model, version).renew(self._note)
        if store.get(release_key(model, version)) is None:
            self._note(f"the channel {channel} of {model} does not move to {version}, which is not here: copy again")
            return False
        return swap(store, key, lambda _: data)

    def end(self) -> None:
        """Write the list of what the store holds, and sign what was changed, where that is signed."""
        update_index(self._store)
        sign_changes(self._store)

    def _put_yank(self, parts: Parts) -> None:
        """Say that a release is not to be used any more, before it is there. What the store itself says of it is never lifted."""
        if (said := parts.yank) is None:
            return
        model, version = parts.manifest.model.name, parts.manifest.version
        where = f"{self._store.url}/{yank_key(model, version)}"
        ours = decode(Yank, said, where)

        def wanted(current: Object | None) -> bytes:
            there = decode(Yank, current.data, where) if current else None
            if current is None or there is None or (not ours.undone and there.made < ours.made):
                return said
            return current.data

        swap(self._store, yank_key(model, version), wanted)

    def _send(self, name: str, blobs: Sequence[tuple[Blob, tuple[Stretch, ...]]]) -> dict[str, int]:
        """Send what the store lacks; the sizes by digest. Several at a time."""
        with ThreadPoolExecutor(_BLOBS) as pool:
            holds = pool.map(lambda one: self._store.holds(blob_key(one[0].sha256), one[0].size, one[0].sha256), blobs)
            missing = [one for one, is_there in zip(blobs, holds, strict=True) if not is_there]
        if not missing:
            return {}
        todo, sent, errors = deque(missing), dict[str, int](), list[BaseException]()

        def work() -> None:
            while todo and not self._stop.is_set():
                with suppress(IndexError):  # another took the last
                    blob, parts = todo.popleft()
                    try:
                        if self._send_one(blob, parts):
                            sent[blob.sha256] = blob.size
                    except BaseException as error:  # raised again by the thread that waits
                        errors.append(error)
                        self._stop.set()

        # None that an interrupt would have to wait for: as after a kill, the next run goes on.
        threads = [threading.Thread(target=work, daemon=True) for _ in range(min(_BLOBS, len(missing)))]
        self._progress.begin(name, sum(blob.size for blob, _ in missing))
        self._stop.clear()
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.1)
        finally:
            self._stop.set()
            self._progress.end()
        if errors:
            raise errors[0]
        return sent

    def _tell(self, count: int) -> None:
        if self._stop.is_set():
            raise PipelineError("another blob could not be copied")  # which is what is told
        self._progress.advance(count)

    def _send_one(self, blob: Blob, parts: tuple[Stretch, ...]) -> bool:
        """By way of a file, of which what has arrived is kept; gone when it has been sent. Whether it was sent."""
        file = self._staging.entry(blob, parts)
        key = blob_key(blob.sha256)
        with file.writing() as writer:
            missing = writer.recover(parts)
            self._progress.advance(sum(s.length for s in parts) - sum(s.length for s in missing))
            transfer(self._source, key, missing, writer.put, self._tell)
            try:
                sent = upload_blob(self._store, blob, file.path)
            except PipelineError as error:
                if sha256_file(file.path) == blob.sha256:
                    raise
                what = "its stretches are as the manifest says, and all of it is not"
                raise PipelineError(what, where=f"{self._source.url}/{key}", hint="tell who publishes it") from error
        file.remove()
        return sent

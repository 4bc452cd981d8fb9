"""Prune: remove old releases from a store, then the blobs that no manifest names any more; beside publishers, and if killed."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from pipeline import activity
from pipeline.consume.reference import Reference
from pipeline.consume.render import size
from pipeline.errors import ManyProblemsError, PipelineError
from pipeline.files import write
from pipeline.layout import LEASES, PRUNING_KEY, blob_key, channel_of, evidence_folder, release_key, release_of, yank_of
from pipeline.manifest.codec import decode
from pipeline.manifest.types import Channel, Lease, Pruning
from pipeline.stages import retention
from pipeline.stages.retention import Known
from pipeline.store.base import Keeper, Stored
from pipeline.store.channels import find_channel
from pipeline.store.index import update_index
from pipeline.store.leases import BATCH_SECONDS, DAY, Turn, removing
from pipeline.store.open import open_to_keep
from pipeline.store.survey import Held, Release, Survey, read_held, side_by_side, survey
from pipeline.store.yanks import find_yank
from pipeline.trust.signed import cease, counts, keeping, require_keys

_RELEASES, _BLOBS = 50, 1000  # that are removed in a turn


@dataclass(frozen=True)
class Asked:
    """What to keep: the last `keep` releases of `model` (empty: of each), and what is `pinned`; and blobs younger than `grace`
    seconds."""

    keep: int
    model: str = ""
    pinned: tuple[Reference, ...] = ()
    grace: float = DAY


@dataclass(frozen=True)
class _Look:
    """What is in the store at a moment, `now` by its own clock, and what publishers are about to name."""

    now: float
    releases: dict[Release, Held]
    written: dict[Release, float]
    leases: list[Lease]

    @property
    def named(self) -> set[bytes]:
        """The blobs that a manifest or a lease names."""
        leased = {bytes.fromhex(digest) for lease in self.leases for digest in lease.blobs}
        return leased.union(*(held.blobs for held in self.releases.values()))


class Pruner:
    """Removes from a store. Nothing is removed that could not be read whole: what it names is not known."""

    def __init__(self, store: Keeper, asked: Asked, note: Callable[[str], None] = lambda _: None) -> None:
        self._store, self._asked, self._note = store, asked, note
        self._held: dict[Release, Held] = {}  # manifests never change
        self._leases: dict[str, Lease] = {}

    def look(self, entries: Sequence[Stored], now: float, leases: Sequence[Stored]) -> _Look:
        """Read what is new since the last look. `entries` are the manifests' objects."""
        written = {release: one.written for one in entries if (release := release_of(one.key))}
        problems: list[str] = []
        for release, held in side_by_side(partial(read_held, self._store), [r for r in written if r not in self._held]):
            if isinstance(held, Held):
                self._held[release] = held
            elif held is not None:
                problems.append(str(held))
        if problems:
            raise self._unreadable(problems)
        releases = {release: self._held[release] for release in written if release in self._held}
        young = [self._lease(one) for one in leases if now - one.written < DAY]
        return _Look(now, releases, written, [lease for lease in young if lease])

    def _look_again(self) -> _Look:
        """After it was said what is about to be removed: first leases, then manifests, as publishers write them."""
        mine = list(self._store.entries(PRUNING_KEY.partition("/")[0] + "/"))
        now = next((one.written for one in mine if one.key == PRUNING_KEY), 0.0)
        return self.look(self._manifests(), now, [one for one in mine if one.key.startswith(LEASES)])

    def _manifests(self) -> list[Stored]:
        return [one for one in self._store.entries("releases/") if release_of(one.key)]

    def _lease(self, one: Stored) -> Lease | None:
        if one.key not in self._leases:
            found = self._store.get(one.key)
            if found is None:
                return None
            self._leases[one.key] = decode(Lease, found.data, f"{self._store.url}/{one.key}")
        return self._leases[one.key]

    def _unreadable(self, problems: Sequence[str]) -> PipelineError:
        hint = "what is damaged may name what would be removed: see `doit fsck`, which may repair it"
        return PipelineError(str(ManyProblemsError(["nothing is removed:", *problems])), where=self._store.url, hint=hint)

    def kept(self, look: _Look, models: Collection[str]) -> tuple[dict[Release, Known], dict[Release, str]]:
        """The releases of these models, and why those stay that do."""
        problems: list[str] = []
        found: list[Channel] = []
        channels = (channel_of(key) for key in self._store.keys("channels/"))
        wanted = [one for one in channels if one and one[0] in models]
        for _, channel in side_by_side(partial(self._channel, look), wanted):
            if isinstance(channel, PipelineError):
                problems.append(str(channel))
            elif channel:
                found.append(channel)
        if problems:
            raise self._unreadable(problems)
        mine = {release: held for release, held in look.releases.items() if release[0] in models}
        told = [release for release in map(yank_of, self._store.keys("yanked/")) if release in mine]
        yanked = {release for release, is_yanked in side_by_side(self._is_yanked, told) if release and is_yanked}
        unsigned = {release for release in mine if not counts(self._store, release_key(*release))}
        releases = {r: Known(held.sha256, look.written[r], r in yanked, r in unsigned) for r, held in mine.items()}
        kept = retention.kept(releases, found, self._asked.pinned, self._asked.keep)
        kept |= {r: "of another model" for r in releases if self._asked.model not in ("", r[0]) and r not in kept}
        leased = {(lease.model, lease.version) for lease in look.leases}
        kept |= {release: "published in the last day" for release in leased if release not in kept}
        return releases, kept

    def _channel(self, look: _Look, named: Release) -> Channel | PipelineError | None:
        """What a channel points to, which is there: by the look, or it came after that, for channels are read later."""
        seen = None
        while True:
            try:
                channel = find_channel(self._store, *named)
            except PipelineError as error:
                return error
            if channel is None or (channel.model, channel.version) in look.releases:
                return channel
            if channel == seen:
                return PipelineError(f"{named[0]}:{named[1]} points to {channel.version}, which is not there")
            held = read_held(self._store, (channel.model, channel.version))
            if held is not None:
                return held if isinstance(held, PipelineError) else channel
            seen = channel  # or it has moved, and what it pointed to was removed since

    def _is_yanked(self, release: Release | None) -> bool:
        try:
            return release is not None and find_yank(self._store, *release) is not None
        except PipelineError:
            return True

    def remove_releases(self, doomed: Sequence[Release]) -> Iterator[Release]:
        """Remove releases, a turn at a time: the manifest, then what is beside it. What a killed prune left is removed with the
        first. Yields those that went; those that are kept by what others did meanwhile do not."""
        waiting: list[Release] = list(doomed)
        while True:
            batch, waiting = waiting[:_RELEASES], waiting[_RELEASES:]
            with removing(self._store, ["@".join(release) for release in batch], (), self._note) as (turn, left):
                look = self._look_again()
                there, kept = self.kept(look, {model for model, _ in batch})
                going = [release for release in batch if release in there and release not in kept]
                turn.left = tuple({*left.releases, *("@".join(release) for release in going)})  # if something fails
                cease(self._store, *(release_key(*release) for release in going))
                gone = set(self._remove(turn, [release_key(*release) for release in going]))
                went = [release for release in going if release_key(*release) in gone]
                behind = [release for release in _left(left) if release not in look.releases and release not in kept]
                over = [release for release in (*went, *behind) if not self._remove_beside(turn, release)]
                turn.left = tuple("@".join(release) for release in over)
                self._require_time(went, going)
            for release in went:
                self._held.pop(release)
            yield from went
            waiting += [release for release in going if release not in went]  # there was no time
            if not waiting:
                return

    def _require_time(self, went: Collection[object], going: Collection[object]) -> None:
        if going and not went:
            what = f"looking through the store takes more than {BATCH_SECONDS:.0f} s, in which nothing could be removed"
            raise PipelineError(what, where=self._store.url, hint="run it nearer to the store, or when that is less busy")

    def _remove_beside(self, turn: Turn, release: Release) -> bool:
        """Remove what is beside a manifest that went; whether there was time for all of it."""
        model, version = release
        folders = (f"releases/{model}/{version}/", evidence_folder(model, version))
        keys = [one.key for folder in folders for one in self._store.entries(folder)]
        return len(list(self._remove(turn, keys))) == len(keys)

    def unnamed(self, look: _Look, blobs: dict[bytes, tuple[int, float]]) -> tuple[list[bytes], list[bytes]]:
        """The blobs that nothing names: those that may go, and those that are too young."""
        named = look.named
        found = [digest for digest in blobs if digest not in named]
        old = [digest for digest in found if look.now - blobs[digest][1] >= self._asked.grace]
        return old, [digest for digest in found if look.now - blobs[digest][1] < self._asked.grace]

    def remove_blobs(self, blobs: dict[bytes, tuple[int, float]]) -> Iterator[bytes]:
        """Remove those blobs that nothing names and that are old enough, a turn at a time; yields them."""
        waiting = list(blobs)
        while waiting:
            batch, waiting = waiting[:_BLOBS], waiting[_BLOBS:]
            with removing(self._store, (), [digest.hex() for digest in batch], self._note) as (turn, _):
                going, _ = self.unnamed(self._look_again(), {digest: blobs[digest] for digest in batch})
                keys = {blob_key(digest.hex()): digest for digest in going}
                went = [keys[key] for key in self._remove(turn, list(keys))]
                self._require_time(went, going)
            yield from went
            gone = set(went)
            waiting += [digest for digest in going if digest not in gone]

    def remove_leases(self, leases: Sequence[Stored], manifests: Iterable[Stored]) -> None:
        """Remove those that hold no more: nobody counts on them. By the store's clock, which is past all that was written."""
        now = max((one.written for one in (*leases, *manifests)), default=0.0)
        old = [one.key for one in leases if now - one.written > 2 * DAY]
        for _ in side_by_side(self._store.remove, old):
            pass

    def _remove(self, turn: Turn, keys: Sequence[str]) -> Iterator[str]:
        """Remove objects while there is time; yields their keys."""
        left = iter(keys)
        while not turn.is_over and (some := list(islice(left, 8))):
            yield from (key for key, _ in side_by_side(self._store.remove, some))


def _left(pruning: Pruning) -> list[Release]:
    """The releases that another was about to remove."""
    named = (name.partition("@") for name in pruning.releases)
    return [release for model, _, version in named if (release := release_of(release_key(model, version)))]


def run(url: str, keep: int, model: str, given: str, path: Path, dry: bool, folder: Path) -> None:
    """Remove all but the last `keep` releases from the store at `url`, or `dry` only say which; `report.txt` into `folder`.

    `path` is the file of pins, `given` are more. Raises PipelineError where something in the store cannot be read.
    """
    if not keep:
        raise PipelineError(
            "how many releases of each model shall stay?", hint="doit prune keep=3, then doit prune keep=3 dry=no"
        )
    asked = Asked(keep, model, retention.pins(path, given))
    store = keeping(open_to_keep(url, looks=dry), url)
    lines = prune(store, asked, dry, activity.say)
    words = {"keep": str(keep), "model": model, "pins": given}
    again = " ".join(["doit prune", *(shlex.quote(f"{name}={word}") for name, word in words.items() if word)])
    lines += [f"nothing was removed: `{again} dry=no` does it"] if dry else []
    write(folder / "report.txt", "".join(f"{line}\n" for line in lines).encode())


def prune(store: Keeper, asked: Asked, dry: bool = True, note: Callable[[str], None] = lambda _: None) -> list[str]:
    """Do it, or `dry` only find out what would be done; what to tell of it."""
    pruner, found = Pruner(store, asked, note), survey(store)
    now = datetime.datetime.now(datetime.UTC).timestamp()  # for what is told; what is removed goes by the store's clock
    look = pruner.look([*found.releases.values()], now, found.leases)
    releases, kept = pruner.kept(look, {model for model, _ in (*look.releases, *found.channels)})
    if asked.model and not any(name == asked.model for name, _ in releases):
        raise PipelineError(f"there is no model {asked.model}", where=store.url, hint="`vmfb list` shows those that there are")
    doomed = sorted((release for release in releases if release not in kept), key=lambda release: releases[release].written)
    lines = [*retention.meaningless(asked.pinned, releases), *_kept_lines(releases, kept, asked.model)]
    going = set(doomed)
    staying = _Look(now, {r: held for r, held in look.releases.items() if r not in going}, look.written, look.leases)
    lines += [_doomed_line(release, look, staying.named) for release in doomed]
    if dry:
        old, young = pruner.unnamed(staying, found.blobs)
        return [*lines, *_blob_lines(found, old, young, "would go")]
    if doomed:
        require_keys(store, *(release_key(*release) for release in doomed))
    went = list(activity.each("releases removed", pruner.remove_releases(doomed), len(doomed)))
    update_index(store)  # one that was killed may not have come to it
    lines += [f"stays, for somebody named it meanwhile: {'@'.join(release)}" for release in doomed if release not in went]
    unnamed = {d: found.blobs[d] for d in found.blobs if d not in staying.named}
    old = list(activity.each("blobs removed", pruner.remove_blobs(unnamed), len(unnamed)))
    pruner.remove_leases(found.leases, found.releases.values())
    named, gone = staying.named, set(old)
    return [*lines, *_blob_lines(found, old, [d for d in found.blobs if d not in named and d not in gone], "went")]


def _kept_lines(releases: dict[Release, Known], kept: dict[Release, str], only: str) -> list[str]:
    lines = []
    for model in sorted({model for model, _ in releases if only in ("", model)}):
        mine = sorted((r for r in releases if r[0] == model), key=lambda r: releases[r].written, reverse=True)
        told = [f"{version} ({kept[model, version]})" for _, version in mine if (model, version) in kept]
        lines.append(f"{model} keeps {len(told)} of {len(mine)}: {', '.join(told)}")
    return lines


def _doomed_line(release: Release, look: _Look, named: set[bytes]) -> str:
    day = datetime.datetime.fromtimestamp(look.written[release], datetime.UTC).strftime("%Y-%m-%d")
    own = sum(count for digest, count in look.releases[release].blobs.items() if digest not in named)
    return f"goes: {'@'.join(release)}, of {day}, with {size(own)} that nothing which stays needs"


def _blob_lines(found: Survey, old: Sequence[bytes], young: Sequence[bytes], how: str) -> list[str]:
    def told(digests: Sequence[bytes]) -> str:
        return f"{len(digests)} blob{'s' * (len(digests) != 1)}, {size(sum(found.blobs[digest][0] for digest in digests))}"

    lines = [f"{how}: {told(old)}"]
    return lines + (
        [f"of what nothing names stays, for it is younger than a day or named meanwhile: {told(young)}"] if young else []
    )

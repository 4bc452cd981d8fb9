"""Whether a channel may move to a release: what its policy asks, and what witnesses say of that release and of the present
one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.consume.cache import Cache
from pipeline.consume.diff import difference, of_release
from pipeline.consume.evidence import Gatherer, Standing, Testimony
from pipeline.consume.render import difference_lines, size
from pipeline.errors import PipelineError
from pipeline.layout import release_key
from pipeline.manifest.codec import decode, embedded_evidence
from pipeline.manifest.evidence import KINDS
from pipeline.manifest.types import Artifact, Channel, Manifest
from pipeline.spec.types import OTHERS, Policy
from pipeline.store.base import Store

_EXACT = 0.01  # of a tolerance: what uses less of it is as exact as can be


@dataclass(frozen=True)
class Release:
    """A release, with what witnesses say of it."""

    manifest: Manifest
    testimony: Testimony

    @property
    def name(self) -> str:
        """As users write it."""
        return f"{self.manifest.model.name}@{self.manifest.version}"

    def standings(self, artifact: Artifact) -> Mapping[str, Standing]:
        """What is known of each variant."""
        return self.testimony.of(artifact, [entry.function for entry in self.manifest.entries])


@dataclass(frozen=True)
class Stop:
    """What keeps a channel from moving: the `clause` of its policy, and why; of a `variant`, where that is not empty."""

    bundle: str
    variant: str
    clause: str
    what: str

    @property
    def helps(self) -> bool:
        """Whether more evidence may be all that it takes."""
        return not self.clause.startswith(("larger", "no variant"))

    def __str__(self) -> str:
        subject = f"{self.bundle}, {self.variant}" if self.variant else self.bundle
        return f"{subject}: {self.what} ({self.clause})"


def present(store: Store, pointer: Channel | None) -> Release | None:
    """The release that a channel points to; None where there is none, or none that this program can read.

    Raises PipelineError where the store does not answer: then it is not known what to compare with.
    """
    found = store.get(pointer.manifest.name) if pointer else None
    if found is None:
        return None
    try:
        manifest = decode(Manifest, found.data, store.url)
        embedded_evidence(found.data, manifest)
    except PipelineError:
        return None
    return gathered(store, manifest)


def gathered(store: Store, manifest: Manifest) -> Release:
    """The release with all evidence that the store has, and what its own manifest says if that is of an older schema."""
    key = release_key(manifest.model.name, manifest.version)
    found = store.get(key)
    own = embedded_evidence(found.data, manifest) if found else None
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        gatherer = Gatherer(lambda: store, store.url, Cache(Path(folder)), notes.append)
        testimony = gatherer.gather(manifest, embedded=[own] if own else [])
    return Release(manifest, replace(testimony, unread=(*testimony.unread, *notes)))


def stops(policies: Mapping[str, Policy], release: Release, before: Release | None) -> list[Stop]:
    """What keeps the channel from moving to `release`, if it points to `before` now. `policies`: see `Spec.policies`."""
    found: list[Stop] = []
    old = {artifact.bundle: artifact for artifact in before.manifest.artifacts} if before else {}
    for artifact in release.manifest.artifacts:
        if policy := policies.get(artifact.bundle) or policies.get(OTHERS):
            known = release.standings(artifact)
            found += [stop for name, standing in known.items() for stop in _seen(artifact.bundle, name, standing, policy)]
            if before and artifact.bundle in old and before.manifest.version != release.manifest.version:
                found += _compared(policy, release, artifact, before, old[artifact.bundle])
    return found


def _seen(bundle: str, variant: str, standing: Standing, policy: Policy) -> Iterator[Stop]:
    if standing.wrong:
        seen = standing.wrong[0]
        yield Stop(bundle, variant, "no variant may be wrong", f"was wrong on {seen.place}: {seen.proof.problem}")
    elif standing.kind == "untested":
        if policy.untested != "allowed":
            yield Stop(bundle, variant, f"untested: {policy.untested}", f"is untested: {standing.reason or 'nobody ran it'}")
    elif KINDS.index(standing.kind) < KINDS.index(policy.evidence):
        yield Stop(bundle, variant, f"evidence: {policy.evidence}", f"the strongest evidence is {standing.kind}")


def _compared(policy: Policy, release: Release, artifact: Artifact, before: Release, old: Artifact) -> Iterator[Stop]:
    bundle, than = artifact.bundle, f"than in {before.name}"
    sizes = [
        side.blob.size + sum(p.blob.size for p in one.manifest.parameters) for one, side in ((before, old), (release, artifact))
    ]
    if policy.larger is not None and sizes[1] > sizes[0] * (1 + policy.larger):
        grown = f"the file is larger {than}: {size(sizes[1])}, not {size(sizes[0])}"
        yield Stop(bundle, "", f"larger: {policy.larger:.0%}", grown)
    known, once = release.standings(artifact), before.standings(old)
    if policy.less_exact is not None:
        for name in [name for name in known if name in once]:
            now, then = known[name].of_tolerance, once[name].of_tolerance
            if now is not None and then is not None and now > max(then, _EXACT) * policy.less_exact:
                less = f"is less exact {than}: it uses {now:.1%} of its tolerance, not {then:.1%}"
                yield Stop(bundle, name, f"less_exact: {policy.less_exact:g}x", less)
    if policy.slower is not None:
        sides = of_release(before.manifest, old, before.testimony), of_release(release.manifest, artifact, release.testimony)
        for one in difference(*sides).latencies:
            if one.ratio > 1 + policy.slower and not one.is_within_spread:
                slower = f"is slower on {one.device} {than}: {one.after_s * 1000:.3f} ms, not {one.before_s * 1000:.3f} ms"
                yield Stop(bundle, one.variant, f"slower: {policy.slower:.0%}", slower)


def require(policies: Mapping[str, Policy], release: Release, before: Release | None, channel: str, store: Store) -> None:
    """Raise PipelineError, with every clause that stops it, if the channel may not move to the release.

    What could not be read may say anything: it stops whatever has a policy.
    """
    for one in [one for one in (release, before) if one] if policies else ():
        if unread := one.testimony.unread:
            what = f"evidence of {one.name} cannot be read, so the channel {channel} does not move: {unread[0]}"
            raise PipelineError(what, where=store.url, hint="run the same command again, or see who may read it")
    if found := stops(policies, release, before):
        told = "".join(f"\n  {stop}" for stop in found)
        model, version = release.manifest.model.name, release.manifest.version
        seen = (
            f"`vmfb attest {release.name}` on machines that have the devices, then "
            f"`doit promote model={model} version={version} channel={channel}`"
        )
        steps = [seen] if any(stop.helps for stop in found) else []
        steps += ["or `untested: allowed` in the policy"] if any(stop.clause == "untested: refused" for stop in found) else []
        raise PipelineError(
            f"{release.name} is in {store.url}, and the channel {channel} does not move to it:{told}",
            where="targets/policy.yaml",
            hint="; ".join(steps) or "the release differs by more than the policy allows",
        )


def told(release: Release, before: Release | None) -> list[str]:
    """What differs from the present release, for each bundle that both have; nothing where there is none."""
    if before is None or before.manifest.version == release.manifest.version:
        return []
    old = {artifact.bundle: artifact for artifact in before.manifest.artifacts}
    said: list[str] = []
    for artifact in release.manifest.artifacts:
        if artifact.bundle not in old:
            said.append(f"{artifact.bundle} is new")
            continue
        sides = (
            of_release(before.manifest, old[artifact.bundle], before.testimony),
            of_release(release.manifest, artifact, release.testimony),
        )
        first, *rest = difference_lines(difference(*sides))
        said += [f"{first}, {artifact.bundle}:", *rest]
    return said

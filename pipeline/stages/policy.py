"""Whether a channel may move to a release: what its policy asks, and what witnesses say of that release and of the present
one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.consume.cache import Cache
from pipeline.consume.diff import Difference, difference, of_release
from pipeline.consume.evidence import Gatherer, Standing, Testimony
from pipeline.consume.render import difference_lines, size
from pipeline.errors import PipelineError
from pipeline.layout import evidence_folder, release_key
from pipeline.manifest.codec import decode, embedded_evidence
from pipeline.manifest.evidence import KINDS
from pipeline.manifest.types import Artifact, Channel, Manifest
from pipeline.spec.types import OTHERS, Policy
from pipeline.store.base import Store

_EXACT = 0.01  # of a tolerance: what uses less of it is as exact as can be
_WRONG = "no variant may be wrong"  # a clause of every policy
_SHOWN = 5  # documents that do not count, each with its reason


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
    """What keeps a channel from moving: the `clause` of the policy in the file `path`, and why; of a `variant`, where that is not
    empty."""

    bundle: str
    variant: str
    clause: str
    what: str
    path: Path

    @property
    def key(self) -> str:
        """What the clause is called in the policy."""
        return self.clause.partition(":")[0]

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


def _policy_of(policies: Mapping[str, Policy], artifact: Artifact) -> Policy | None:
    return policies.get(artifact.bundle) or policies.get(OTHERS)


def stops(policies: Mapping[str, Policy], release: Release, before: Release | None) -> list[Stop]:
    """What keeps the channel from moving to `release`, if it points to `before` now. `policies`: see `Spec.policies`."""
    found: list[Stop] = []
    old = {artifact.bundle: artifact for artifact in before.manifest.artifacts} if before else {}
    for artifact in release.manifest.artifacts:
        if policy := _policy_of(policies, artifact):
            known = release.standings(artifact)
            found += [stop for name, standing in known.items() for stop in _seen(artifact.bundle, name, standing, policy)]
            if before and artifact.bundle in old and old[artifact.bundle].blob.sha256 != artifact.blob.sha256:
                found += _compared(policy, release, artifact, before, old[artifact.bundle])
    return found


def _seen(bundle: str, variant: str, standing: Standing, policy: Policy) -> Iterator[Stop]:
    if standing.wrong:
        seen = standing.wrong[0]
        yield Stop(bundle, variant, _WRONG, f"was wrong on {seen.place}: {seen.proof.problem}", policy.path)
    elif standing.kind == "untested":
        if policy.untested != "allowed":
            what = f"is untested: {standing.reason or 'nobody ran it'}"
            yield Stop(bundle, variant, f"untested: {policy.untested}", what, policy.path)
    elif KINDS.index(standing.kind) < KINDS.index(policy.evidence):
        yield Stop(bundle, variant, f"evidence: {policy.evidence}", f"the strongest evidence is {standing.kind}", policy.path)


def _compared(policy: Policy, release: Release, artifact: Artifact, before: Release, old: Artifact) -> Iterator[Stop]:
    bundle, than = artifact.bundle, f"than in {before.name}"
    sizes = [
        side.blob.size + sum(p.blob.size for p in one.manifest.parameters) for one, side in ((before, old), (release, artifact))
    ]
    if policy.larger is not None and sizes[1] > sizes[0] * (1 + policy.larger):
        grown = f"the file is larger {than}: {size(sizes[1])}, not {size(sizes[0])}"
        yield Stop(bundle, "", _clauses(policy)["larger"], grown, policy.path)
    known, once = release.standings(artifact), before.standings(old)
    if policy.less_exact is not None:
        for name in [name for name in known if name in once]:
            now, then = known[name].of_tolerance, once[name].of_tolerance
            if now is not None and then is not None and now > max(then, _EXACT) * policy.less_exact:
                less = f"is less exact {than}: it uses {now:.1%} of its tolerance, not {then:.1%}"
                yield Stop(bundle, name, _clauses(policy)["less_exact"], less, policy.path)
    if policy.slower is not None:
        for one in _difference(release, artifact, before, old).latencies:
            if one.ratio > 1 + policy.slower and not one.is_within_spread:
                slower = f"is slower on {one.device} {than}: {one.after_s * 1000:.3f} ms, not {one.before_s * 1000:.3f} ms"
                yield Stop(bundle, one.variant, _clauses(policy)["slower"], slower, policy.path)


def _difference(release: Release, artifact: Artifact, before: Release, old: Artifact) -> Difference:
    return difference(
        of_release(before.manifest, old, before.testimony), of_release(release.manifest, artifact, release.testimony)
    )


def _clauses(policy: Policy) -> dict[str, str]:
    """The clauses that compare with the present release, as they are written, by their keys."""
    parts = {"slower": policy.slower, "larger": policy.larger}
    found = {key: f"{key}: {part * 100:g}%" for key, part in parts.items() if part is not None}
    return found | ({} if policy.less_exact is None else {"less_exact": f"less_exact: {policy.less_exact:g}x"})


def remarks(policies: Mapping[str, Policy], release: Release, before: Release | None) -> list[str]:
    """What stops nothing and is to be known all the same: what was seen wrong where no policy asks, what there was nothing to
    compare with, and documents that do not count. `before` is what the channel points to now."""
    said: list[str] = []
    old = {artifact.bundle: artifact for artifact in before.manifest.artifacts} if before else {}
    for artifact in release.manifest.artifacts:
        policy, bundle = _policy_of(policies, artifact), artifact.bundle
        if policy is None:
            wrong = [standing for standing in release.standings(artifact).values() if standing.wrong]
            said += [f"! {bundle}, {s.variant}: WRONG on {s.wrong[0].place}: {s.wrong[0].proof.problem}" for s in wrong]
        elif (clauses := _clauses(policy)) and not (before and before.manifest.version == release.manifest.version):
            if before and bundle in old and old[bundle].blob.sha256 == artifact.blob.sha256:
                continue  # a file is not compared with itself
            if before and bundle in old:
                said += _not_compared(clauses, release, artifact, before, old[bundle])
            else:
                lack = f"{before.name} has no such file" if before else "there is no present release that can be read"
                said.append(f"{bundle}: {lack}: nothing to compare with ({', '.join(clauses.values())})")
    return said + _refused(release)


def _not_compared(
    clauses: Mapping[str, str], release: Release, artifact: Artifact, before: Release, old: Artifact
) -> Iterator[str]:
    known, once = release.standings(artifact), before.standings(old)
    both = [name for name in known if name in once]
    measured = {one.variant for one in _difference(release, artifact, before, old).latencies}
    lacks = {
        "slower": [name for name in both if name not in measured],
        "less_exact": [name for name in both if None in (known[name].of_tolerance, once[name].of_tolerance)],
    }
    how = {"slower": "no device's latency is known of both", "less_exact": "the errors of both are not known"}
    for key, names in lacks.items():
        if key in clauses and names:
            yield f"{artifact.bundle}: not compared with {before.name}, for {how[key]}: {', '.join(names)} ({clauses[key]})"


def _refused(release: Release) -> list[str]:
    refused = [f"does not count: {text}" for text in release.testimony.refused]
    more = [f"and {len(refused) - _SHOWN} more documents do not count"] if len(refused) > _SHOWN else []
    return refused[:_SHOWN] + more


def require(policies: Mapping[str, Policy], release: Release, before: Release | None, channel: str, store: Store) -> None:
    """Raise PipelineError, with every clause that stops it, if the channel may not move to the release.

    What could not be read may say anything: it stops whatever has a policy.
    """
    compared = [before] if before and any(map(_clauses, policies.values())) else []
    for one in [release, *compared] if policies else []:
        if unread := one.testimony.unread:
            what = f"evidence of {one.name} cannot be read, so the channel {channel} does not move: {unread[0]}"
            raise PipelineError(what, where=store.url, hint="run the same command again, or see who may read it")
    if found := stops(policies, release, before):
        lines = "".join(f"\n  {line}" for line in (*found, *_refused(release)))
        stays = f"the channel {channel} does not move to it"
        if before and before.manifest.version == release.manifest.version:
            stays = f"the channel {channel} points to it, and would not move there now"
        raise PipelineError(
            f"{release.name} is in {store.url}, and {stays}:{lines}",
            where=", ".join(dict.fromkeys(str(stop.path) for stop in found)),
            hint=_next(found, release, channel),
        )


def _next(found: Sequence[Stop], release: Release, channel: str) -> str:
    """What may be done about the clauses that stop a channel."""
    keys, steps = {stop.key for stop in found}, list[str]()
    model, version = release.manifest.model.name, release.manifest.version
    promote = f"doit promote model={model} version={version} channel={channel}"
    if keys & {"evidence", "untested", "slower"}:
        steps.append(f"`vmfb attest {release.name}` on machines that have the devices, then `{promote}`")
    if any(stop.clause == "untested: refused" for stop in found):
        steps.append("or `untested: allowed` in the policy")
    if keys & {"slower", "larger", "less_exact"}:
        steps.append(
            f"allow more in the policy; or, to go back to an older release as it was, `{promote.replace('promote', 'rollback')}`"
        )
    if _WRONG in keys:
        folder = evidence_folder(model, version)
        steps.append(f"publish one that is right there; a document that is itself wrong is removed from {folder} in the store")
    return "; ".join(steps)


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
        if artifact.blob.sha256 == old[artifact.bundle].blob.sha256:
            said.append(f"{artifact.bundle} is the very file of {before.name}")
            continue
        first, *rest = difference_lines(_difference(release, artifact, before, old[artifact.bundle]))
        said += [f"{first}, {artifact.bundle}:", *rest]
    return said

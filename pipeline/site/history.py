"""How a model's releases differ from one to the next: size, latency and error, as charts and as the tables below them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from pipeline.consume.diff import measured
from pipeline.consume.evidence import Standing
from pipeline.consume.render import size
from pipeline.manifest.types import Artifact
from pipeline.site.charts import Chart, Scaled, Series, bytes_scaled, chart
from pipeline.site.gather import Release
from pipeline.site.release import milliseconds, percent

SHOWN = 20  # releases
_DERIVED = re.compile(r"c[0-9a-f]{12,32}")


def short(version: str) -> str:
    """A version for people: the beginning of one that is derived from its content."""
    return f"{version[:9]}…" if _DERIVED.fullmatch(version) else version


def charts(releases: Sequence[Release]) -> tuple[Chart, ...]:
    """Charts over the newest SHOWN of `releases`, which come the newest first; none where there is but one."""
    shown = [release for release in releases if not release.yank][:SHOWN][::-1]
    if len(shown) < 2:
        return ()
    labels = [short(release.version) for release in shown]
    bundles = dict.fromkeys(artifact.bundle for release in shown[::-1] for artifact in release.manifest.artifacts)
    found = [_sizes(shown, labels, list(bundles))]
    for bundle in bundles:
        known = [_standings(release, bundle) for release in shown]
        suffix = f", {bundle}" if len(bundles) > 1 else ""
        found += [_latencies(known, labels, suffix), _errors(known, labels, suffix)]
    return tuple(filter(None, found))


def _artifact(release: Release, bundle: str) -> Artifact | None:
    return next((artifact for artifact in release.manifest.artifacts if artifact.bundle == bundle), None)


def _standings(release: Release, bundle: str) -> dict[str, Standing]:
    artifact = _artifact(release, bundle)
    return release.testimony.of(artifact, [e.function for e in release.manifest.entries]) if artifact else {}


def _sizes(shown: Sequence[Release], labels: Sequence[str], bundles: Sequence[str]) -> Chart | None:
    """The files', and what every device fetches of them beside its own code."""
    series = []
    for bundle in bundles:
        found = [_artifact(release, bundle) for release in shown]
        whole = [artifact.blob.size if artifact else None for artifact in found]
        shared = [sum(s.length for s in artifact.segments if not s.variants) if artifact else None for artifact in found]
        series += [_series(f"{bundle}, the whole file", whole, lambda v: size(int(v)))]
        series += [_series(f"{bundle}, for every device", shared, lambda v: size(int(v)))]
    scaled = bytes_scaled([value for one in series for value in one.values if value is not None])
    return chart("Size", labels, series, scaled)


def _latencies(known: Sequence[dict[str, Standing]], labels: Sequence[str], suffix: str) -> Chart | None:
    """Of each variant on the device that measured it most often: numbers of two devices are not compared."""
    series = []
    for name in _names(known):
        times = [measured(standings.get(name)) for standings in known]
        often = Counter(device for found in times for device in found)
        if often:
            device = often.most_common(1)[0][0]
            values = [found[device][0] if device in found else None for found in times]
            series.append(_series(f"{name} on {device}", values, milliseconds))
    return chart(f"Latency{suffix}", labels, series, Scaled("ms", 1000))


def _errors(known: Sequence[dict[str, Standing]], labels: Sequence[str], suffix: str) -> Chart | None:
    series = []
    for name in _names(known):
        values = [standings[name].of_tolerance if name in standings else None for standings in known]
        series += [_series(name, values, percent)] if any(value is not None for value in values) else []
    return chart(f"Error, of what is allowed{suffix}", labels, series, Scaled("%", 100))


def _names(known: Sequence[dict[str, Standing]]) -> Iterator[str]:
    """The variants, those of the newest release first."""
    yield from dict.fromkeys(name for standings in reversed(known) for name in standings)


def _series(name: str, values: Sequence[float | None], text: Callable[[float], str]) -> Series:
    return Series(name, tuple(values), tuple("" if value is None else text(value) for value in values))

"""Where files come from, as specs say it: `source` → a Source."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from pipeline import wheels
from pipeline.files import is_file
from pipeline.plain import public_url
from pipeline.spec.keys import REPOSITORY, REVISION, S3_URL
from pipeline.spec.reader import Fields
from pipeline.spec.types import HttpsSource, HubSource, PathSource, S3Source, ScriptSource, Source, WheelSource

_LONGEST = 200  # bytes of a file's name; while it is written, the name is longer


def read_source(fields: Fields, own: str) -> Source:
    """The source that `fields` describe. `own` is what its file is called here, beside which its `data` are put; empty where no
    other files belong to it."""
    kind = fields.text("kind")
    sha256, data = fields.digest(), _data(fields, own) if own else {}
    source = _SOURCES.get(kind, _path)(fields, sha256, data)
    fields.done()
    return source


def _path(fields: Fields, sha256: str, data: Mapping[str, str]) -> Source:
    path = fields.file("path")
    for name in data:
        if not is_file(str(path.parent / name)):
            fields.problem(f"data.{name}", f"there is no file {path.parent / name}")
    return PathSource(path, sha256, data)


def _wheel(fields: Fields, sha256: str, data: Mapping[str, str]) -> Source:
    package, version, member = fields.text("package"), fields.text("version"), fields.text("member")
    if package and not wheels.is_name(package):
        fields.problem("package", f"must be the name of a package, letters, digits, '.', '_' and '-', not {package!r}")
    if version and not wheels.is_version(version):
        fields.problem("version", f"must be one version, like 1.2.0, not {version!r}")
    return WheelSource(package, version, member, sha256, data)


def _script(fields: Fields, sha256: str, data: Mapping[str, str]) -> Source:
    return ScriptSource(fields.file("script"), sha256, data)


def _https(fields: Fields, sha256: str, data: Mapping[str, str]) -> Source:
    url = fields.text("url")
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if url and not (good and url.isprintable()):
        fields.problem("url", f"must be like https://host/path, not {public_url(url)!r}")
    return HttpsSource(url, sha256, data)


def _s3(fields: Fields, sha256: str, data: Mapping[str, str]) -> Source:
    url = fields.text("url")
    match = re.fullmatch(S3_URL, url)
    if url and not match:
        fields.problem("url", f"must be like s3://bucket/key, not {public_url(url)!r}")
    bucket, key = match.groups() if match else ("", "")
    return S3Source(bucket, key, sha256, data)


def _hub(fields: Fields, sha256: str, data: Mapping[str, str]) -> Source:
    repo, revision, path = fields.text("repo"), fields.text("revision"), fields.text("path")
    if repo and not re.fullmatch(REPOSITORY, repo):
        fields.problem("repo", f"must be like organisation/name, not {repo!r}")
    if revision and not re.fullmatch(REVISION, revision):
        fields.problem("revision", f"{revision!r} may move: give the commit, 40 lower-case hex digits")
    if path and (problem := _no_relative_name(path)):
        fields.problem("path", problem)
    return HubSource(repo, revision, path, sha256, data)


_SOURCES: Mapping[str, Callable[[Fields, str, Mapping[str, str]], Source]] = {
    "path": _path,
    "wheel": _wheel,
    "script": _script,
    "https": _https,
    "s3": _s3,
    "hub": _hub,
}


def _no_relative_name(name: str) -> str:
    """Why `name` cannot be that of a file in a folder or below it; empty where it can."""
    parts = name.split("/")
    if not name.isprintable() or any(not part or part in (".", "..") for part in parts):
        return "must be the name of a file, or folder/name, without '.' and '..'"
    if any(len(part.encode()) > _LONGEST for part in parts):
        return f"has a name of more than {_LONGEST} bytes in it"
    return ""


def _data(fields: Fields, own: str) -> Mapping[str, str]:
    """Names of data files and their digests. `own` is the name of the file beside which they are put."""
    sub = fields.sub("data")
    if sub is None:
        return {}
    result = {name: sub.digest(name) for name in sorted(sub.data)}
    for name in result:
        if problem := _no_relative_name(name):
            sub.problem(name, problem)
        elif name.startswith(".") or "/." in name:
            sub.problem(name, "must not be hidden: '.' cannot be first in a name")
        elif name.split("/")[0] in (own, "fetch.log"):
            sub.problem(name, f"{name.split('/')[0]} is what the pipeline names a file there: give this one another name")
        elif any(other.startswith(f"{name}/") for other in result):
            sub.problem(name, "is the name of a folder, too")
    return result

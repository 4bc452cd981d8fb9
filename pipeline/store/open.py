"""A store or a file from its URL. Stores: the path of a directory, `s3://bucket/prefix`, `hf://user/repo`; to read only
`https://host/…`, a tar; to read and to copy to `oci://registry/repository`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from pipeline.errors import PipelineError, disk_errors
from pipeline.files import expanded, is_file
from pipeline.plain import public_url
from pipeline.store.base import File, Keeper, Source, Store
from pipeline.store.conditions import require_conditions
from pipeline.store.directory import DirectoryStore
from pipeline.store.uploads import Uploads

_COPIES = ("oci", "oci+http")  # schemes of stores that are read, and copied to
_SCHEMES = ("s3", "hf", "https", "http", *_COPIES)


@dataclass(frozen=True)
class Address:
    """A store: what it is opened by, its `url` for people, and the `name` that no other store has, for what is known of it."""

    to_open: str
    url: str
    name: str


def require_meant(url: str) -> None:
    """Raise PipelineError, with what may be meant, for a URL of a kind that no store has, and for one without its slashes."""
    scheme, colon, rest = url.partition(":")
    meant = ""
    if colon and scheme.lower() == "file":
        meant = unquote(f"/{rest.lstrip('/')}")
    elif colon and scheme in _SCHEMES and not rest.startswith("//"):
        meant = f"{scheme}://{rest.lstrip('/')}"
    if meant:
        raise PipelineError(f"{public_url(url)!r} is no store", hint=f"give {public_url(meant)}")


def address_of(url: str) -> Address:
    """The address of the store at `url`: of a directory as seen from the present folder, of a bucket by the variables of AWS.

    Raises PipelineError as `require_meant` does.
    """
    require_meant(url)
    if "://" not in url:
        with disk_errors("the current folder"):
            path = str(expanded(url).absolute())
        return Address(path, path, path)
    # For people and for the cache: a token in the address may change, and is nobody's business.
    public = public_url(url).rstrip("/")
    # A repository of another hub is another store, and so is a bucket of the same name at another endpoint. The chain of botocore
    # takes too long to ask here.
    if url.startswith("hf://"):
        hub = os.environ.get("HF_ENDPOINT")
        at = f"{public_url(hub).rstrip('/')} " if hub else ""
        return Address(url, public, at + public.removesuffix("@main"))
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    at = f"{public_url(endpoint).rstrip('/')} " if url.startswith("s3://") and endpoint else ""
    return Address(url, public, at + public)


def address(url: str) -> str:
    """What a user calls a store, with `~` in the path of a folder replaced by the home folder."""
    return url if "://" in url else str(expanded(url))


def open_store(url: str, unfinished: Path | None = None) -> Store:
    """The store at `url`, to read and to write. Raises PipelineError for a URL of another kind.

    `unfinished`: the file in which uploads are noted until they end. Those that an earlier run left there are ended.
    """
    require_meant(url)
    scheme, separator, rest = url.partition("://")
    if not separator and (":" not in url.split("/")[0] or Path(url).drive):
        return DirectoryStore(expanded(url))
    bucket, _, prefix = rest.partition("/")
    if scheme in ("http", "https"):
        raise PipelineError(
            f"{public_url(url)!r} can only be read", hint="publish to s3://bucket/prefix or the path of a directory"
        )
    if scheme in _COPIES:
        raise PipelineError(
            "writes there have no conditions, so several at once would undo each other's",
            where=public_url(url),
            hint="publish to s3://bucket/prefix or the path of a directory, then `vmfb copy MODEL --to` it, one at a time",
        )
    if scheme == "hf":
        from pipeline.store.hf import HubStore, place_of  # what it needs is an extra

        return HubStore(*place_of(url))
    if scheme != "s3" or not bucket:
        hint = "give s3://bucket/prefix, hf://user/repo or the path of a directory"
        raise PipelineError(f"{public_url(url)!r} is no store", hint=hint)
    from pipeline.store.s3 import S3Store  # botocore takes a quarter of a second to import

    store = S3Store(bucket, prefix, Uploads(unfinished) if unfinished else None)
    store.abort_unfinished()
    return store


def open_to_copy_to(url: str) -> Store:
    """The store at `url`, for a copy of releases; by one at a time, where writes have no conditions. Errors as below."""
    return _copies(url) or open_to_publish(url)


def _copies(url: str) -> Store | None:
    """The store at `url`, if it is of a kind that is only read and copied to."""
    if not url.startswith(tuple(f"{scheme}://" for scheme in _COPIES)):
        return None
    from pipeline.store.oci import OciStore

    return OciStore(url)


def open_to_publish(url: str, unfinished: Path | None = None) -> Store:
    """The store at `url`, to move channels in. Raises PipelineError for a server that ignores the conditions of writes.

    `unfinished` as for `open_store`.
    """
    store = open_store(url, unfinished)
    if not isinstance(store, DirectoryStore):
        require_conditions(store)
    return store


def open_to_keep(url: str, looks: bool = False) -> Keeper:
    """The store at `url`, to look after: the only kind of store from which anything is removed. PipelineError as above.

    `looks`: nothing will be written, and it need not be possible.
    """
    if url.startswith("hf://"):
        what, hint = "a repository of the hub keeps all that it ever had: nothing is removed from it", "look after a copy of it"
        raise PipelineError(what, where=public_url(url), hint=hint)
    store = open_store(url) if looks else open_to_publish(url)
    if isinstance(store, DirectoryStore):
        return store
    from pipeline.store.s3 import S3Store
    from pipeline.store.s3keeper import S3Keeper

    if not isinstance(store, S3Store):
        raise PipelineError("nothing is removed from a store of this kind", where=store.url)
    return S3Keeper(store.bucket, store.prefix)


def open_source(url: str) -> Source:
    """The store at `url`, to read. Raises PipelineError for a URL of another kind."""
    if url.lower().startswith(("http://", "https://")):
        from pipeline.store.web import WebSource

        return WebSource(url)
    if url.startswith("hf://"):
        from pipeline.store.hf import HubSource, place_of

        return HubSource(*place_of(url))
    if "://" not in url and is_file(str(expanded(url))):
        from pipeline.store.tar import TarSource

        return TarSource(expanded(url))
    return _copies(url) or open_store(url)


def open_file(url: str) -> File:
    """The file at `s3://bucket/key`, `https://…` or `http://…`. Raises PipelineError for a server that cannot be."""
    if url.startswith("s3://"):
        from pipeline.store.s3file import S3File

        bucket, _, key = url.removeprefix("s3://").partition("/")
        return S3File(bucket, key)
    from pipeline.store.web import WebFile

    return WebFile(url)

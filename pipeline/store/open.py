"""A store from its URL: `s3://bucket/prefix`, or the path of a directory."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.store.base import Store
from pipeline.store.directory import DirectoryStore


def open_store(url: str) -> Store:
    """The store at `url`. Raises PipelineError for a URL of another kind."""
    scheme, separator, rest = url.partition("://")
    if not separator and ":" not in url.split("/")[0]:
        return DirectoryStore(Path(url))
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket:
        raise PipelineError(f"{url!r} is no store", hint="give s3://bucket/prefix or the path of a directory")
    from pipeline.store.s3 import S3Store  # boto3 takes a third of a second to import

    return S3Store(bucket, prefix)

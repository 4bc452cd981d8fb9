"""A single file in an S3 bucket, as a source of models names it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore.exceptions import ClientError

from pipeline.errors import PipelineError
from pipeline.store.base import Rest, size_by_range
from pipeline.store.s3 import LOST, MISSING, S3Store, code
from pipeline.store.web import WebBody


class S3File:
    """The object at `key` of `bucket`, by the same chain."""

    def __init__(self, bucket: str, key: str) -> None:
        self._store, self._key, self.url = S3Store(bucket, ""), key, f"s3://{bucket}/{key}"

    @contextmanager
    def rest(self, offset: int, tag: str) -> Iterator[Rest]:
        """A GET, of a range where `offset` is not 0. The tag is the ETag."""
        try:
            answer = self._get(offset, tag)
        except _OtherStateError:
            offset, answer = 0, self._get(0, "")
        body = answer["Body"]
        try:
            if said := answer.get("ContentRange", ""):
                size = size_by_range(said, offset, self.url)
            else:
                offset, size = 0, answer.get("ContentLength")
            tag = answer.get("ETag", "").strip('"')
            yield Rest(offset, size, tag, WebBody(bool(said), body._raw_stream, self.url))
        finally:
            body.close()

    def _get(self, offset: int, tag: str) -> Any:
        asked = {"Range": f"bytes={offset}-", **({"IfMatch": tag} if tag else {})} if offset else {}
        with self._store._errors(self._key):
            try:
                return self._store._reader.get_object(Bucket=self._store.bucket, Key=self._key, **asked)
            except ClientError as error:
                if offset and code(error) in ("InvalidRange", "416", *LOST[:2]):
                    raise _OtherStateError from error
                if code(error) in MISSING:
                    raise PipelineError("there is no such object", where=self.url, hint="check bucket and key") from None
                raise


class _OtherStateError(Exception):
    """The object is not in the state that was asked for, or not so long."""

"""A bucket, for those who look after it: what is listed with size and time, what is removed, what was never completed."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from pipeline.store.base import Stored, Unfinished
from pipeline.store.s3 import S3Store, again


class S3Keeper(S3Store):
    """An S3Store that lists and removes."""

    @property
    def _cut(self) -> int:
        """How much of a key in the bucket stands before the key in the store."""
        return len(self._key(""))

    def entries(self, prefix: str) -> Iterator[Stored]:
        """By ListObjectsV2, a page at a time, each tried again where it breaks."""
        place = {"Bucket": self.bucket, "Prefix": self._key(prefix)}

        def page(**token: str) -> Any:
            with self._errors(prefix):
                return self._client.list_objects_v2(**place, **token)

        answer = again(page)
        while True:
            for item in answer.get("Contents", ()):
                yield Stored(item["Key"][self._cut :], item["Size"], item["LastModified"].timestamp())
            if not answer.get("IsTruncated"):
                return
            answer = again(functools.partial(page, ContinuationToken=answer["NextContinuationToken"]))

    def remove(self, key: str) -> None:
        """By a DELETE request, which says the same where there was nothing."""

        def attempt() -> None:
            with self._errors(key):
                self._client.delete_object(Bucket=self.bucket, Key=self._key(key))

        again(attempt)

    def unfinished(self) -> Iterator[Unfinished]:
        """By ListMultipartUploads."""

        def found() -> list[Unfinished]:
            with self._errors(""):
                pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self.bucket, Prefix=self._key(""))
                uploads = [item for page in pages for item in page.get("Uploads", ())]
            return [Unfinished(item["Key"][self._cut :], item["UploadId"], item["Initiated"].timestamp()) for item in uploads]

        yield from again(found)

    def abort(self, upload: Unfinished) -> None:
        """By AbortMultipartUpload."""
        with self._errors(upload.key):
            self._client.abort_multipart_upload(Bucket=self.bucket, Key=self._key(upload.key), UploadId=upload.part)

"""A store in an S3 bucket: AWS, or any server with its protocol (checked with SeaweedFS and Ceph RGW).

Only user of botocore, the lower half of boto3.
"""

from __future__ import annotations

import base64
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ResponseStreamingError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.parsers import ResponseParserError
from botocore.session import Session
from urllib3.exceptions import HTTPError

from pipeline import process
from pipeline.errors import DeniedError, PipelineError, disk_errors
from pipeline.files import sha256_bytes
from pipeline.layout import content_type
from pipeline.plain import plain, public_url
from pipeline.store.base import (
    Body,
    BrokenTransferError,
    Object,
    is_ranged,
    no_such_object,
    wrong_digest,
)
from pipeline.store.pace import Patience, reason, set_pace
from pipeline.store.uploads import Uploads
from pipeline.store.web import WebBody

T = TypeVar("T")

_HINTS = {
    "NoSuchBucket": "create the bucket, or correct its name",
    "AccessDenied": "these credentials may not do this: check AWS_PROFILE and the bucket's policy",
    "InvalidAccessKeyId": "the server does not know this access key: check AWS_PROFILE or AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "the secret key is wrong: check AWS_PROFILE or AWS_SECRET_ACCESS_KEY",
    "403": "these credentials may not do this: check AWS_PROFILE and the bucket's policy",
}
_PART = 16 << 20  # bytes
_PARTS = 9000  # S3 takes 10,000
_CONNECTIONS = 6
_DIGEST = "sha256"  # the name in the metadata of what `upload` puts
_SILENCE = 60  # seconds
_TRIES = 4  # as often as botocore tries a request
_TROUBLE = (408, 429, *range(500, 600))  # the server may answer otherwise a little later
_REPEAT = "run the same command again: what is there is not sent twice"
_LOG_IN = "set AWS_PROFILE, or run `aws configure`"
MISSING = ("404", "NoSuchKey", "NotFound")
# Ceph answers a lost race of two conditional writes with ConcurrentModification or 409.
LOST = ("412", "PreconditionFailed", "409", "ConditionalRequestConflict", "ConcurrentModification", *MISSING)


def code(error: ClientError) -> str:
    """The name that S3 has for what went wrong; empty where the answer has none."""
    return str(error.response.get("Error", {}).get("Code", ""))


class _BrokenAnswerError(BrokenTransferError):
    """The server answered, and what it said broke off, or is no answer of an S3 server: botocore does not try again then."""


def again(call: Callable[[], T]) -> T:
    """What `call` returns: tried again where the answer is broken. What it does may be done twice."""
    for attempt in range(_TRIES - 1):
        with suppress(_BrokenAnswerError):
            return call()
        time.sleep(random.uniform(0, 0.1 * 2**attempt))  # noqa: S311
    return call()


def _stored(answer: Any, where: str) -> str:
    """The ETag of what an answer says is stored. Raises _BrokenAnswerError where it names none: no S3 server said that."""
    if etag := answer.get("ETag"):
        return str(etag)
    raise _BrokenAnswerError(
        "the answer to a write does not say what is stored now, and it is not there: something before the store answers for it",
        where=where,
        hint="check proxies and AWS_ENDPOINT_URL_S3, then run the same command again",
    )


def _md5(data: bytes) -> str:
    """By which a server refuses bytes that were damaged on the way."""
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


class S3Store:
    """Objects below `prefix` of `bucket`. Credentials, region and endpoint by the usual AWS chain.

    Uploads that have begun are noted in `unfinished` until they end.
    """

    def __init__(self, bucket: str, prefix: str, unfinished: Uploads | None = None) -> None:
        self.bucket, self.prefix, self._unfinished = bucket, prefix.strip("/"), unfinished
        self.url = public_url(f"s3://{bucket}/{self.prefix}").rstrip("/")
        if "@" in bucket:
            raise PipelineError("its URL names a user: a bucket has none", where=self.url, hint=f"leave that out, and {_LOG_IN}")
        config = Config(
            request_checksum_calculation="when_required",  # the default fails on Ceph over https
            response_checksum_validation="when_required",
            connect_timeout=10,
            read_timeout=_SILENCE,
            retries={"mode": "standard", "max_attempts": 4},
        )
        try:
            with self._errors(""):
                # Ceph and SeaweedFS know no regions; AWS's own chain decides where one is set.
                self._session: Any = Session()  # boto3's own adds nothing here but a tenth of a second
                region = self._session.get_config_variable("region") or "us-east-1"
                self._client: Any = self._made(config, region)
                self._reader: Any = self._client
                if self._session.get_credentials() is None:  # a public bucket can be read without any
                    self._reader = self._made(config.merge(Config(signature_version=UNSIGNED)), region)
        except ValueError as error:  # botocore's own word for an endpoint without http://
            hint = "AWS_ENDPOINT_URL_S3 must be like https://host:port"
            raise PipelineError(str(error), where=self.url, hint=hint) from error

    def _made(self, config: Config, region: str) -> Any:
        client: Any = self._session.create_client("s3", region_name=region, config=config)
        set_pace(client._endpoint.http_session._pool_classes_by_scheme, Patience(silence=_SILENCE))
        return client

    @property
    def identity(self) -> dict[str, str]:
        """Endpoint, region, profile and access key: where servers have several owners, a key decides whose bucket that is.

        Temporary keys change by the hour, and the store does not: then only the profile tells.
        """
        with self._errors(""):
            credentials = self._session.get_credentials()
            key = credentials.access_key if credentials and not credentials.token else ""
            endpoint, region = public_url(self._client.meta.endpoint_url), self._client.meta.region_name
            return {"endpoint": endpoint, "region": region, "profile": self._session.profile or "default", "key": key}

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        where = f"{self.url}/{key}" if key else self.url
        try:
            yield
        except NoCredentialsError as error:
            raise PipelineError("there are no AWS credentials", where=where, hint=_LOG_IN) from error
        except ClientError as error:
            said = code(error)
            if self._reader is not self._client and said in ("AccessDenied", "403"):
                raise DeniedError("there are no AWS credentials, and it is not public", where=where, hint=_LOG_IN) from error
            if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) in _TROUBLE:
                raise BrokenTransferError(f"the server has trouble: {said}", where=where, hint=_REPEAT) from error
            if said == "BadDigest":
                raise _BrokenAnswerError("the bytes were damaged on the way", where=where, hint=_REPEAT) from error
            message = plain(error.response.get("Error", {}).get("Message") or said)
            kind = DeniedError if said in ("AccessDenied", "403") else PipelineError
            raise kind(f"the server refused: {message} ({said})", where=where, hint=_HINTS.get(said, "")) from error
        except EndpointConnectionError as error:
            hint = "check the network and AWS_ENDPOINT_URL_S3, then run the same command again"
            raise BrokenTransferError(f"cannot connect: {error}", where=where, hint=hint) from error
        # urllib3's own where botocore reads the body of a refusal, and where it passes one on to be read.
        except (ResponseStreamingError, IncompleteReadError, HTTPError, ResponseParserError) as error:
            hint = f"{_REPEAT}; or check AWS_ENDPOINT_URL_S3" if isinstance(error, ResponseParserError) else _REPEAT
            raise _BrokenAnswerError(f"the answer broke: {reason(error)}", where=where, hint=hint) from error
        except (BotoConnectionError, HTTPClientError) as error:
            raise BrokenTransferError(f"the connection broke: {reason(error)}", where=where, hint=_REPEAT) from error
        except BotoCoreError as error:
            raise PipelineError(str(error), where=where) from error
        except KeyError as error:
            raise PipelineError(
                f"the answer has no {error}: this is no S3 server", where=where, hint="check AWS_ENDPOINT_URL_S3"
            ) from error

    def get(self, key: str) -> Object | None:
        """The object at `key`; its tag is its ETag."""
        return again(lambda: self._get(key))

    def _get(self, key: str) -> Object | None:
        with self._errors(key):
            try:
                answer = self._reader.get_object(Bucket=self.bucket, Key=self._key(key))
            except ClientError as error:
                if code(error) in MISSING:
                    return None
                raise
            with closing(answer["Body"]) as body:
                try:
                    data = WebBody(False, body._raw_stream, f"{self.url}/{key}").document(self.url, key)
                except BrokenTransferError as error:
                    raise _BrokenAnswerError(error.what, where=error.where, hint=_REPEAT) from error
            if len(data) != answer.get("ContentLength", len(data)):
                raise _BrokenAnswerError(
                    f"the answer broke: {len(data)} of {answer['ContentLength']} bytes", where=f"{self.url}/{key}", hint=_REPEAT
                )
            return Object(data, answer["ETag"].strip('"'))

    @contextmanager
    def open(self, key: str, offset: int, length: int) -> Iterator[Body]:
        """A ranged GET. A server that ignores the range is believed: its body is the whole object."""
        where = f"{self.url}/{key}"
        with self._errors(key):
            try:
                asked = f"bytes={offset}-{offset + length - 1}"
                answer = self._reader.get_object(Bucket=self.bucket, Key=self._key(key), Range=asked)
            except ClientError as error:
                if code(error) in MISSING:
                    raise no_such_object(self.url, key) from None
                raise
            body = answer["Body"]
        with closing(body):
            ranged = is_ranged(answer.get("ContentRange", ""), offset, length, where)
            # Not botocore's wrapper: it waits for all it was asked for, however slowly that arrives.
            yield WebBody(ranged, body._raw_stream, where)

    def holds(self, key: str, size: int, sha256: str) -> bool:
        """By a HEAD request, which has the digest that `upload` put beside the bytes: whoever else put some has none.

        What an older program, or another one, put there is not known, and so not held.
        """
        with self._errors(key):
            try:
                head = self._client.head_object(Bucket=self.bucket, Key=self._key(key))
            except ClientError as error:
                if code(error) in MISSING:
                    return False
                raise
            return (head["ContentLength"], head.get("Metadata", {}).get(_DIGEST)) == (size, sha256)

    def keys(self, prefix: str) -> list[str]:
        """By ListObjectsV2, sorted here: SeaweedFS has another order."""
        return again(lambda: self._keys(self._client, prefix))

    def listed(self, prefix: str) -> list[str] | None:
        """`keys`; None where that is not permitted."""
        with suppress(DeniedError):
            return again(lambda: self._keys(self._reader, prefix))
        return None

    def _keys(self, client: Any, prefix: str) -> list[str]:
        cut = len(self.prefix) + 1 if self.prefix else 0
        with self._errors(prefix):
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self._key(prefix))
            return sorted(item["Key"][cut:] for page in pages for item in page.get("Contents", ()))

    def upload(self, key: str, path: Path, sha256: str) -> None:
        """Put the file, in parallel parts where it is large. S3 shows it only when it is complete.

        Each request has a digest of its bytes, by which the server refuses those that were damaged on the way.
        """
        with disk_errors(str(path)), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            part = max(_PART, -(-size // _PARTS))
            if size <= part:
                data = file.read()
                if (found := sha256_bytes(data)) != sha256:
                    raise wrong_digest(path, found)
                told = {"ContentType": type_} if (type_ := content_type(key)) else {}
                self._send(key, self._client.put_object, data, Metadata={_DIGEST: sha256}, **told)
            else:
                with self._errors(key):
                    self._upload_parts(key, path, file, part, sha256)

    def _send(self, key: str, call: Callable[..., Any], data: bytes, **options: Any) -> str:
        """Put `data` by a call of botocore; the ETag of it."""
        md5 = _md5(data)

        def attempt() -> str:
            with self._errors(key):
                answer = call(Bucket=self.bucket, Key=self._key(key), Body=data, ContentMD5=md5, **options)
            return _stored(answer, f"{self.url}/{key}")

        return again(attempt)

    def _upload_parts(self, key: str, path: Path, file: IO[bytes], part: int, sha256: str) -> None:
        """Read once, in order: each part is hashed and handed to a connection, of which few are at work at a time."""
        place = {"Bucket": self.bucket, "Key": self._key(key)}
        upload = self._client.create_multipart_upload(**place, Metadata={_DIGEST: sha256})["UploadId"]
        self._note(place["Key"], upload, ended=False)

        def send(number: int, data: bytes) -> dict[str, object]:
            etag = self._send(key, self._client.upload_part, data, UploadId=upload, PartNumber=number)
            return {"PartNumber": number, "ETag": etag}

        digest, room = hashlib.sha256(), threading.Semaphore(_CONNECTIONS + 1)
        try:
            with ThreadPoolExecutor(_CONNECTIONS) as pool:
                sent: list[Future[dict[str, object]]] = []
                while data := file.read(part):
                    process.pause(0)
                    room.acquire()
                    if any(future.done() and future.exception() for future in sent):
                        break
                    sent.append(pool.submit(send, len(sent) + 1, data))
                    sent[-1].add_done_callback(lambda _: room.release())
                    digest.update(data)
                parts = [future.result() for future in sent]
            if digest.hexdigest() != sha256:
                raise wrong_digest(path, digest.hexdigest())
            self._client.complete_multipart_upload(**place, UploadId=upload, MultipartUpload={"Parts": parts})
        except BaseException:
            with suppress(PipelineError), self._errors(key):  # the first error is the one to tell
                self._client.abort_multipart_upload(**place, UploadId=upload)
                self._note(place["Key"], upload, ended=True)
            raise
        self._note(place["Key"], upload, ended=True)

    def _note(self, key: str, upload: str, ended: bool) -> None:
        if self._unfinished:
            tell = self._unfinished.forget if ended else self._unfinished.note
            tell(self._client.meta.endpoint_url, self.bucket, key, upload)

    def abort_unfinished(self) -> None:
        """End the uploads that an earlier run could not end: it was killed, or the server was away."""

        def abort(key: str, upload: str) -> bool:
            with suppress(PipelineError), self._errors(key):
                try:
                    self._client.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload)
                except ClientError as error:
                    if code(error) not in ("NoSuchUpload", *MISSING):
                        raise
                return True
            return False

        if self._unfinished:
            self._unfinished.left(self._client.meta.endpoint_url, self.bucket, abort)

    def create(self, key: str, data: bytes) -> bool:
        """PutObject with If-None-Match: the only create-only write that all servers honour."""
        return self._conditional(key, data, IfNoneMatch="*")

    def replace(self, key: str, data: bytes, tag: str | None) -> bool:
        """PutObject with If-Match; the tag without quotes, since Ceph takes it only so."""
        return self.create(key, data) if tag is None else self._conditional(key, data, IfMatch=tag)

    def _conditional(self, key: str, data: bytes, **condition: str) -> bool:
        return again(lambda: self._put(key, data, condition))

    def _put(self, key: str, data: bytes, condition: Mapping[str, str]) -> bool:
        place = {"Bucket": self.bucket, "Key": self._key(key), "ContentType": "application/json", "ContentMD5": _md5(data)}
        with self._errors(key):
            try:
                answer = self._client.put_object(**place, Body=data, **condition)
            except ClientError as error:
                if code(error) in LOST:
                    return False
                raise
        try:
            _stored(answer, f"{self.url}/{key}")
        except _BrokenAnswerError:
            found = self.get(key)
            if found is None or found.data != data:
                raise
        return True

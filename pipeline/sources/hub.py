"""Files on the Hugging Face hub. Its library finds them, with the user's token and endpoint; they are downloaded as any other.

Only user of `huggingface_hub`, which is the extra `hub`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

from pipeline.errors import PipelineError
from pipeline.files import other_content
from pipeline.spec.types import HubSource
from pipeline.store.base import BrokenTransferError, Rest
from pipeline.store.web import WebFile

try:
    import httpx2
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import build_hf_headers
except ImportError as error:
    remedy = "pip install 'huggingface_hub>=2.4,<3', or this package with the extra `hub`"
    raise PipelineError(f"a source on the hub needs huggingface_hub: {error}", hint=remedy) from error

_ENDPOINT = "check the network, and HF_ENDPOINT if it is set"


class HubFile:
    """The file `path` of the source's repository and commit, which is to have the digest `sha256`."""

    def __init__(self, source: HubSource, path: str, sha256: str, hint: str) -> None:
        self.url = f"{source.repo}@{source.revision}: {path}"
        self._source, self._path, self._sha256, self._hint = source, path, sha256, hint

    @contextmanager
    def rest(self, offset: int, tag: str) -> Iterator[Rest]:
        """As any file of a web server, once the hub has said that it is there."""
        with self._file.rest(offset, tag) as rest:
            yield rest

    @cached_property
    def _file(self) -> WebFile:
        """Found to be there, and to have no other digest as far as the hub tells (it does of large files)."""
        with self._errors():
            url = hf_hub_url(self._source.repo, self._path, revision=self._source.revision)
            headers = build_hf_headers()  # the user's token among them
            found = get_hf_file_metadata(url, headers=headers)
        if not found.commit_hash:
            raise PipelineError("the answer names no commit: this is no hub", where=self.url, hint=_ENDPOINT)
        if re.fullmatch("[0-9a-f]{64}", found.etag or "") and found.etag != self._sha256:
            raise other_content(found.etag, self._sha256, self.url, self._hint)
        return WebFile(url, headers=headers)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        source, where = self._source, self.url
        try:
            yield
        except errors.GatedRepoError as error:
            remedy = f"ask for access on the page of {source.repo}, then set HF_TOKEN to a token of that account"
            raise PipelineError("the repository is only for those who were given access", where=where, hint=remedy) from error
        except errors.RevisionNotFoundError as error:
            raise PipelineError("the repository has no such commit", where=where, hint="correct source.revision") from error
        except errors.EntryNotFoundError as error:
            raise PipelineError("the commit has no such file", where=where, hint="correct the path in the spec") from error
        except errors.RepositoryNotFoundError as error:
            remedy = "correct source.repo; if it is private, set HF_TOKEN to a token that may read it"
            raise PipelineError("there is no such repository, or it is private", where=where, hint=remedy) from error
        except errors.HfHubHTTPError as error:
            status = error.response.status_code
            what = f"the hub answers {status} {error.response.reason_phrase}"
            if status in (408, 429) or status >= 500:
                raise BrokenTransferError(what, where=where) from error
            remedy = "check HF_TOKEN: it must be valid, and may read this repository" if status in (401, 403) else ""
            raise PipelineError(what, where=where, hint=remedy) from error
        except errors.OfflineModeIsEnabled as error:
            raise PipelineError("HF_HUB_OFFLINE is set, so the hub is not asked", where=where, hint="unset it") from error
        except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, errors.HFValidationError, errors.OIDCError) as error:
            raise PipelineError(f"the hub cannot be asked: {error}", where=where, hint=_ENDPOINT) from error
        except httpx2.HTTPError as error:
            raise BrokenTransferError(f"cannot reach the hub: {error}", where=where, hint=_ENDPOINT) from error

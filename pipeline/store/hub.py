"""What the Hugging Face hub and its library say, as our errors; where the hub is, and whose token it is shown.

With `hf.py` the only user of `huggingface_hub`, which is the extra `hub`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline.errors import DeniedError, PipelineError
from pipeline.plain import public_url
from pipeline.store.base import BrokenTransferError

try:
    import httpx2
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import build_hf_headers
except ImportError as error:
    remedy = "pip install 'huggingface_hub>=2.4,<3', or this package with the extra `hub`"
    raise PipelineError(f"what is on the hub needs huggingface_hub: {error}", hint=remedy) from error

CHECK_ENDPOINT = "check the network, and HF_ENDPOINT if it is set"
CHECK_TOKEN = "check HF_TOKEN: it must be valid, and may do this with the repository"  # noqa: S105
GATED, NO_REPOSITORY, NO_REVISION, NO_FILE = "GatedRepo", "RepoNotFound", "RevisionNotFound", "EntryNotFound"


@dataclass(frozen=True)
class Place:
    """A repository at a revision, as a user named it: `where` for messages, and what to correct where one is not there."""

    repo: str
    where: str
    fix_repo: str = "correct its name"
    fix_revision: str = "correct what follows the @"
    fix_file: str = ""


def refusal(code: str, place: Place) -> PipelineError | None:
    """The error for what the hub calls `code`; None where it calls it nothing that is known here."""
    if code == GATED:
        hint = f"ask for access on the page of {place.repo}, then set HF_TOKEN to a token of that account"
        return DeniedError("the repository is only for those who were given access", where=place.where, hint=hint)
    if code == NO_REVISION:
        return PipelineError("the repository has no such revision", where=place.where, hint=place.fix_revision)
    if code == NO_FILE:
        return PipelineError("the revision has no such file", where=place.where, hint=place.fix_file)
    if code == NO_REPOSITORY:
        hint = f"{place.fix_repo}; if it is private, set HF_TOKEN to a token that may read it"
        return PipelineError("there is no such repository, or it is private", where=place.where, hint=hint)
    return None


def no_hub(why: str, where: str) -> PipelineError:
    """The error for a server that is something else."""
    return PipelineError(f"{why}: this is no hub", where=where, hint=CHECK_ENDPOINT)


def endpoint(where: str) -> str:
    """The URL of the hub: HF_ENDPOINT, or that of Hugging Face. Raises PipelineError where that can be none."""
    url = str(constants.ENDPOINT)
    if not url.startswith(("https://", "http://")):
        raise PipelineError(f"{public_url(url)!r} is no hub", where=where, hint=CHECK_ENDPOINT)
    return url.rstrip("/")


def headers(where: str) -> dict[str, str]:
    """What goes with each request: the user's token among it, found as the hub's own tools do. PipelineError when offline."""
    if constants.is_offline_mode():
        raise _offline(where)
    try:
        return dict(build_hf_headers())
    except errors.OIDCError as error:
        raise PipelineError(f"there is no token: {error}", where=where, hint="check HF_OIDC_RESOURCE, or set HF_TOKEN") from error


@dataclass(frozen=True)
class Found:
    """A file on the hub: what to ask for it, and its SHA-256; empty where the hub does not tell, which it does of large files."""

    url: str
    headers: dict[str, str]
    sha256: str


def find(place: Place, path: str, revision: str) -> Found:
    """The file at `path` of the repository. Raises PipelineError where it is not there."""
    with hub_errors(place):
        url, shown = hf_hub_url(place.repo, path, revision=revision), headers(place.where)
        found = get_hf_file_metadata(url, headers=shown)
    if not found.commit_hash:
        raise no_hub("the answer names no commit", place.where)
    etag = found.etag or ""
    return Found(url, shown, etag if re.fullmatch("[0-9a-f]{64}", etag) else "")


def _offline(where: str) -> PipelineError:
    return PipelineError("HF_HUB_OFFLINE is set, so the hub is not asked", where=where, hint="unset it")


@contextmanager
def hub_errors(place: Place) -> Iterator[None]:
    """Turn what the library raises into PipelineErrors: BrokenTransferError where another try may help."""
    where = place.where
    try:
        yield
    except errors.HfHubHTTPError as error:
        raise _refused(error, place) from error
    except errors.OfflineModeIsEnabled as error:
        raise _offline(where) from error
    except RuntimeError as error:  # around what went wrong while a large file was sent
        if isinstance(error.__cause__, errors.HfHubHTTPError):
            raise _refused(error.__cause__, place) from error
        if isinstance(error.__cause__, httpx2.HTTPError):
            raise _unreachable(error.__cause__, where) from error
        raise
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, errors.HFValidationError, errors.OIDCError) as error:
        raise PipelineError(f"the hub cannot be asked: {error}", where=where, hint=CHECK_ENDPOINT) from error
    except httpx2.HTTPError as error:
        raise _unreachable(error, where) from error
    except json.JSONDecodeError as error:
        raise no_hub("the answer is not JSON", where) from error
    except ValueError as error:  # how the library tells that it lacks something in an answer, or what that refuses of large files
        raise PipelineError(f"the hub's answer is of no use: {error}", where=where, hint=CHECK_ENDPOINT) from error


def _unreachable(error: httpx2.HTTPError, where: str) -> PipelineError:
    return BrokenTransferError(f"cannot reach the hub: {error}", where=where, hint=CHECK_ENDPOINT)


def _refused(error: errors.HfHubHTTPError, place: Place) -> PipelineError:
    kinds = (  # each before those that it is one of
        (errors.GatedRepoError, GATED),
        (errors.RevisionNotFoundError, NO_REVISION),
        (errors.EntryNotFoundError, NO_FILE),
        (errors.RepositoryNotFoundError, NO_REPOSITORY),
    )
    code = next((code for kind, code in kinds if isinstance(error, kind)), "")
    status = error.response.status_code
    told = str(error.response.headers.get("X-Error-Message") or error.response.reason_phrase)
    return refusal(code, place) or by_status(status, told, place.where)


def by_status(status: int, told: str, where: str) -> PipelineError:
    """The error for an answer with no name that is known here: BrokenTransferError where another try may help."""
    what = f"the hub answers {status} {told}".rstrip()
    if status in (408, 429) or status >= 500:
        hint = "the hub takes so many requests and commits an hour: go on later with the same command" if status == 429 else ""
        return BrokenTransferError(what, where=where, hint=hint)
    kind = DeniedError if status in (401, 403) else PipelineError
    return kind(what, where=where, hint=CHECK_TOKEN if status in (401, 403) else "")

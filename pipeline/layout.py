"""Every path under `out/`, and every key in the store."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pipeline.names import is_name, is_version


@dataclass(frozen=True)
class Layout:
    """The paths of everything made, below `root` (`out/`)."""

    root: Path

    @property
    def store(self) -> Path:
        """The default store."""
        return self.root / "store"

    @property
    def lock(self) -> Path:
        """Held by a running `doit`."""
        return self.root / ".lock"

    @property
    def database(self) -> Path:
        """What doit remembers."""
        return self.root / ".doit.db"

    @property
    def snapshot(self) -> Path:
        """How every file looked when doit last had nothing to do."""
        return self.root / ".nothing.json"

    @property
    def reproduced(self) -> Path:
        """The folder of what was built again to be compared: `report.txt`, a folder for each model, and what was fetched."""
        return self.root / "reproduced"

    @property
    def runtimes(self) -> Path:
        """The folder of what releases did in other runtimes: `report.txt`, logs, and what was fetched of them."""
        return self.root / "runtimes"

    def _model(self, model: str) -> Path:
        return self.root / "models" / model

    def source(self, model: str, number: int, suffix: str) -> Path:
        """The model's file of this number as it was fetched; files that belong to it are beside it."""
        return self._model(model) / "source" / str(number) / f"model.{suffix}"

    def data(self, model: str) -> Path:
        """The folder of the model's data sets, as they were fetched: each file in a folder named by its digest."""
        return self._model(model) / "data"

    def scored(self, model: str) -> Path:
        """The folder of the score stage: `scores.json`, a folder of logs for each entry point."""
        return self._model(model) / "score"

    def imported(self, model: str) -> Path:
        """The folder of the import stage: `model.mlirbc`, `signature.json`, and a folder of logs for each entry point."""
        return self._model(model) / "import"

    def reference(self, model: str) -> Path:
        """The folder of the model's test data: a folder for each entry point, by its number."""
        return self._model(model) / "reference"

    def compiled(self, model: str, bundle: str) -> Path:
        """The folder of the compile stage: `module.vmfb`, `compiled.json`, intermediate IR, logs."""
        return self._model(model) / "bundles" / bundle / "compile"

    def verified(self, model: str, bundle: str) -> Path:
        """The folder of the verify stage: `module.vmfb`, `evidence.json`, `answers.json` and `witnesses/` of those that were
        asked, one folder of logs a check."""
        return self._model(model) / "bundles" / bundle / "verify"

    def audited(self, model: str, bundle: str) -> Path:
        """The folder of an audit: `audit.json`, one folder of logs a batch."""
        return self._model(model) / "bundles" / bundle / "audit"

    def reduced(self, model: str, bundle: str) -> Path:
        """The folder of a reduction: `report.txt`, the smallest part that fails as `NAME.onnx`, logs."""
        return self._model(model) / "bundles" / bundle / "reduce"

    def tuned(self, model: str) -> Path:
        """The folder of a search for faster code: `report.txt`, a folder for each target."""
        return self._model(model) / "tune"

    def reported(self, model: str, bundle: str) -> Path:
        """The folder of a report on what a compile costs: `report.txt`, `report.json`."""
        return self._model(model) / "bundles" / bundle / "report"

    @property
    def promoted(self) -> Path:
        """The folder of a promotion: `report.txt`."""
        return self.root / "promoted"

    def trusted(self, action: str) -> Path:
        """The folder of what was done to sign a store: `report.txt`."""
        return self.root / "trust" / action

    @property
    def rolled_back(self) -> Path:
        """The folder of a rollback: `report.txt`."""
        return self.root / "rollback"

    @property
    def pruned(self) -> Path:
        """The folder of a prune: `report.txt`."""
        return self.root / "prune"

    @property
    def checked(self) -> Path:
        """The folder of a check of the store: `report.txt`."""
        return self.root / "fsck"

    @property
    def yanked(self) -> Path:
        """The folder of a yank: `report.txt`."""
        return self.root / "yank"

    @property
    def summary(self) -> Path:
        """The folder of the page that tells what the last run of doit did."""
        return self.root / "report"

    @property
    def site(self) -> Path:
        """The folder of the catalogue's pages, and of nothing else."""
        return self.root / "site"

    @property
    def site_made(self) -> Path:
        """The folder of what was done to make the catalogue's pages: `report.txt`."""
        return self.root / "site-made"

    def package(self, model: str) -> Path:
        """The folder of the package stage: `manifest.json`, `provenance.json`, `bom.json`, `blobs/`, `evidence/`."""
        return self._model(model) / "package"

    def published(self, model: str) -> Path:
        """The receipt of the last publication."""
        return self._model(model) / "publish" / "receipt.json"


def stamp(step: str, output: Path) -> Path:
    """What marks the run that made `output`, an output of `step`."""
    return output.parent / f".{step.split(':')[0]}.stamp"


# In a package: where it comes from, and what it is made of.
PROVENANCE, BOM = "provenance.json", "bom.json"
PACKAGED_EVIDENCE = "evidence/index.json"  # in a package: the list of the documents that are beside it
SITE = "site/"  # below it: the catalogue's pages, made of the other keys
INDEX_KEY = "index.json"  # what the store holds; made from the other keys

PROBE_KEY = "probe.json"  # on S3: what publishers try conditions of writes with
TRUST = "trust/"  # below it: TUF's metadata, by its own names
TIMESTAMP_KEY = f"{TRUST}timestamp.json"  # what the store holds now, signed: the one file of the metadata that changes
WITNESSES_KEY = f"{TRUST}witnesses.json"  # the name of a target, never a key: who may sign evidence
PRUNE = "prune/"  # the prefix of the keys of what publishers and `doit prune` tell each other
PRUNING_KEY = f"{PRUNE}state.json"  # what `doit prune` is removing at this moment
LEASES = f"{PRUNE}leases/"  # the prefix of the keys of what publishers are about to name


def blob_key(sha256: str) -> str:
    """The key of the blob with this digest: immutable."""
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


def release_key(model: str, version: str) -> str:
    """The key of a release's manifest: immutable, written after its blobs; what makes it a release."""
    return f"releases/{model}/{version}/manifest.json"


def provenance_key(model: str, version: str) -> str:
    """The key of what is said of where a release comes from: immutable, written after its manifest."""
    return f"releases/{model}/{version}/{PROVENANCE}"


def bom_key(model: str, version: str) -> str:
    """The key of a release's bill of materials: immutable, written after its manifest."""
    return f"releases/{model}/{version}/{BOM}"


def page_of(key: str) -> tuple[str, str] | None:
    """The model, and the version (empty for the model's own page), that the page at `key` is about; None for any other key."""
    match = re.fullmatch(rf"{SITE}(?:models/([^/]+)|releases/([^/]+)/([^/]+))/index\.html", key)
    model, version = ((match[1] or match[2]), match[3] or "") if match else ("", "")
    return (model, version) if is_name(model) and (not version or is_version(version)) else None


def content_type(key: str) -> str:
    """What browsers have to know of the object at `key`, one of the catalogue's files; empty for what no browser shows."""
    types = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    found = types.get(PurePosixPath(key).suffix) if key.startswith(SITE) else None
    return f"{found}; charset=utf-8" if found else ""


def lease_key(name: str) -> str:
    """The key of a publisher's lease, whose name nobody else has."""
    return f"{LEASES}{name}.json"


def channel_key(model: str, channel: str) -> str:
    """The key of a channel, the mutable pointer to a release."""
    return f"channels/{model}/{channel}.json"


def yank_key(model: str, version: str) -> str:
    """The key of what says why a release is not to be used any more."""
    return f"yanked/{model}/{version}.json"


def yank_of(key: str) -> tuple[str, str] | None:
    """The model and version of the release that `key` says was yanked; None for any other key."""
    match = re.fullmatch(r"yanked/([^/]+)/([^/]+)\.json", key)
    return (match[1], match[2]) if match and is_name(match[1]) and is_version(match[2]) else None


def release_of(key: str) -> tuple[str, str] | None:
    """The model and version whose manifest is at `key`; None for any other key."""
    match = re.fullmatch(r"releases/([^/]+)/([^/]+)/manifest\.json", key)
    return (match[1], match[2]) if match and is_name(match[1]) and is_version(match[2]) else None


def blob_of(key: str) -> str | None:
    """The digest of the blob that is at `key`; None for any other key."""
    match = re.fullmatch(r"blobs/sha256/([0-9a-f]{2})/(\1[0-9a-f]{62})", key)
    return match[2] if match else None


def belonging_to(key: str) -> tuple[str, str, str] | None:
    """The model and version of the release that the object at `key` belongs to, as its evidence and its manifest do, and its name
    there; None for any other key."""
    match = re.fullmatch(r"(?:releases|evidence)/([^/]+)/([^/]+)/([^/]+)", key)
    return (match[1], match[2], match[3]) if match and is_name(match[1]) and is_version(match[2]) else None


def channel_of(key: str) -> tuple[str, str] | None:
    """The model and channel whose pointer is at `key`; None for any other key."""
    match = re.fullmatch(r"channels/([^/]+)/([^/]+)\.json", key)
    return (match[1], match[2]) if match and is_name(match[1]) and is_name(match[2]) else None


def evidence_folder(model: str, version: str) -> str:
    """The prefix of the keys of the evidence for a release."""
    return f"evidence/{model}/{version}/"


def evidence_key(model: str, version: str, sha256: str) -> str:
    """The key of a document of evidence with this digest: immutable, of any number of witnesses."""
    return f"{evidence_folder(model, version)}{sha256}.json"


def evidence_index_key(model: str, version: str) -> str:
    """The key of the list of a release's evidence, made from the other keys, for stores that cannot be listed."""
    return f"{evidence_folder(model, version)}index.json"


def evidence_of(key: str) -> tuple[str, str, str] | None:
    """The model, version and digest of the document of evidence at `key`; None for any other key."""
    match = re.fullmatch(r"evidence/([^/]+)/([^/]+)/([0-9a-f]{64})\.json", key)
    return (match[1], match[2], match[3]) if match and is_name(match[1]) and is_version(match[2]) else None


def evidence_index_of(key: str) -> tuple[str, str] | None:
    """The model and version whose list of evidence is at `key`; None for any other key."""
    match = re.fullmatch(r"evidence/([^/]+)/([^/]+)/index\.json", key)
    return (match[1], match[2]) if match and is_name(match[1]) and is_version(match[2]) else None


def signature_key(document: str, keyid: str) -> str:
    """The key of a witness's signature over the document of evidence at the key `document`: immutable."""
    return f"{document.removesuffix('.json')}.{keyid}.sig"


def signed_document_key(sha256: str) -> str:
    """The key of the bytes of a document that moves, as they were once signed: immutable."""
    return f"{TRUST}documents/{sha256}.json"


def is_signed(key: str) -> bool:
    """Whether what is at `key` is a target of the metadata of a store that has such: all that says what a release is.

    Lists are not: they are made of what is signed. Blobs are not: a signed manifest has their digests.
    """
    return key.startswith(("releases/", "channels/", "yanked/")) or key == WITNESSES_KEY or evidence_of(key) is not None


def moves(key: str) -> bool:
    """Whether what is at `key` may change: a signed document that does is read where it never does, by its digest."""
    return key.startswith(("channels/", "yanked/")) or key == WITNESSES_KEY


def evidence_digests(keys: Iterable[str], model: str, version: str) -> tuple[str, ...]:
    """The digests of the documents among `keys`, those of a release's evidence, in alphabetical order."""
    folder = evidence_folder(model, version)
    matches = (re.fullmatch(r"([0-9a-f]{64})\.json", key.removeprefix(folder)) for key in keys)
    return tuple(sorted(match[1] for match in matches if match))

"""Who may see things for a signed store: the list of its witnesses, and their signatures over documents of evidence.

A signature is detached, a file beside the document, over the DSSE encoding of its bytes; so a witness's key signs nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from securesystemslib.dsse import Envelope
from securesystemslib.signer import Key, Signature
from securesystemslib.signer import Signer as Signer  # of which others are handed one

from pipeline.errors import PipelineError
from pipeline.files import expanded, is_file, sha256_bytes
from pipeline.layout import evidence_key, signature_key
from pipeline.names import is_name
from pipeline.plain import shown
from pipeline.store.base import Store
from pipeline.store.documents import add_evidence
from pipeline.trust.anchors import WITNESS_KEY
from pipeline.trust.client import signed_by

_SCHEMA = 1
_TYPE = "application/vnd.vmfb-pipeline.evidence+json"
_LONG = 1 << 16  # bytes of a signature's file


@dataclass(frozen=True)
class Witnesses:
    """The witnesses of a store: their keys, by name."""

    keys: Mapping[str, Key]

    def encode(self) -> bytes:
        """The document that is signed."""
        listed = [{"name": n, "keyid": k.keyid, "key": k.to_dict()} for n, k in sorted(self.keys.items())]
        return (json.dumps({"schema": _SCHEMA, "witnesses": listed}, indent=1, sort_keys=True) + "\n").encode()

    def by_id(self, keyid: str) -> tuple[str, Key] | None:
        """The name and key with an id."""
        return next(((name, key) for name, key in self.keys.items() if key.keyid == keyid), None)


def decode_witnesses(data: bytes | None, where: str) -> Witnesses:
    """What `encode` gave; nobody where there is no document. Raises PipelineError for anything else."""
    if data is None:
        return Witnesses({})
    try:
        value = json.loads(data)
        if value["schema"] > _SCHEMA:
            what = f"has schema version {shown(value['schema'])}, this program knows {_SCHEMA}"
            raise PipelineError(what, where=where, hint="upgrade vmfb-pipeline")
        return Witnesses({_name(w["name"]): Key.from_dict(str(w["keyid"]), dict(w["key"])) for w in value["witnesses"]})
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PipelineError("is no list of witnesses", where=where, hint="tell who publishes the store") from error


def _name(text: object) -> str:
    if not isinstance(text, str) or not is_name(text):
        raise ValueError
    return text


def _encoded(document: bytes) -> bytes:
    return Envelope(document, _TYPE, {}).pae()


def sign_document(signer: Signer, document: bytes) -> bytes:
    """The file of a signature over a document of evidence."""
    signature = signer.sign(_encoded(document))
    return (json.dumps({"keyid": signature.keyid, "sig": signature.signature}) + "\n").encode()


def read_signature(data: bytes) -> Signature | None:
    """What such a file has; None for anything else."""
    try:
        value = json.loads(data) if len(data) <= _LONG else {}
        return Signature(str(value["keyid"]), str(value["sig"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def vouches(witnesses: Witnesses, signature: Signature | None, document: bytes) -> bool:
    """Whether a signature is that of one of the witnesses over the document."""
    found = witnesses.by_id(signature.keyid) if signature else None
    return bool(found and signature and signed_by(found[1], signature.keyid, signature.signature, _encoded(document)))


def own_signer() -> Signer | None:
    """What signs for this machine as a witness: the file or URI in VMFB_WITNESS_KEY; None where there is none."""
    if not (named := os.environ.get(WITNESS_KEY)):
        return None
    from pipeline.trust.keys import public_key_of, read_key, signer_of

    path = expanded(named)
    if ":" in named and not is_file(str(path)):
        return signer_of(named, public_key_of(named))
    if (signer := read_key(path)) is None:
        raise PipelineError("is a public key, which signs nothing", where=str(path), hint=f"{WITNESS_KEY} names the private one")
    return signer


def add_signed_evidence(store: Store, model: str, version: str, document: bytes, signer: Signer | None) -> str:
    """Put a document of evidence beside a release, signed by this machine if it has a key; its key.

    The signature comes first: nobody shall see the document without it.
    """
    key = evidence_key(model, version, sha256_bytes(document))
    if signer:
        store.create(signature_key(key, signer.public_key.keyid), sign_document(signer, document))
    add_evidence(store, model, version, document)
    return key

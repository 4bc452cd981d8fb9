"""What a timer does for a signed store: sign anew what would expire, take in what witnesses saw. And who its witnesses are."""

from __future__ import annotations

import datetime
from typing import Any

from securesystemslib.signer import Key
from tuf.api.metadata import Metadata

from pipeline.errors import PipelineError
from pipeline.files import sha256_bytes
from pipeline.layout import WITNESSES_KEY, evidence_of, release_key, signature_key
from pipeline.names import RULE, did_you_mean, is_name
from pipeline.store.base import Store
from pipeline.trust.anchors import Anchor
from pipeline.trust.keys import Keys
from pipeline.trust.repository import Repository, change
from pipeline.trust.view import EVIDENCE, TARGETS
from pipeline.trust.witnesses import Witnesses, decode_witnesses, read_signature, vouches


def refresh(store: Store, anchor: Anchor, keys: Keys) -> list[str]:
    """Sign the timestamp anew, and all else that is in the second half of its time, where its keys are here. What to tell."""
    said: list[str] = []

    def edit(repository: Repository) -> bool:
        said.clear()
        repository.require("snapshot", "timestamp")
        if EVIDENCE in repository.roles and repository.can_sign(EVIDENCE):
            said.extend(f"taken in: {key}" for key in adopt(repository, "evidence/"))
        late = [role for role in repository.roles if _is_late(repository, role, repository.roles[role])]
        able = [role for role in late if repository.can_sign(role)]
        repository.changed |= {*able, *(["snapshot"] if _is_late(repository, "snapshot", repository.snapshot) else [])}
        said.extend(f"signed anew: {role}" for role in sorted(repository.changed))
        waiting: list[tuple[str, Metadata[Any]]] = [(role, repository.roles[role]) for role in late if role not in able]
        if _is_late(repository, "root", repository.root):
            waiting.append(("root", repository.root))
        said.extend(f"! {role} ends {metadata.signed.expires:%Y-%m-%d}: {_how(role)}" for role, metadata in waiting)
        return True

    change(store, anchor, keys, edit)
    return [f"{anchor.store} is signed anew", *said]


def adopt(repository: Repository, prefix: str) -> list[str]:
    """Name the documents of evidence below `prefix` that witnesses of the store have signed, with their signatures; and no
    longer those of who is no witness any more. The keys that are new."""
    store = repository.store
    witnesses = decode_witnesses(repository.document(WITNESSES_KEY), WITNESSES_KEY)
    role = repository.roles[EVIDENCE].signed
    for key, target in list(role.targets.items()):
        signature = target.custom.get("signature", {}) if isinstance(target.custom, dict) else {}
        if key.startswith(prefix) and not witnesses.by_id(str(signature.get("keyid"))):
            repository.put(key, None, EVIDENCE)
    new: list[str] = []
    if not witnesses.keys:
        return new
    keys = set(store.listed(prefix) or ())
    for key in sorted(key for key in keys if evidence_of(key) and not repository.find(key)):
        model, version, sha256 = evidence_of(key) or ("", "", "")
        signatures = [signature_key(key, one.keyid) for one in witnesses.keys.values()]
        beside = next((place for place in signatures if place in keys), None)
        if beside is None or not repository.find(release_key(model, version)):
            continue
        document, signed = store.get(key), store.get(beside)
        signature = read_signature(signed.data) if signed else None
        if document and signature and sha256_bytes(document.data) == sha256 and vouches(witnesses, signature, document.data):
            custom = {"signature": {"keyid": signature.keyid, "sig": signature.signature}}
            repository.put(key, document.data, EVIDENCE, custom)
            new.append(key)
    return new


def set_witness(store: Store, anchor: Anchor, keys: Keys, name: str, key: Key | None) -> list[str]:
    """Let the holder of a key see things for the store under a name, or (None) nobody of that name. What is to be told."""
    if not is_name(name):
        raise PipelineError(f"name={name:.60} cannot be the name of a witness", hint=RULE)
    lines: list[str] = []

    def edit(repository: Repository) -> bool:
        repository.require(TARGETS, "snapshot", "timestamp")
        known = dict(decode_witnesses(repository.document(WITNESSES_KEY), WITNESSES_KEY).keys)
        if key is None and name not in known:
            raise PipelineError(f"remove={name}: there is no such witness", where=anchor.store, hint=did_you_mean(name, known))
        if key is None:
            del known[name]
        else:
            known[name] = key
        repository.put(WITNESSES_KEY, Witnesses(known).encode(), TARGETS)
        if EVIDENCE in repository.roles and repository.can_sign(EVIDENCE):
            adopt(repository, "evidence/")
        lines[:] = [f"witnesses of {anchor.store}:", *(f"  {n}: {k.keyid}" for n, k in sorted(known.items()))]
        return bool(repository.changed)

    change(store, anchor, keys, edit)
    return lines


def _is_late(repository: Repository, role: str, metadata: Metadata[Any]) -> bool:
    left = metadata.signed.expires - datetime.datetime.now(datetime.UTC)
    return bool(left < datetime.timedelta(days=repository.days(role)) / 2)


def _how(role: str) -> str:
    if role == "root":
        return "`doit trust-rotate role=root days=root:365`, where its keys are"
    return f"`doit trust-refresh` where the keys of `{role}` are"

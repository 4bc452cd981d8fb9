"""Each role can do its work in a bucket with the policy that is written for it, and nothing else: on real servers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pipeline.consume.cache import Cache
from pipeline.consume.reference import Reference
from pipeline.consume.resolve import Remote, Resolver
from pipeline.errors import DeniedError
from pipeline.layout import INDEX_KEY, LEASES, PROBE_KEY, SITE, blob_key, channel_key, evidence_key, provenance_key, release_key
from pipeline.manifest.codec import encode
from pipeline.manifest.evidence import Witness
from pipeline.stages import fsck
from pipeline.stages.prune import Asked, prune
from pipeline.stages.publish import publish
from pipeline.store.documents import add_evidence
from pipeline.store.open import open_store, open_to_keep, open_to_publish
from tests import releases, rights, servers

URL = f"s3://{rights.GUARDED}/{rights.PREFIX}"
DIGEST = "0" * 64
KEYS = {
    "blob": blob_key(DIGEST),
    "manifest": release_key("noise", "9"),
    "evidence": evidence_key("noise", "9", DIGEST),
    "channel": channel_key("noise", "other"),
    "index": INDEX_KEY,
    "yank": "yanked/noise/9.json",
    "trust": "trust/1.snapshot.json",
    "lease": "prune/leases/one.json",
    "page": f"{SITE}index.html",
    "probe": PROBE_KEY,
    "stray": "stray.json",
}
PUTS = {
    "publisher": {"blob", "manifest", "evidence", "channel", "index", "yank", "trust", "lease", "page", "probe"},
    "pruner": {"index", "lease", "probe"},
    "consumer": set(),
    "observer": {"evidence"},
}
DELETES = {"publisher": set(), "pruner": {"blob", "manifest", "evidence", "lease"}, "consumer": set(), "observer": set()}


@pytest.fixture
def as_role(server: servers.Server, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes the AWS variables name the user of a role."""
    return lambda role: servers.use_aws(monkeypatch, server.endpoint, rights.USERS[role])


def _is_allowed(call: Callable[[], object]) -> bool:
    try:
        call()
    except ClientError as error:
        assert error.response["Error"]["Code"] == "AccessDenied"
        return False
    return True


@pytest.mark.parametrize("role", rights.USERS)
def test_a_role_may_do_what_its_policy_says_and_nothing_else(server: servers.Server, role: str) -> None:
    owner, client = servers.client_of(server.endpoint), servers.client_of(server.endpoint, rights.USERS[role])
    puts, deletes = set[str](), set[str]()
    for name, key in KEYS.items():
        at: dict[str, Any] = {"Bucket": rights.GUARDED, "Key": f"{rights.PREFIX}/{key}"}
        other = {**at, "Key": f"elsewhere/{key}"}
        for place in (at, other):
            owner.put_object(**place, Body=b"theirs")
        assert _is_allowed(lambda at=at: client.get_object(**at))
        if _is_allowed(lambda at=at: client.put_object(**at, Body=b"mine")):
            puts.add(name)
        if _is_allowed(lambda at=at: client.delete_object(**at)):
            deletes.add(name)
        for call in (client.get_object, client.delete_object):
            assert not _is_allowed(lambda call=call, other=other: call(**other)), key
        assert not _is_allowed(lambda other=other: client.put_object(**other, Body=b"mine")), key
        for place in (at, other):
            owner.delete_object(**place)
    assert (puts, deletes) == (PUTS[role], DELETES[role])
    assert _is_allowed(lambda: client.list_objects_v2(Bucket=rights.GUARDED))
    assert not _is_allowed(lambda: client.put_bucket_policy(Bucket=rights.GUARDED, Policy="{}"))
    assert not _is_allowed(lambda: client.delete_bucket(Bucket=rights.GUARDED))


def test_each_role_can_do_its_work(server: servers.Server, as_role: Callable[[str], None], tmp_path: Path) -> None:
    as_role("publisher")
    manifest, _ = releases.make(tmp_path / "package", 18 << 20, 8 << 20)  # whose file is sent in parts
    publish(tmp_path / "package", open_to_publish(URL))
    as_role("observer")
    document = replace(releases.unseen(manifest), witness=Witness("an observer", "3", "a system", "a CPU"))
    (key,) = add_evidence(open_store(URL), "noise", manifest.version, encode(document))
    as_role("consumer")
    store = open_store(URL)
    resolver = Resolver(Remote(URL), Cache(tmp_path / "cache"))
    assert resolver.manifest(Reference("noise", channel="latest")) == manifest
    assert document in resolver.evidence(manifest, asks=True).documents
    with pytest.raises(DeniedError):
        store.create("index.json", b"{}")
    as_role("publisher")  # again: what others put does not stand in its way
    assert publish(tmp_path / "package", open_to_publish(URL))["blobs_sent"] == 0
    for seed in (1, 2):  # so that the first is the third last
        releases.release(open_to_publish(URL), tmp_path / str(seed), 1 << 16, seed=seed)
    as_role("pruner")
    keeper = open_to_keep(URL)
    for lease in [one.key for one in keeper.entries(LEASES)]:
        keeper.remove(lease)  # as if they were older than a day
    prune(keeper, Asked(1, grace=0), dry=False)
    assert store.get(release_key("noise", manifest.version)) is None
    assert store.get(provenance_key("noise", manifest.version)) is None
    assert store.get(key) is None
    assert store.get(blob_key(manifest.artifacts[0].blob.sha256)) is None
    fsck.run(URL, False, False, tmp_path / "out", tmp_path / "fsck")
    with pytest.raises(DeniedError):
        keeper.create(release_key("noise", "9"), b"{}")

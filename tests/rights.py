"""Who may do what in a bucket: the policies of `targets/s3`, as bucket policies of a server's users."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "targets" / "s3"
GUARDED, PREFIX = "guarded", "models/main"  # a bucket in which each has the rights of its role, below a prefix
# The user of each role, who has no right but by the policy.
USERS = {
    "publisher": ("PUBLISHERACCESSKEY", "publisher-secret"),
    "pruner": ("PRUNERACCESSKEY", "pruner-secret"),
    "consumer": ("CONSUMERACCESSKEY", "consumer-secret"),
    "observer": ("OBSERVERACCESSKEY", "observer-secret"),
}
GIVEN = {"publisher": ["publisher"], "pruner": ["pruner"], "consumer": ["consumer"], "witness": ["observer"]}


def statements(role: str, bucket: str, prefix: str) -> list[dict[str, Any]]:
    """The role's statements about what is below `prefix`."""
    text = (FOLDER / f"{role}.json").read_text()
    text = text.replace("BUCKET", bucket).replace("PREFIX/" if not prefix else "PREFIX", prefix)
    found: list[dict[str, Any]] = json.loads(text)["Statement"]
    return found


def bucket_policy(bucket: str, prefix: str, users: Mapping[str, Sequence[str]], account: str = "") -> str:
    """The policy of a bucket in which these users have these roles. Ceph's users are of no account, SeaweedFS's of `0` × 12."""
    found = []
    for role, names in users.items():
        who = {"AWS": [f"arn:aws:iam::{account}:user/{name}" for name in names]}
        found += [{**one, "Sid": f"{role}{one['Sid']}", "Principal": who} for one in statements(role, bucket, prefix)]
    return json.dumps({"Version": "2012-10-17", "Statement": found})

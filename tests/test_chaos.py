"""The short form of `tests.bench.chaos`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import servers
from tests.bench.chaos import documents, faults, kills


def test_kills_leave_a_store_whole(tmp_path: Path) -> None:
    hits = kills.steps(tmp_path / "steps", str(tmp_path / "store"), 3)
    assert all(hit >= 3 for hit in hits.values())


def test_kills_leave_a_signed_store_signed(tmp_path: Path) -> None:
    few = {name: kills.SIGNED_STEPS[name] for name in ("publish", "trust-refresh")}
    with kills.signed_store(tmp_path) as url:
        assert all(hit >= 3 for hit in kills.steps(tmp_path / "steps", url, 3, of=few).values())


@pytest.mark.thorough
def test_kills_of_builds_leave_nothing_at_work(tmp_path: Path) -> None:
    assert kills.builds(tmp_path, 8) >= 8


def test_faulty_requests_leave_a_store_right(tmp_path: Path) -> None:
    counts = faults.faulty(tmp_path, 40)
    assert counts["published"]  # of so few, all may go through when they are sent again


@pytest.mark.thorough
def test_publishers_race_on_every_server(tmp_path: Path) -> None:
    said: list[str] = []
    faults.on_every_server(tmp_path, said.append)
    assert len(said) == 6


def test_publishers_race_in_a_folder(tmp_path: Path) -> None:
    assert faults.race(tmp_path, str(tmp_path / "store")) == {"releases": 9}


def test_publishers_race_in_a_bucket(tmp_path: Path, seaweedfs: servers.Server) -> None:
    assert faults.raced_on(tmp_path, seaweedfs.endpoint) == {"releases": 9}


def test_a_server_without_conditions_is_refused() -> None:
    with faults.ignorant() as endpoint:
        assert "If-Match" in faults.refused(endpoint)


def test_changed_documents_are_read_or_refused() -> None:
    for taken, refused, longest in documents.documents(1800).values():
        assert taken + refused == 300
        assert taken
        assert refused
        assert longest < 5

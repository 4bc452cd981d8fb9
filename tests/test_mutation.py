"""The verifier catches what is wrong, and refuses nothing that is right: the short form of `tests.bench.mutation`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.mutation.__main__ import ENOUGH, SHORT_KINDS, SHORT_MODELS, measured, score


@pytest.mark.thorough
def test_planted_faults_are_caught(tmp_path: Path) -> None:
    results = measured(tmp_path, SHORT_MODELS, SHORT_KINDS)
    findings = [finding for result in results for finding in result.findings]
    assert not [(r.model, r.refused) for r in results if r.refused]
    assert not [f for f in findings if f.verdict == "impossible"]
    assert len({f.kind for f in findings if f.verdict == "caught"}) >= 12
    assert score(results) >= ENOUGH, [f for f in findings if f.verdict == "missed"]

"""The procedures with keys in `pipeline/runbook.md`: every command of that section, run in the order of the page."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.consume.reference import Reference
from pipeline.groups import GROUPS
from pipeline.plan import TRUST
from pipeline.stages import trust
from pipeline.store.open import open_to_publish
from pipeline.trust.keys import read_public_key
from pipeline.trust.witnesses import own_signer
from tests import releases, trusting
from tests.test_vouching import decode_document, gather, seen
from tests.trusting import MODEL, SEGMENT, SIZE, Signed

PAGE = Path(trust.__file__).parent.parent / "runbook.md"


def commands() -> list[str]:
    """The lines of the section that are to be typed."""
    section = re.search(r"^## Keys$(.*?)(?=^## |\Z)", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert section
    return [line[2:].replace("example", MODEL) for line in section[1].splitlines() if line.startswith("$ ")]


def doit(words: list[str], folder: Path) -> None:
    """As doit would: the steps' own names, and words that they take."""
    name, given = words[0], dict(word.split("=", 1) for word in words[1:])
    assert name in GROUPS
    assert given.keys() <= {*TRUST, "model"}
    trust.run(name.removeprefix("trust-"), os.environ["PIPELINE_STORE"], {**TRUST, "model": "", **given}, folder)


def test_every_procedure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And at each step a consumer who knows the first root alone gets the release that the channel means."""
    signed = Signed(tmp_path / "store", tmp_path / "keys", tmp_path)
    for name in ("VMFB_TRUST_DIR", "VMFB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("PIPELINE_STORE", signed.url)
    monkeypatch.chdir(tmp_path)
    manifest, _ = releases.release(open_to_publish(signed.url), tmp_path / "package", SIZE, SEGMENT)
    latest = Reference(MODEL, channel="latest")
    ran = 0
    for line in commands():
        words = shlex.split(os.path.expandvars(line))
        if words[0] == "export":
            monkeypatch.setenv(*words[1].split("=", 1))
        elif words[0] == "doit":
            doit(words[1:], tmp_path / "out")
        elif words[0] == "vmfb":
            document = decode_document(seen(signed))
            monkeypatch.setattr("pipeline.commands.attest._attest", lambda *_, made=document: made)
            assert main(words[1:]) == 0, capsys.readouterr().err
        else:
            subprocess.run(words, check=True, cwd=tmp_path)
        ran += 1
        if (anna := tmp_path / "anna" / "anna.pub.pem").exists():
            monkeypatch.setenv("ANNA", read_public_key(anna).keyid[:12])
        if (signed.keys / "root.json").exists():
            first = tmp_path / "first.json"
            if not first.exists():
                shutil.copy(signed.keys / "root.json", first)
            mirror = Path(shutil.copytree(signed.root, tmp_path / f"mirror-{ran}"))
            trusting.anchors.add(str(mirror), first.read_bytes())
            assert trusting.manifest_of(str(mirror), latest, tmp_path / "cache") == manifest
        if line.startswith("vmfb attest"):
            assert own_signer()
            assert len(gather(signed).documents) == 2
    assert len(gather(signed).documents) == 1  # the witness is gone
    assert ran > 20

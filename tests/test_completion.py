"""What bash offers after `vmfb` and Tab, asked of a real bash."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.completion import SHELLS
from pipeline.completion import releases as releases_of
from pipeline.consume.resolve import Resolver
from pipeline.layout import INDEX_KEY
from pipeline.manifest.codec import decode
from pipeline.manifest.types import Index
from pipeline.store.open import open_store
from tests import releases, web
from tests.project import ROOT

# As bash calls it: https://www.gnu.org/software/bash/manual/bash.html#Programmable-Completion
ASK = """
eval "$(vmfb completion bash)"
COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9
read -ra COMP_WORDS <<< "$1"
if [[ $1 = *" " ]]; then COMP_WORDS+=(""); fi
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
function=$(complete -p vmfb | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$function" vmfb
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    releases.release(open_store(str(folder)), tmp_path_factory.mktemp("package"))
    return folder


def offered(line: str, folder: Path, **variables: str) -> list[str]:
    bin_ = folder / "bin"
    bin_.mkdir(exist_ok=True)
    (bin_ / "vmfb").write_text(f'#!/bin/sh\nexec {sys.executable} -m pipeline.cli "$@"\n')
    (bin_ / "vmfb").chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT), **variables}
    words = ["bash", "--norc", "-c", ASK, "bash", line]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return [word.rstrip() for word in done.stdout.splitlines() if word]


def test_words_models_versions_and_channels_are_offered(store: Path, tmp_path: Path) -> None:
    given = {"PIPELINE_STORE": str(store), "VMFB_CACHE": str(tmp_path / "cache")}
    version = next((store / "releases" / "noise").iterdir()).name
    assert offered("vmfb fe", tmp_path, **given) == ["fetch"]
    assert offered("vmfb fetch no", tmp_path, **given) == ["noise"]
    assert offered("vmfb fetch noise@", tmp_path, **given) in ([version], [f"noise@{version}"])
    assert offered("vmfb fetch noise:", tmp_path, **given) in (["latest"], ["noise:latest"])
    assert "--device" in offered("vmfb fetch --d", tmp_path, **given)
    assert offered("vmfb fetch noise --device rtx-30", tmp_path, **given) == ["rtx-3060"]
    (tmp_path / "note.vmfb").touch()
    assert offered("vmfb inspect no", tmp_path, **given) == ["noise", "note.vmfb"]


def test_of_a_server_what_was_last_seen_is_offered(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    with web.serve(store) as server:
        url = server.url
        assert offered(f"vmfb fetch --store {url} ", tmp_path) == []
        assert server.seen == []
        assert cli.main(["list", url]) == 0
    assert offered("vmfb fetch n", tmp_path, PIPELINE_STORE=url) == ["noise"]


def test_of_an_index_only_names_are_offered(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = json.loads((store / INDEX_KEY).read_text())
    (model,) = index["models"]
    forged = {**model, "versions": ["1; touch here", *model["versions"]]}
    forged["channels"] = [{"channel": "$(touch here)", "version": "1"}, *model["channels"]]
    monkeypatch.setattr(Resolver, "index", lambda _: decode(Index, json.dumps({**index, "models": [forged]}).encode(), "here"))
    given = argparse.Namespace(store=str(store))
    assert releases_of("noise@", given) == [f"noise@{version}" for version in model["versions"]]
    assert releases_of("noise:", given) == ["noise:latest"]


def test_every_shell_has_its_code(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for shell in SHELLS:
        assert cli.main(["completion", shell]) == 0
        assert "vmfb" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "argcomplete.shell_integration", None)
    assert cli.main(["completion", "bash"]) == 1
    assert "vmfb-pipeline[completion]" in capsys.readouterr().err

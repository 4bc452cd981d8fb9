"""Other versions of IREE's runtime: which there are, how they come here, what a file does in them, what a consumer is told."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from pipeline import arrays, cli, process, wheels
from pipeline.consume import load
from pipeline.consume import runtimes as consumer
from pipeline.errors import PipelineError
from pipeline.iree import devices
from pipeline.iree.devices import runtimes
from pipeline.iree.devices.runtimes import Runtime
from pipeline.iree.toolchain import REQUIRED
from pipeline.manifest.codec import decode, encode
from pipeline.manifest.evidence import EvidenceDocument, FileProof, FunctionProof, RuntimeInfo, VariantProof
from pipeline.manifest.types import Manifest
from pipeline.stages import runtimes as releases_stage
from pipeline.stages import tried, verify
from pipeline.stages.checks import Check
from pipeline.stages.evidence import read_runtimes
from pipeline.stages.origin import Origin
from pipeline.stages.publish import publish
from pipeline.store.base import Store
from pipeline.store.documents import add_evidence
from pipeline.store.open import open_store
from tests import releases
from tests.project import ROOT, Project
from tests.waiting import wait_for

# Which versions


@pytest.mark.parametrize(
    ("available", "found"),
    [
        ("3.13.0 3.12.0 3.11.0 3.10.0", "3.11.0 3.12.0 3.13.0"),
        ("3.15.1 3.15.0 3.14.0 3.13.1 3.13.0 3.12.1 3.12.0 3.9.0", "3.9.0 3.12.1 3.13.0 3.15.1"),
        ("4.0.0 3.13.0 3.2.0 2.9.0", "2.9.0 3.2.0 3.13.0 4.0.0"),
        ("3.12.0", "3.12.0 3.13.0"),
        ("", "3.13.0"),
    ],
)
def test_files_are_tried_with_the_pinned_version_two_before_it_and_the_newest(available: str, found: str) -> None:
    assert runtimes.chosen(available.split(), "3.13.0") == found.split()


def test_a_variable_names_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, found in {"none": (), "": None, "3.11.0, 3.14.0rc1,3.11.0": ("3.11.0", "3.14.0rc1")}.items():
        monkeypatch.setenv(runtimes.VARIABLE, text)
        assert runtimes.wanted() == found
    for text in ("3", "3.11.0,", "None", "../3.11.0", "--index-url"):
        monkeypatch.setenv(runtimes.VARIABLE, text)
        with pytest.raises(PipelineError, match="is no version"):
            runtimes.wanted()


def test_without_an_index_files_are_tried_with_what_is_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": "", "CONFIG_FILE": os.devnull}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    monkeypatch.setenv("PIPELINE_CACHE_DIR", str(tmp_path / "cache"))
    runtimes._place("3.12.0").mkdir(parents=True)
    (runtimes.home() / "3.10.0-cpython-399-other").mkdir()
    found = runtimes.find(None, tmp_path / "logs")
    assert found == [Runtime("3.12.0", runtimes._place("3.12.0")), Runtime(REQUIRED)]
    assert "No matching distribution" in caplog.text
    (missing,) = runtimes.find(("3.11.0",), tmp_path / "logs")
    assert missing.problem.startswith("it cannot be had: No matching distribution")
    assert not list(runtimes.home().glob("*.part"))


# How they come


def _wheel(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "made.whl", "w") as archive:
        for number in range(20):
            archive.writestr(f"made/{number}.txt", "text" * 1000)
        program = zipfile.ZipInfo("made/program")
        program.external_attr = 0o100755 << 16
        archive.writestr(program, "#!/bin/sh")
    return folder / "made.whl"


def test_a_wheel_is_unpacked_once_whoever_wants_it(tmp_path: Path) -> None:
    asked = []

    def fetch(folder: Path) -> Path:
        asked.append(folder)
        return _wheel(folder)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: wheels.unpacked(tmp_path / "runtimes" / "one", fetch), range(8)))) == 1
    assert len(asked) == 1
    assert [path.name for path in (tmp_path / "runtimes").iterdir()] == ["one"]
    made = list((tmp_path / "runtimes" / "one" / "made").iterdir())
    assert len(made) == 21
    assert [path.name for path in made if os.access(path, os.X_OK)] == ["program"]


KILLED = """
import sys, time
from pathlib import Path
from pipeline import wheels
def fetch(folder):
    (folder / "half.whl").write_bytes(b"half")
    time.sleep(600)
wheels.unpacked(Path(sys.argv[1]), fetch)
"""


def test_a_kill_leaves_nothing_that_counts(tmp_path: Path) -> None:
    place = tmp_path / "runtimes" / "one"
    half = place.with_name(".one.part") / "half.whl"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(place)], env={**os.environ, "PYTHONPATH": str(ROOT)}) as child:
        wait_for(half.exists)
        child.send_signal(signal.SIGKILL)
    assert not place.exists()
    wheels.unpacked(place, _wheel)
    assert [path.name for path in place.parent.iterdir()] == ["one"]


# What a file does in them


@pytest.fixture(scope="module")
def check(built: Project, tmp_path_factory: pytest.TempPathFactory) -> Check:
    """The small model's file as it is verified, on the CPU."""
    folder, layout = tmp_path_factory.mktemp("check"), built.layout
    model, bundle, targets = built.spec("small")
    cpu = devices.find(folder, ["local-task"])
    place = [layout.compiled("small", "desktop"), layout.imported("small"), layout.reference("small"), folder]
    return verify._prepare(Origin.of(model, layout), bundle, targets, *place, cpu, searched=False)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Runtime]:
    logs = tmp_path_factory.mktemp("runtimes")
    return {runtime.version: runtime for runtime in runtimes.find(("3.11.0", "3.12.0", REQUIRED, "3.99.0"), logs)}


@pytest.fixture(scope="module")
def matrix(check: Check, found: dict[str, Runtime]) -> dict[str, RuntimeInfo]:
    return {info.version: info for info in tried.runtimes(check, list(found.values()))}


def test_a_file_is_loaded_and_run_in_each_and_compared(matrix: dict[str, RuntimeInfo]) -> None:
    assert {version: info.works for version, info in matrix.items()} == {
        "3.11.0": False,
        "3.12.0": True,
        REQUIRED: True,
        "3.99.0": None,
    }
    assert matrix["3.11.0"].how.startswith("required module 'hal' version mismatch; have 6 but require 7")
    assert matrix["3.12.0"].how.startswith("x86-64")
    assert "max error" in matrix["3.12.0"].how
    assert matrix["3.99.0"].how.startswith("it cannot be had: No matching distribution")


def test_what_the_extra_installs_is_what_works(matrix: dict[str, RuntimeInfo]) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert devices.REQUIRED_RUNTIME in extras["run"]
    bounds = Requirement(devices.REQUIRED_RUNTIME).specifier
    assert {version: bounds.contains(version) for version in ("3.11.0", "3.12.0", REQUIRED)} == {
        version: info.works for version, info in matrix.items() if info.works is not None
    }
    assert f"{devices.PACKAGE}=={REQUIRED}" in extras["build"]


def test_wrong_numbers_are_no_success(check: Check, found: dict[str, Runtime], tmp_path: Path) -> None:
    data = []
    for one in check.data:
        other = one.at(tmp_path)
        for draw in other.draws:
            arrays.write(other.outputs_of(draw), [array + np.float32(1) for array in arrays.read(other.outputs_of(draw))])
        data.append(other)
    (info,) = tried.runtimes(replace(check, data=tuple(data), _references={}), [found["3.12.0"]])
    assert info.works is False
    assert "on CPU" in info.how


def test_a_runtime_that_this_program_cannot_use_says_nothing_of_the_file(
    check: Check, found: dict[str, Runtime], tmp_path: Path
) -> None:
    """One that lacks what the runner needs, and one that Python does not find."""
    (tmp_path / "broken" / "iree" / "runtime").mkdir(parents=True)
    (tmp_path / "broken" / "iree" / "runtime" / "__init__.py").write_text("raise ImportError('of another Python')")
    (tmp_path / "empty").mkdir()
    broken, empty = tried.runtimes(check, [Runtime("3.1.0", tmp_path / "broken"), Runtime("3.2.0", tmp_path / "empty")])
    assert (broken.works, broken.how) == (None, "this program cannot use that runtime: ImportError: of another Python")
    assert empty.works is None
    assert empty.how.startswith("Python finds another runtime first")


def test_a_device_that_an_old_runtime_cannot_open_says_nothing_of_the_file(
    check: Check, found: dict[str, Runtime], tmp_path: Path
) -> None:
    """3.11 knows no Vulkan device by its path."""
    gpus = devices.find(tmp_path, ["vulkan"])
    (info,) = tried.runtimes(replace(check, devices=gpus), [found["3.11.0"]])
    assert info.works is None
    assert info.how.startswith(f"it cannot open {gpus[0].uri}: ")


def test_what_an_interrupt_ends_is_no_failure_of_the_file(
    check: Check, found: dict[str, Runtime], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "interrupted", lambda: True)
    with pytest.raises(PipelineError, match="interrupted"):
        tried.runtimes(check, [])


def test_a_program_that_is_not_made_for_the_runtime_says_which_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It may refuse the module that asks devices."""
    monkeypatch.setattr(devices, "_child", lambda *_: {"error": "required module 'hal' version mismatch"})
    for version, hint in {"3.11.0": f"pip install '{devices.REQUIRED_RUNTIME}'", "3.14.0": "pip install", "3.12.5": ""}.items():
        monkeypatch.setattr(devices, "runtime_version", lambda version=version: version)
        with pytest.raises(PipelineError, match="cannot list the local-task devices") as raised:
            devices.find(tmp_path, ["local-task"])
        assert hint in raised.value.hint
        assert bool(hint) == bool(raised.value.hint)


def test_without_a_device_nothing_is_tried(check: Check, found: dict[str, Runtime]) -> None:
    assert tried.runtimes(replace(check, devices=[]), [found["3.12.0"]]) == [
        RuntimeInfo("3.12.0", None, "no device here runs any code of the file")
    ]


def test_verification_keeps_what_was_found_and_does_not_repeat_it(
    built: Project, check: Check, found: dict[str, Runtime], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    layout, (model, bundle, targets) = built.layout, built.spec("small")
    assert read_runtimes(layout.verified("small", "desktop") / "runtimes.json") == []  # as tests build their projects
    monkeypatch.setattr(verify, "_devices", lambda *_: check.devices)
    made = [layout.compiled("small", "desktop"), layout.imported("small"), layout.reference("small")]
    for versions in ("3.11.0,3.12.0", "3.12.0"):  # the second time there is nothing to do
        monkeypatch.setenv(runtimes.VARIABLE, versions)
        verify.run(Origin.of(model, layout), bundle, targets, *made, tmp_path / "no scores", tmp_path / "verify")
        infos = read_runtimes(tmp_path / "verify" / "runtimes.json")
        assert {info.version: info.works for info in infos} == {"3.11.0": False, "3.12.0": True}


# What a consumer is told

BAD = RuntimeInfo("3.11.0", False, "wants hal 7")
OLD, NEW = RuntimeInfo("3.12.0", True, "CPU"), RuntimeInfo("3.13.0", True, "CPU")
UNTRIED = RuntimeInfo("3.14.0", None, "it cannot be had")
KNOWN = (BAD, OLD, NEW, UNTRIED)


@pytest.mark.parametrize(
    ("known", "installed", "works", "text"),
    [
        ((), "3.13.0", True, ""),
        ((), "3.13.2", True, ""),
        ((), "3.12.0", None, "made for 3.13; here is 3.12.0, untested"),
        (KNOWN, "3.13.0", True, ""),
        (KNOWN, "3.12.0", True, ""),
        (KNOWN, "3.12.9rc2", True, ""),
        (KNOWN, "3.14.0", None, "made for 3.12-3.13; here is 3.14.0, untested"),
        (KNOWN, "4.0.0", None, "made for 3.12-3.13; here is 4.0.0, untested"),
        (KNOWN, "3.11.0", False, "made for 3.12-3.13; here is 3.11.0, which fails: wants hal 7"),
        (KNOWN, "3.11.1", None, "made for 3.12-3.13; here is 3.11.1, untested (3.11.0 fails: wants hal 7)"),
        (KNOWN, "3.9.0", None, "made for 3.12-3.13; here is 3.9.0, untested (3.11.0 fails: wants hal 7)"),
        ((UNTRIED,), "3.14.0", None, "made for 3.13; here is 3.14.0, untested"),
        (
            (OLD, RuntimeInfo("3.15.0", True, "CPU")),
            "3.14.0",
            None,
            "made for 3.12-3.13, 3.15; here is 3.14.0, untested",
        ),
        (
            (NEW, replace(NEW, works=False, how="SIGILL")),
            "3.13.0",
            None,
            "made for 3.13; here is 3.13.0, seen to work (CPU) and to fail: SIGILL",
        ),
        (
            (OLD, RuntimeInfo("3.12.1", False, "no")),
            "3.12.2",
            None,
            "made for 3.13; here is 3.12.2, untested (3.12.1 fails: no)",
        ),
        ((), "unknown", None, "made for 3.13; here is unknown, untested"),
    ],
)
def test_what_is_known_of_a_runtime_is_told(
    known: tuple[RuntimeInfo, ...], installed: str, works: bool | None, text: str
) -> None:
    fit = consumer.fit("3.13.0", known, installed)
    assert (fit.works, fit.text) == (works, text.replace("made for", "made for IREE's runtime"))
    assert consumer.fit("3.13.0", tuple(reversed(known)), installed) == fit


def test_what_to_install_is_what_works() -> None:
    assert consumer.fit("3.13.0", KNOWN, "3.11.0").hint == "pip install 'iree-base-runtime==3.13.0'"
    wrong = replace(NEW, works=False)
    assert consumer.fit("3.13.0", (BAD, OLD, wrong), "3.13.0").hint == "pip install 'iree-base-runtime==3.12.0'"
    assert consumer.fit("3.13.0", (wrong,), "3.13.0").hint == ""


def test_a_runtime_that_fails_is_an_error_and_an_untested_one_a_note() -> None:
    notes: list[str] = []
    here = devices.runtime_version()

    def require(*known: RuntimeInfo) -> None:
        consumer.require("noise 1", "3.12.0", lambda: known, notes.append)

    require()
    assert notes == [f"noise 1 is made for IREE's runtime 3.12; here is {here}, untested"]
    with pytest.raises(
        PipelineError, match=f"noise 1 is made for IREE's runtime 3.12; here is {here}, which fails: for a test"
    ) as raised:
        require(RuntimeInfo(here, False, "for a test"))
    assert raised.value.hint == "pip install 'iree-base-runtime==3.12.0'"
    require(RuntimeInfo(here, True, "for a test"))
    assert len(notes) == 1


def test_documents_are_asked_only_where_the_runtime_is_not_the_compilers_own() -> None:
    def known() -> list[RuntimeInfo]:
        pytest.fail("asked")

    consumer.require("noise 1", devices.runtime_version(), known, pytest.fail)


def _document(manifest: Manifest, made: str, runtime: str, *runtimes: RuntimeInfo, problem: str = "") -> EvidenceDocument:
    """A witness with a runtime of this version, who ran a variant, and tried the file in these."""
    artifact = manifest.artifacts[0]
    functions = (FunctionProof(manifest.entries[0].function, 1, 0.0, 0.0, 0.0),)
    nothing = dict.fromkeys(("load_s", "latency_s", "spread_s", "peak_memory", "matrix_kernels"))
    variant = VariantProof(
        "cpu", artifact.variants[1].sha256, "device", "", problem, "a CPU", "", (), functions, rounds=0, **nothing
    )
    file = FileProof(artifact.bundle, artifact.blob.sha256, (variant,), runtimes)
    seen = releases.unseen(manifest)
    return replace(seen, made=made, witness=replace(seen.witness, runtime=runtime), files=(file,))


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, Manifest]:
    """A store with a release by another compiler, of which this machine's runtime knows nothing."""
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIPELINE_STORE", str(tmp_path / "store"))
    releases.make(tmp_path / "package", 1 << 16, 1 << 12, compiler="3.99.0")
    store = open_store(str(tmp_path / "store"))
    publish(tmp_path / "package", store)
    data = (tmp_path / "package" / "manifest.json").read_bytes()
    return store, decode(Manifest, data, "")


def _add(store: Store, manifest: Manifest, document: EvidenceDocument) -> None:
    add_evidence(store, manifest.model.name, manifest.version, encode(document))


def test_what_documents_say_of_the_runtime_here_is_obeyed_before_anything_comes(
    old: tuple[Store, Manifest], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store, manifest = old
    here, name = devices.runtime_version(), f"noise@{manifest.version}"
    assert cli.main(["fetch", "noise", "--device", "local"]) == 0
    assert f"{name} is made for IREE's runtime 3.99; here is {here}, untested" in capsys.readouterr().err
    _add(store, manifest, _document(manifest, "2026-01-02T00:00:00Z", "3.98.0", RuntimeInfo(here, False, "wants hal 99")))
    for command in ("fetch", "run", "explain"):
        shutil.rmtree(tmp_path / "cache")
        assert cli.main([command, "noise", "--device", "local"]) == 1
        said = capsys.readouterr().err
        assert f"{name} is made for IREE's runtime 3.98-3.99; here is {here}, which fails: wants hal 99" in said
        assert "pip install 'iree-base-runtime==3.99.0'" in said
        assert not list((tmp_path / "cache").glob("blobs/*/*"))
    with pytest.raises(PipelineError, match="which fails: wants hal 99"):
        load("noise", device="local")
    assert cli.main(["fetch", "noise", "--device", "avx512-server"]) == 0  # for another machine
    assert cli.main(["inspect", "noise"]) == 0
    assert f"works with IREE's runtime 3.98.0\n    fails with {here}: wants hal 99" in capsys.readouterr().out


def test_a_witness_who_saw_it_right_had_a_runtime_that_works(
    old: tuple[Store, Manifest], capsys: pytest.CaptureFixture[str]
) -> None:
    store, manifest = old
    here = devices.runtime_version()
    _add(store, manifest, _document(manifest, "2026-01-02T00:00:00Z", here, problem="is wrong"))
    assert cli.main(["fetch", "noise", "--device", "local"]) == 0
    assert "untested" in capsys.readouterr().err
    _add(store, manifest, _document(manifest, "2026-01-03T00:00:00Z", here))
    assert cli.main(["fetch", "noise", "--device", "local"]) == 0
    assert "made for" not in capsys.readouterr().err


# What was published before


def test_releases_are_tried_in_runtimes_that_nobody_tried(
    again: Project, found: dict[str, Runtime], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(runtimes.VARIABLE, "3.11.0,3.12.0,3.99.0")
    store = again.layout.store
    documents = set(store.glob("evidence/small/*/*.json"))
    releases_stage.run(str(store), ["small"], tmp_path)
    (added,) = set(store.glob("evidence/small/*/*.json")) - documents
    document = decode(EvidenceDocument, added.read_bytes(), str(added))
    assert [(info.version, info.works) for file in document.files for info in file.runtimes] == [
        ("3.11.0", False),
        ("3.12.0", True),
    ]
    assert document.files[0].runtimes[1].how.startswith("x86-64")
    report = (tmp_path / "report.txt").read_text()
    assert f"works with IREE's runtime 3.12.0, {REQUIRED}\n  fails with 3.11.0: required module 'hal'" in report
    assert "not tried with 3.99.0: it cannot be had: No matching distribution" in report
    releases_stage.run(str(store), ["small"], tmp_path)
    assert len(set(store.glob("evidence/small/*/*.json")) - documents) == 1  # nothing is left to try
    assert again.doit().returncode == 0
    assert (tmp_path / "report.txt").read_text() == report


def test_what_a_new_runtime_breaks_is_to_be_built_again(
    old: tuple[Store, Manifest], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(runtimes.VARIABLE, "none")
    store, manifest = old
    older, newer = RuntimeInfo("3.98.0", False, "wants less"), RuntimeInfo("3.100.0", False, "wants more")
    _add(store, manifest, _document(manifest, "2026-01-02T00:00:00Z", "3.99.0", older))
    releases_stage.run(str(tmp_path / "store"), [], tmp_path / "tried")  # what is older was never promised
    _add(store, manifest, _document(manifest, "2026-01-03T00:00:00Z", "3.99.0", newer))
    for models, hint in {
        ("noise",): "build again with iree-base-compiler 3.100.0: `doit publish:noise`",
        (): "noise: not built in this project",
    }.items():
        with pytest.raises(PipelineError) as raised:
            releases_stage.run(str(tmp_path / "store"), models, tmp_path / "tried")
        assert raised.value.what == f"noise@{manifest.version} (latest) desktop fails with 3.100.0: wants more"
        assert raised.value.hint == hint
    _add(store, manifest, _document(manifest, "2026-01-04T00:00:00Z", "3.99.0", replace(newer, works=True)))
    releases_stage.run(str(tmp_path / "store"), [], tmp_path / "tried")  # by the newest word

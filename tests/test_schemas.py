"""The JSON Schemas of specs: those of the package are made of the reader's own keys, and refuse what the reader refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipeline import cli
from pipeline.check import renew_schemas
from pipeline.errors import ManyProblemsError
from pipeline.spec.keys import BUNDLE, EXECUTABLE, MODEL, SPECS
from pipeline.spec.kinds import Either, Keys, Kind, Listing
from pipeline.spec.load import load
from pipeline.spec.schema import beside, schema, shipped
from tests.project import ROOT
from tests.test_spec import DIMENSIONS, ENTRIES, MISTAKES, OPEN, edit
from tests.test_spec import targets as targets  # the fixture

FOLDERS = {"models": "model", "executables": "executable", "bundles": "bundle"}
SPEC_FILES = [
    *sorted((ROOT / "targets").glob("*/*.yaml")),
    *sorted((ROOT / "tests" / "bench" / "sweep" / "models").glob("*.yaml")),
    *sorted((ROOT / "tests" / "samples").glob("*.yaml")),
]
# Of these mistakes a schema can know nothing: what another key, another file or the disk says, and what YAML is.
UNKNOWABLE = (
    "must be above low",
    "there is no file",
    "does not fit",
    "must be whole numbers",
    "inputs[0].value: must be a whole number",
    "must be true or false",
    "must be a number, or lists of as many",
    "must be a finite number",
    "never runs on a device",
    "stands twice",
    "line",
    "must be above min",
    "min and max must be multiples",
    "that ascend",
    "stand at 'tokens.0' already",
    "has another range elsewhere",
    "shape[0].min: is missing",
    "entries.a.source: is missing",
    "files are for one size",
    "buckets are not for MLIR files",
    "two are the function",
)


def complaints(name: str, document: object) -> list[str]:
    """What the schema says against a document."""
    return [error.message for error in jsonschema.Draft7Validator(json.loads(schema(name))).iter_errors(document)]


def kind_of(path: Path) -> str:
    return FOLDERS.get(path.parent.name, "model")


@pytest.mark.parametrize("name", SPECS)
def test_the_shipped_schemas_are_those_of_the_keys(name: str) -> None:
    assert shipped(name).read_bytes() == schema(name), "python -m pipeline.spec writes them anew"
    jsonschema.Draft7Validator.check_schema(json.loads(schema(name)))


def test_every_spec_fits_and_those_of_the_package_name_their_schema() -> None:
    assert len(SPEC_FILES) > 60
    for path in SPEC_FILES:
        text = path.read_text("utf-8")
        document = yaml.safe_load(text)
        if "sweep" in path.parts and document["source"]["kind"] == "script":
            document["source"].setdefault("sha256", "0" * 64)  # the sweep fills it in
        assert complaints(kind_of(path), document) == [], path
        if path.is_relative_to(ROOT / "targets"):
            named = text.split("\n")[0].removeprefix("# yaml-language-server: $schema=")
            assert (path.parent / named).resolve() == shipped(kind_of(path))


def _knowable(complaint: str) -> bool:
    return not any(said in complaint for said in UNKNOWABLE)


@pytest.mark.parametrize(("file", "old", "new", "complaint"), [case for case in MISTAKES if _knowable(case[-1])])
def test_what_the_reader_refuses_the_schema_refuses(targets: Path, file: str, old: str, new: str, complaint: str) -> None:
    assert complaints(kind_of(targets / file), yaml.safe_load((targets / file).read_text("utf-8"))) == []
    edit(targets / file, old, new)
    assert complaints(kind_of(targets / file), yaml.safe_load((targets / file).read_text("utf-8")))


@pytest.mark.parametrize("new", [new for new, complaint in DIMENSIONS if _knowable(complaint)])
def test_dimensions_that_the_reader_refuses_the_schema_refuses(targets: Path, new: str) -> None:
    edit(targets / "models/attention-f16.yaml", OPEN, f"tokens, shape: [{new}, 128]")
    assert complaints("model", yaml.safe_load((targets / "models/attention-f16.yaml").read_text("utf-8")))


@pytest.mark.parametrize("spec", [spec for spec, complaint in ENTRIES if _knowable(complaint)])
def test_entries_that_the_reader_refuses_the_schema_refuses(spec: str) -> None:
    assert complaints("model", yaml.safe_load(spec))


def test_most_mistakes_can_be_known() -> None:
    every = [case[-1] for case in (*MISTAKES, *DIMENSIONS, *ENTRIES)]
    assert sum(map(_knowable, every)) * 2 >= len(every)


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("policy", {"channels": {"stable": {"slower": 0.1}}}),
        ("policy", {"channels": {"stable": {"evidence": "untested"}}}),
        ("policy", {"channels": {"Stable": {}}}),
        ("policy", {}),
        ("bundle", {"extends": "desktop", "target": ["x86-64"]}),
        ("bundle", {"about": "x"}),
        ("executable", {"about": "x", "backend": "cuda", "device": "sm_80", "twin": {"mma": "[]"}}),
        ("executable", {"about": "x", "backend": "llvm-cpu", "device": "generic", "attribute": {}}),
    ],
)
def test_other_kinds_of_specs_are_refused_by_both(tmp_path: Path, name: str, document: dict[str, Any]) -> None:
    assert complaints(name, document)
    places = {"policy": "policy.yaml", "bundle": "bundles/mine.yaml", "executable": "executables/mine.yaml"}
    path = tmp_path / places[name]
    path.parent.mkdir(exist_ok=True)
    (tmp_path / "models").mkdir()
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(ManyProblemsError):
        load(tmp_path)


def _mappings(kind: Kind) -> list[Keys]:
    if isinstance(kind, Keys):
        keys = [key for _, key in kind.every()] + ([kind.others] if kind.others else [])
        return [kind, *(found for key in keys for found in _mappings(key.kind))]
    inner = kind.kinds if isinstance(kind, Either) else (kind.item,) if isinstance(kind, Listing) else ()
    return [found for one in inner for found in _mappings(one)]


def test_every_key_is_described() -> None:
    for keys in {id(found): found for root in SPECS.values() for found in _mappings(root)}.values():
        for name, key in keys.every():
            assert key.about, name
            assert not key.about.endswith("."), name
            assert not (key.required and key.default is not None), name


def test_the_reader_takes_every_key_that_is_described(tmp_path: Path) -> None:
    """By what it says of documents in which all keys stand, with values of no kind."""
    (tmp_path / "models").mkdir()
    for folder, keys in (("executables", EXECUTABLE), ("bundles", BUNDLE), ("models", MODEL)):
        (tmp_path / folder).mkdir(exist_ok=True)
        named = dict.fromkeys(keys.named.keys() - {"extends", "entries"}, 5)
        special = {"backend": "llvm-cpu", "format": "stablehlo"}
        said = {**named, **{key: value for key, value in special.items() if key in named}}
        (tmp_path / folder / "mine.yaml").write_text(yaml.safe_dump(said))
    with pytest.raises(ManyProblemsError) as caught:
        load(tmp_path)
    assert len(caught.value.problems) > 20
    assert not [problem for problem in caught.value.problems if "is not a key here" in problem]


def doit_check(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "doit", "check"], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def project(targets: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", targets.parent)  # names the command, for checkouts that are not installed
    return targets.parent


def test_doit_check_counts_what_is_good_within_a_second(project: Path) -> None:
    started = time.monotonic()
    done = doit_check(project)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "4 models, 6 bundles, 22 targets, 3 tuned targets: all good\n"
    assert time.monotonic() - started < 10  # 0.6 s on a machine with nothing else to do
    assert not (project / "out").exists()


def test_doit_check_imports_no_compiler(project: Path) -> None:
    code = "import sys; from pipeline.check import summary, TARGETS; summary(TARGETS); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=True)
    assert not {"onnx", "onnxruntime", "iree.compiler", "iree.runtime", "boto3", "jinja2"} & set(done.stdout.split())


def test_doit_check_says_every_mistake(project: Path) -> None:
    edit(project / "targets/models/magika.yaml", "licence:", "license:")
    edit(project / "targets/bundles/desktop.yaml", "vulkan-any", "vulkan-amy")
    (project / "targets/policy.yaml").write_text("channels: {latest: {slower: fast}}\n")
    (project / "targets/tuning/x86-64.json").write_text("{")
    done = doit_check(project)
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert lines[-1] == "5 mistakes"
    assert len(lines) == 6
    for said in (
        "models/magika.yaml: license: is not a key here: did you mean 'licence'?",
        "bundles/desktop.yaml: targets[2]: there is no executable target 'vulkan-amy'",
        "policy.yaml: channels.latest.slower: must be a part such as 10%",
        "tuning/x86-64.json: is no tuning record",
    ):
        assert said in done.stderr


def test_a_new_project_has_the_schemas_that_its_specs_name(tmp_path: Path) -> None:
    assert cli.main(["init", str(tmp_path / "mine")]) == 0
    targets = tmp_path / "mine" / "targets"
    for path in sorted(targets.glob("*/*.yaml")):
        named = path.read_text("utf-8").split("\n")[0].removeprefix("# yaml-language-server: $schema=")
        document = json.loads((path.parent / named).read_text("utf-8"))
        jsonschema.Draft7Validator(document).validate(yaml.safe_load(path.read_text("utf-8")))
    assert all(beside(targets, name).is_file() for name in SPECS)
    assert renew_schemas(targets) == []
    beside(targets, "model").write_text("{}")
    assert renew_schemas(targets) == [beside(targets, "model")]
    assert beside(targets, "model").read_bytes() == schema("model")

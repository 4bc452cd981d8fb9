"""Specs: every file of the project loads, and every mistake is reported with its file, path and remedy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from pipeline.errors import ManyProblemsError
from pipeline.spec.load import load

TARGETS = Path(__file__).parent.parent / "targets"


@pytest.fixture
def targets(tmp_path: Path) -> Path:
    shutil.copytree(TARGETS, tmp_path / "targets")
    shutil.copy(Path(__file__).parent / "bench/sweep/models/magika.yaml", tmp_path / "targets/models")
    return tmp_path / "targets"


def problems(targets: Path) -> str:
    with pytest.raises(ManyProblemsError) as caught:
        load(targets)
    return str(caught.value)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_every_file_of_the_project_loads() -> None:
    spec = load(TARGETS)
    assert list(spec.bundles["desktop"].targets) == [
        "amd-rdna3",
        "nvidia-ampere",
        "vulkan-any",
        "x86-64-v4",
        "x86-64-v3",
        "x86-64",
    ]
    assert set(spec.models) >= {"wake-alexa", "attacut", "attention-f16"}
    assert all(source.sha256 for model in spec.models.values() for source in model.sources)


def test_all_problems_of_all_files_come_together(targets: Path) -> None:
    edit(targets / "models/magika.yaml", "licence:", "license:")
    edit(targets / "bundles/desktop.yaml", "vulkan-any", "vulkan-amy")
    edit(targets / "executables/amd-rdna3.yaml", "subgroup_size == 64", "subgroupsize == 64")
    text = problems(targets)
    assert "models/magika.yaml: license: is not a key here: did you mean 'licence'?" in text
    assert "models/magika.yaml: licence: is missing" in text
    assert "bundles/desktop.yaml: targets[2]: there is no executable target 'vulkan-amy': did you mean 'vulkan-any'?" in text
    assert "executables/amd-rdna3.yaml: gates[0]: IREE's runtime does not answer the query vulkan.device::subgroupsize" in text


MISTAKES = [
    ("models/magika.yaml", "high: 257", "high: -3", "inputs[0].high: must be above low"),
    ("models/magika.yaml", "[1, 2048]", "[1, -1]", "inputs[0].shape[1]: must be a whole number of 1 to 2147483647"),
    ("models/magika.yaml", "int32", "int23", "inputs[0].dtype: 'int23' is unknown: did you mean 'int32'?"),
    ("models/magika.yaml", "int32", "int", "inputs[0].dtype: 'int' is unknown: did you mean 'int32'?"),
    ("models/magika.yaml", "int32", "float", "inputs[0].dtype: 'float' is unknown: did you mean 'float32'?"),
    ("models/magika.yaml", "int32", "f16", "inputs[0].dtype: 'f16' is unknown: did you mean 'float16'?"),
    ("models/magika.yaml", "sha256: fe", "sha256: FE", "source.sha256: must be 64 lower-case hex digits"),
    ("models/magika.yaml", "[desktop]", "[desktop, desktop]", "bundles[1]: 'desktop' stands twice"),
    ("models/magika.yaml", "[desktop]", "[]", "bundles: must not be empty"),
    ("models/magika.yaml", "kind: wheel", "kind: whale", "source.kind: 'whale' is unknown: did you mean 'wheel'?"),
    ("models/magika.yaml", "format: onnx", "format: onnx\nformat: mlir", "the key 'format' stands twice"),
    ("models/magika.yaml", "format: onnx", "format: [", "line"),
    ("models/magika.yaml", "about: Google", "about: 3 #", "about: must be text, not 3"),
    ("models/magika.yaml", "bundles:", "tolerance: {absolute: 1}\nbundles:", "tolerance.relative: is missing"),
    ("models/attention-f16.yaml", "made/attention_f16.py", "made/nothing.py", "source.script: there is no file"),
    ("executables/x86-64.yaml", "backend: llvm-cpu", "backend: llvm-gpu", "'llvm-gpu' is unknown: did you mean 'llvm-cpu'?"),
    ("models/magika.yaml", ", high: 257", "", "inputs[0].high: is missing"),
    ("models/magika.yaml", "int32, high: 257", "uint8, high: 257", "the range [0, 257) does not fit into uint8"),
    ("models/magika.yaml", "high: 257", "high: 25.7", "must be whole numbers"),
    ("models/magika.yaml", "high: 257", "high: .nan", "must be a finite number"),
    ("models/magika.yaml", "bundles:", "tolerance: {absolute: -1, relative: 0}\nbundles:", "absolute: must not be negative"),
    ("executables/x86-64.yaml", "device:", "gates: [vulkan.device::subgroup_size == 8]\ndevice:", "never runs on a device"),
    ("executables/vulkan-any.yaml", "compute:", "computer:", "attribute.computer: is not a parameter that can be set"),
    ("models/magika.yaml", "high: 257", "value: 2.5", "inputs[0].value: must be a whole number, or lists of them, for int32"),
    ("models/magika.yaml", "high: 257", "value: many", "inputs[0].value: must be a whole number"),
    ("models/magika.yaml", "high: 257", "value: true", "inputs[0].value: must be a whole number"),
    ("models/magika.yaml", "high: 257", "value: ~", "inputs[0].value: must be a whole number"),
    ("models/magika.yaml", "high: 257", "value: 3000000000", "inputs[0].value: does not fit into int32"),
    ("models/magika.yaml", "high: 257", "value: [[1, 2], [3]]", "value: must be a number, or lists of as many numbers each"),
    ("models/magika.yaml", "high: 257", "value: [1, 2]", "inputs[0].value: has the shape [2], which does not fit [1, 2048]"),
    (
        "models/magika.yaml",
        "high: 257",
        "high: 257, value: 3",
        "inputs[0].high: is for test data, which an input with a value",
    ),
    ("models/magika.yaml", "int32, high: 257", "bool, value: 1", "inputs[0].value: must be true or false, or lists of them"),
    ("models/magika.yaml", "int32, high: 257", "float16, value: 70000", "inputs[0].value: does not fit into float16"),
    ("bundles/desktop.yaml", "targets:", "on_failure: ignore\ntargets:", "on_failure: 'ignore' is unknown"),
]


@pytest.mark.parametrize(("file", "old", "new", "complaint"), MISTAKES)
def test_a_mistake_names_its_place_and_remedy(targets: Path, file: str, old: str, new: str, complaint: str) -> None:
    edit(targets / file, old, new)
    assert complaint in problems(targets)


def test_a_tab_is_named(targets: Path) -> None:
    edit(targets / "models/magika.yaml", "format: onnx", "format:\n\tonnx")
    assert ": YAML is indented with spaces, write them instead of the tab" in problems(targets)


OPEN = "tokens, shape: [{name: T, min: 1, max: 128}, 128]"


DIMENSIONS = [
    ("{name: T, min: 1}", "inputs[0].shape[0].max: is missing"),
    ("{name: T, min: 0, max: 9}", "inputs[0].shape[0].min: must be 1 or more"),
    ("{name: T, min: 9, max: 9}", "inputs[0].shape[0].max: must be above min, which is 9: give a fixed size as a number"),
    ("{name: T, min: 9, max: 3}", "inputs[0].shape[0].max: must be above min, which is 9: the smallest size is min, the largest"),
    ("{name: T, min: 3, max: 9, multiple: 2}", "inputs[0].shape[0].multiple: min and max must be multiples of 2"),
    ("{name: T, min: 1, max: 9, mutliple: 2}", "inputs[0].shape[0].mutliple: is not a key here: did you mean 'multiple'?"),
    ("{name: 3, min: 1, max: 9}", "inputs[0].shape[0].name: must be text, not 3"),
    ("{name: 3d, min: 1, max: 9}", "inputs[0].shape[0].name: '3d' cannot name a dimension"),
    ("{name: T}", "inputs[0].shape[0].min: is missing"),
    ("T", "inputs[0].shape[0]: must be a whole number of 1 to 2147483647, not 'T': one that is open is {min: 1, max: 512}"),
    ("{name: T, buckets: [64, 32]}", "inputs[0].shape[0].buckets: must be whole numbers of 1 to 2147483647 that ascend"),
    (f"{{min: 1, max: {2**70}}}", "inputs[0].shape[0].max: must be at most 2147483647"),
    (f"{{name: T, buckets: [{2**31}]}}", "inputs[0].shape[0].buckets: must be whole numbers of 1 to 2147483647"),
    ("{name: T, buckets: []}", "inputs[0].shape[0].buckets: must not be empty"),
    ("{buckets: [1, 2]}, {buckets: [3, 4]}", "inputs[0].shape[1].buckets: stand at 'tokens.0' already"),
    ("{name: T, min: 1, max: 9}, {name: T, min: 2, max: 9}", "inputs[0].shape[1].name: 'T' has another range elsewhere"),
]


@pytest.mark.parametrize(("new", "complaint"), DIMENSIONS)
def test_a_dimension_that_cannot_be_open_so_is_named(targets: Path, new: str, complaint: str) -> None:
    edit(targets / "models/attention-f16.yaml", OPEN, f"tokens, shape: [{new}, 128]")
    assert complaint in problems(targets)


def entry(**more: object) -> dict[str, object]:
    source = {"kind": "script", "script": "made/attention_f16.py", "sha256": "0" * 64}
    return {"source": source, "inputs": [{"name": "x", "shape": [{"name": "T", "buckets": [4, 8]}], "dtype": "float32"}], **more}


def spec_of(**more: object) -> str:
    said = {"about": "a", "licence": "l", "format": "onnx", "bundles": ["desktop"], **more}
    return yaml.safe_dump(said)


def test_entries_and_buckets_are_functions(targets: Path) -> None:
    (targets / "models/many.yaml").write_text(spec_of(entries={"a": entry(), "b": entry(constant=["y"])}))
    entries = load(targets).models["many"].entries
    assert [(e.name, e.function) for e in entries] == [("a", "a_4"), ("a", "a_8"), ("b", "b_4"), ("b", "b_8")]
    assert [(d.min, d.max) for e in entries[:2] for d in e.dimensions] == [(4, 4), (8, 8)]
    assert [e.constant for e in entries] == [(), (), ("y",), ("y",)]


def test_dimensions_without_a_name_are_each_their_own(targets: Path) -> None:
    names = ["a.b", "a_b", "é", "ü", "3", "_3"]
    inputs = [{"name": name, "shape": [{"min": 1, "max": 9}], "dtype": "float32"} for name in names]
    (targets / "models/many.yaml").write_text(spec_of(entries={"a": entry(inputs=inputs)}))
    found = [d.name for d in load(targets).models["many"].entries[0].dimensions]
    assert found[0] == "a_b.0"
    assert len(set(found)) == len(names)


ENTRIES = [
    (spec_of(entries={}), "entries: must not be empty"),
    (spec_of(entries={"a-b": entry()}), "entries: 'a-b' cannot name an entry point"),
    (spec_of(entries={"a": 3}), "entries.a: must be a mapping"),
    (spec_of(entries={"a": entry(bundles=["desktop"])}), "entries.a.bundles: is not a key here"),
    (spec_of(entries={"a": entry()}, inputs=[]), "inputs: stands in each of `entries`: move it there"),
    (spec_of(entries={"a": entry(), "a_4": entry(inputs=[])}), "entries.a_4.inputs: must not be empty"),
    (spec_of(entries={"a": entry(source=None)}), "entries.a.source: is missing"),
    (spec_of(entries={"a": entry(reference=["y.npy"])}), "reference: files are for one size"),
    (spec_of(entries={"a": entry()}, parameters="external", format="mlir"), "parameters: is for ONNX and TFLite files"),
    (spec_of(entries={"a": entry()}, parameters="outside"), "parameters: 'outside' is unknown"),
    (spec_of(entries={"a": entry()}, format="mlir"), "buckets are not for MLIR files"),
    (spec_of(entries={n: entry(function="f") for n in "ab"}, format="mlir"), "two are the function 'f' of one file"),
    (spec_of(entries={"a": entry(source="https://me:secret@host/x?t=secret")}), "must be a mapping, not 'https://host/x'"),
    (spec_of(entries={"a": entry(source={"kind": "s3", "url": "https://me:secret@host/x"})}), "not 'https://host/x'"),
    (spec_of(entries={"a": entry(source={"kind": "path", "path": "x" * 300, "sha256": "0" * 64})}), "there is no file"),
    (spec_of(entries={"a": entry(tolerance={"absolute": 10**400, "relative": 0})}), "absolute: must be a finite number"),
]


@pytest.mark.parametrize(("spec", "complaint"), ENTRIES)
def test_a_mistake_in_entries_is_named(targets: Path, spec: str, complaint: str) -> None:
    (targets / "models/many.yaml").write_text(spec)
    assert complaint in problems(targets)


def test_a_file_that_would_be_passed_over_is_reported(targets: Path) -> None:
    (targets / "models/other.yml").write_text("about: x\n")
    assert "rename it to other.yaml" in problems(targets)


def test_a_folder_that_is_missing_is_reported(tmp_path: Path) -> None:
    assert "models: there is no such folder" in problems(tmp_path)

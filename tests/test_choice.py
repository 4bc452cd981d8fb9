"""Files that run a variant which their device would not choose: copies that differ in a few bytes, made without a compiler."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline import platforms
from pipeline.consume import render
from pipeline.consume.inspect import inspect
from pipeline.errors import PipelineError
from pipeline.files import sha256_file
from pipeline.iree import compiler, devices, mlir
from pipeline.iree.device import Device
from pipeline.iree.devices.session import FACTS
from pipeline.iree.file import choice, vmfb
from pipeline.iree.gates import CHOICE, Gate, decide, select
from pipeline.iree.linking import link
from tests.project import DATA, ROOT
from tests.test_compile import DESKTOP, build, executables, inputs, on, outputs, present, small  # noqa: F401  # fixtures

Small = tuple[Path, compiler.Compiled]
Inputs = tuple[Path, np.ndarray]
CPUS = ("x86-64-v3", "x86-64")


def module_of(small: Small) -> Path:  # noqa: F811
    return small[0] / "module.vmfb"


def edited(source: Path, target: Path, old: bytes, new: bytes) -> Path:
    """A copy with bytes replaced by as many others, wherever they are."""
    data = source.read_bytes()
    assert old in data
    assert len(old) == len(new)
    target.write_bytes(data.replace(old, new))
    return target


def test_the_file_itself_lets_the_gates_choose(small: Small) -> None:  # noqa: F811
    module = vmfb.read(module_of(small))
    assert choice.read(module_of(small), module) == choice.BY_GATES
    assert module_of(small).read_bytes().count(choice.MAGIC) == 1


@pytest.mark.parametrize("driver", ["local-task", "local-sync"])
def test_every_cpu_level_runs_without_being_chosen(
    small: Small,  # noqa: F811
    inputs: Inputs,  # noqa: F811
    present: list[Device],  # noqa: F811
    tmp_path: Path,
    driver: str,
) -> None:
    device = replace(on(present, "local-task"), uri=driver)
    chosen = select(small[1].variants, device.facts)
    ran = []
    for index, decision in enumerate(decide(small[1].variants, device.facts)):
        if decision.accepted:
            choice.force(module_of(small), index, tmp_path / "forced.vmfb")
            run = devices.run(tmp_path / "forced.vmfb", device, "small", [inputs[0]], tmp_path, decision.variant)
            assert (run.error, run.selected) == ("", index)
            np.testing.assert_allclose(outputs(tmp_path, decision.variant), inputs[1], rtol=1e-4)
            ran.append(decision.variant)
    assert {chosen, "x86-64"} <= {*ran}


def test_the_forced_code_is_what_runs_and_no_other_is_touched(
    small: Small,  # noqa: F811
    inputs: Inputs,  # noqa: F811
    present: list[Device],  # noqa: F811
    tmp_path: Path,
) -> None:
    """Not even that which is loaded before gates are evaluated: a device may lack all but one variant's code."""
    device, everyone = on(present, "local-task"), {p.segment for pieces in small[1].code.values() for p in pieces}
    for variant in (d.variant for d in decide(small[1].variants, device.facts) if d.accepted):
        mine = {p.segment for p in small[1].code[variant]}
        for name, victims, works in (("others", everyone - mine, True), ("own", mine, False)):
            path = tmp_path / f"{name}.vmfb"
            choice.force(module_of(small), DESKTOP.index(variant), path)
            with path.open("rb+") as file:
                for segment in victims:
                    file.seek(segment.offset)
                    file.write(bytes(segment.length))
            run = devices.run(path, device, "small", [inputs[0]], tmp_path, name)
            assert bool(run.error) is not works, (variant, name)


def test_a_gpu_runs_what_it_accepts_and_would_not_choose(
    inputs: Inputs,  # noqa: F811
    present: list[Device],  # noqa: F811
    tmp_path: Path,
) -> None:
    """And refuses a CPU's code, whose gates and queries are not asked."""
    tuned, any_, cpu = executables("vulkan-32", "vulkan-any", "x86-64-v3")
    # Code of the first computes across no subgroup, so it is right on any device.
    tuned = replace(tuned, gates=(Gate("vulkan.device", "subgroup_size", ">=", (1,)),))
    made = build(DATA / "small.mlir", tmp_path, [tuned, any_, cpu])
    device = on(present, "vulkan")
    assert [d.accepted for d in decide(made.variants, device.facts)] == [True, True, False]
    for index, complaint in enumerate(("", "", "NOT_FOUND")):
        choice.force(tmp_path / "module.vmfb", index, tmp_path / "forced.vmfb")
        run = devices.run(tmp_path / "forced.vmfb", device, "small", [inputs[0]], tmp_path, f"run-{index}")
        assert complaint in run.error
        if not complaint:
            assert (run.error, run.selected) == ("", index)
            np.testing.assert_allclose(outputs(tmp_path, f"run-{index}"), inputs[1], rtol=1e-4)


def test_nothing_but_the_constant_differs(small: Small, tmp_path: Path) -> None:  # noqa: F811
    source, before = module_of(small), sha256_file(module_of(small))
    module, whole = vmfb.read(source), source.read_bytes()
    at = whole.index(choice.MAGIC)
    for index in range(len(DESKTOP)):
        choice.force(source, index, tmp_path / "forced.vmfb")
        copy, data = vmfb.read(tmp_path / "forced.vmfb"), (tmp_path / "forced.vmfb").read_bytes()
        assert copy.segments == module.segments  # with their digests
        assert data == whole[:at] + choice.encode(index) + whole[at + len(choice.encode()) :]
        assert choice.read(tmp_path / "forced.vmfb", copy) == index
        with zipfile.ZipFile(tmp_path / "forced.vmfb") as archive:
            assert archive.testzip() is None
    assert sha256_file(source) == before
    assert [path.name for path in tmp_path.iterdir()] == ["forced.vmfb"]


def test_a_copy_says_what_it_is(small: Small, tmp_path: Path) -> None:  # noqa: F811
    choice.force(module_of(small), 2, tmp_path / "forced.vmfb")
    for path, variant in ((module_of(small), ""), (tmp_path / "forced.vmfb", DESKTOP[2])):
        contents = inspect(path)
        assert contents.forced == variant
        assert json.loads(render.contents_json(contents))["forced"] == (variant or None)
        text = "\n".join(render.contents_lines(contents))
        assert (f"a copy that runs {variant} wherever it loads" in text) is bool(variant)
        assert choice.MAGIC.decode() not in text
        assert re.search(r"constants +0 B", text)


def test_a_copy_of_a_copy_runs_another(small: Small, tmp_path: Path) -> None:  # noqa: F811
    choice.force(module_of(small), 2, tmp_path / "first.vmfb")
    choice.force(tmp_path / "first.vmfb", 1, tmp_path / "first.vmfb")
    choice.force(module_of(small), 1, tmp_path / "second.vmfb")
    assert (tmp_path / "first.vmfb").read_bytes() == (tmp_path / "second.vmfb").read_bytes()


def test_a_private_file_has_private_copies(small: Small, tmp_path: Path) -> None:  # noqa: F811
    shutil.copy(module_of(small), tmp_path / "private.vmfb")
    (tmp_path / "private.vmfb").chmod(0o600)
    choice.force(tmp_path / "private.vmfb", 0, tmp_path / "forced.vmfb")
    assert (tmp_path / "forced.vmfb").stat().st_mode & 0o777 == 0o600


# Files that were fetched in part, or are large


def sparse(source: Path, path: Path, kept: Sequence[tuple[int, int]], size: int) -> None:
    """Of `source` only stretches [offset, end], in a file of `size` bytes; the rest are holes."""
    data = source.read_bytes()
    with path.open("wb") as file:
        file.truncate(size)
        for start, end in kept:
            file.seek(start)
            file.write(data[start:end])


@pytest.mark.parametrize("told", [True, False], ids=["holes", "no-holes-told"])
def test_holes_stay_holes(
    small: Small,  # noqa: F811
    inputs: Inputs,  # noqa: F811
    present: list[Device],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    told: bool,
) -> None:
    """Also in a file of some GB without a ZIP directory; and where the system does not tell its holes."""
    if not told:
        monkeypatch.setattr(platforms, "data_ranges", lambda descriptor: [(0, os.fstat(descriptor).st_size)])
    device, head = on(present, "local-task"), min(s.offset for s in small[1].module.segments)
    index = DESKTOP.index("x86-64")
    code = [(p.segment.offset, p.segment.offset + p.segment.length) for p in small[1].code["x86-64"]]
    size = (5 << 30) if told else (64 << 20)
    sparse(module_of(small), tmp_path / "sparse.vmfb", [(0, head), *code], size)
    choice.force(tmp_path / "sparse.vmfb", index, tmp_path / "forced.vmfb")
    found = (tmp_path / "forced.vmfb").stat()
    assert found.st_size == size
    assert found.st_blocks * 512 <= (tmp_path / "sparse.vmfb").stat().st_blocks * 512 + (0 if told else 128 << 10)
    run = devices.run(tmp_path / "forced.vmfb", device, "small", [inputs[0]], tmp_path, "run")
    assert (run.error, run.selected) == ("", index)


# Files that cannot be forced


def refusal(path: Path, index: int, folder: Path) -> str:
    """What is said of it. Nothing is left, whole or half."""
    folder.mkdir(exist_ok=True)
    with pytest.raises(PipelineError) as caught:
        choice.force(path, index, folder / "forced.vmfb")
    assert not [*folder.iterdir()]
    return str(caught.value)


@pytest.mark.parametrize("index", [-1, len(DESKTOP), 1 << 40])
def test_a_variant_that_is_not_there_is_refused(small: Small, tmp_path: Path, index: int) -> None:  # noqa: F811
    said = refusal(module_of(small), index, tmp_path / "out")
    assert f"has {len(DESKTOP)} variants, counted from 0, and no number {index}" in said


def test_files_of_older_releases_and_of_others_are_refused(small: Small, tmp_path: Path) -> None:  # noqa: F811
    older = edited(module_of(small), tmp_path / "older.vmfb", CHOICE.encode() + b"\0", b"vmfb.chance\0")
    assert len(inspect(older).variants) == len(DESKTOP)
    assert "made by an older release of this pipeline: its variants cannot be forced" in refusal(older, 0, tmp_path / "out")
    assert "it is no file of this pipeline" in refusal(FACTS, 0, tmp_path / "out")
    (tmp_path / "text").write_text("not a vmfb")
    assert "is no vmfb" in refusal(tmp_path / "text", 0, tmp_path / "out")
    assert "No such file" in refusal(tmp_path / "none", 0, tmp_path / "out")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (choice.MAGIC, b"vmfb.chance:", "what should say which variant runs does not"),
        (choice.encode(), choice.encode()[:-1] + b"x", "what should say which variant runs does not"),
        (choice.MAGIC, bytes(len(choice.MAGIC)), "what should say which variant runs does not"),
        (b"\x14\0\0\0" + choice.MAGIC, b"\x13\0\0\0" + choice.MAGIC, "does not say which variant runs"),
        (b"\x14\0\0\0" + choice.MAGIC, b"\xff\xff\xff\xff" + choice.MAGIC, "is no vmfb, or damaged"),
    ],
)
def test_a_damaged_choice_is_an_error(small: Small, tmp_path: Path, old: bytes, new: bytes, said: str) -> None:  # noqa: F811
    damaged = edited(module_of(small), tmp_path / "damaged.vmfb", old, new)
    assert said in refusal(damaged, 0, tmp_path / "out")
    with pytest.raises(PipelineError, match=said):
        inspect(damaged)


@pytest.mark.parametrize("index", [len(DESKTOP), -2, 1 << 30])
def test_a_file_that_says_it_runs_what_it_does_not_hold_is_damaged(small: Small, tmp_path: Path, index: int) -> None:  # noqa: F811
    damaged = edited(module_of(small), tmp_path / "damaged.vmfb", choice.encode(), choice.encode(index))
    with pytest.raises(PipelineError, match=f"no variant number {index}, which it says it runs"):
        inspect(damaged)


def test_the_place_that_the_file_names_is_not_taken_on_trust(small: Small, tmp_path: Path) -> None:  # noqa: F811
    """Strings, code, and numbers of no segment: whatever it names, nothing but the constant is ever written to."""
    module = vmfb.read(module_of(small))
    (number,) = (e.attributes[CHOICE] for e in module.exports if CHOICE in e.attributes)
    field = CHOICE.encode() + b"\0"
    data = module_of(small).read_bytes()
    at = data.index(struct.pack("<I", len(number)) + number.encode() + b"\0")
    places = {str(s.number) for s in (*module.inline, *module.segments)} - {number}
    assert field in data
    for named in [*places, "x", "-"]:
        if len(named) == len(number):
            changed = bytearray(data)
            changed[at + 4 : at + 4 + len(number)] = named.encode()
            (tmp_path / "other.vmfb").write_bytes(changed)
            assert f"segment {named} does not say which variant runs" in refusal(tmp_path / "other.vmfb", 0, tmp_path / "out")


def test_a_model_may_hold_the_same_bytes(present: list[Device], tmp_path: Path) -> None:  # noqa: F811
    """As a constant that the file has in its head too: it stays as it is."""
    data = choice.encode() * 32
    vector = f"tensor<{len(data)}xi8>"
    (tmp_path / "hostile.mlir").write_text(f"""
        #map = affine_map<(d0) -> (d0)>
        func.func @add(%a: {vector}) -> {vector} {{
          %c = arith.constant dense<"0x{data.hex()}"> : {vector}
          %e = tensor.empty() : {vector}
          %s = linalg.generic {{indexing_maps = [#map, #map, #map], iterator_types = ["parallel"]}}
            ins(%a, %c : {vector}, {vector}) outs(%e : {vector}) {{
            ^bb0(%x: i8, %y: i8, %z: i8): %r = arith.addi %x, %y : i8 linalg.yield %r : i8 }} -> {vector}
          return %s : {vector}
        }}""")
    build(tmp_path / "hostile.mlir", tmp_path, executables(*CPUS))
    source, device = tmp_path / "module.vmfb", on(present, "local-task")
    assert source.read_bytes().count(choice.encode()) == 33
    np.savez(tmp_path / "inputs.npz", **{"0": np.zeros(len(data), np.int8)})
    for index in range(len(CPUS)):
        choice.force(source, index, tmp_path / "forced.vmfb")
        assert (tmp_path / "forced.vmfb").read_bytes().count(choice.encode()) == 32
        run = devices.run(tmp_path / "forced.vmfb", device, "add", [tmp_path / "inputs.npz"], tmp_path, f"run-{index}")
        assert (run.error, run.selected) == ("", index)
        assert outputs(tmp_path, f"run-{index}").tobytes() == data


@pytest.mark.parametrize("merged", [True, False])
def test_a_constant_that_the_compiler_merged_or_dropped_is_an_error(merged: bool) -> None:
    held = ", ".join(str(byte - 256 if byte > 127 else byte) for byte in choice.encode())
    rodata = f"vm.rodata private @vmfb_choice dense<[{held}]> : vector<{len(choice.encode())}xi8>"
    uses = "%a = vm.const.ref.rodata @vmfb_choice : !vm.buffer\n%b = vm.const.ref.rodata @vmfb_choice : !vm.buffer"
    text = f"vm.module @m {{ {rodata if merged else ''}\nvm.func @f() {{ {uses if merged else ''}\nvm.return }} }}"
    with mlir.parsed(text.encode()) as module, pytest.raises(PipelineError, match="did not keep the constant"):
        link._find_choice(module)


# Without what this machine has


def test_no_compiler_nor_numpy_is_needed(small: Small, tmp_path: Path) -> None:  # noqa: F811
    program = """if True:
        import sys
        from pathlib import Path
        from pipeline.iree.file import choice
        choice.force(Path(sys.argv[1]), 5, Path(sys.argv[2]))
        assert not {"numpy", "jinja2", "iree", "iree.compiler", "iree.runtime"} & {*sys.modules}"""
    subprocess.run([sys.executable, "-c", program, module_of(small), tmp_path / "forced.vmfb"], check=True, cwd=ROOT)
    assert choice.read(tmp_path / "forced.vmfb", vmfb.read(tmp_path / "forced.vmfb")) == 5

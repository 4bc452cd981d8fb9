"""Tuning: what a record changes and what it does not, which lowerings are thrown away, and `doit tune` itself."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from iree.compiler import ir

from pipeline.cache import Cache, LocalCache
from pipeline.consume.evidence import Testimony
from pipeline.consume.render import manifest_lines
from pipeline.errors import ManyProblemsError, PipelineError
from pipeline.iree import backends, compiler, mlir, tuning
from pipeline.iree.backends.cpu import corrections
from pipeline.iree.codegen import lowerings
from pipeline.iree.codegen.front import front_half
from pipeline.iree.codegen.generation import configure, generate
from pipeline.iree.codegen.pieces import Batch, Code, Dispatches
from pipeline.iree.device import Device
from pipeline.iree.devices import ways
from pipeline.iree.spaces import Space
from pipeline.iree.targets import Target, resolve
from pipeline.iree.tuning import Change, Lowering, Tuned
from pipeline.manifest.codec import decode
from pipeline.manifest.types import MANIFEST_SCHEMA, TUNED_SCHEMA, Manifest, TuningInfo
from pipeline.progress import table
from pipeline.spec.load import load
from pipeline.tuner import calls, rounds
from pipeline.tuner.calls import Buffer, Call, Region
from pipeline.tuner.deadline import Deadline
from pipeline.tuner.kernels import Kernel
from pipeline.tuner.makers import Here, Makers
from pipeline.tuner.search import Search
from pipeline.tuner.trials import Trials
from tests.project import DATA, Project
from tests.test_compile import executables, on, present  # noqa: F401  # a fixture

SHAPES = {"small": [(64, 128), (128, 64)]}
SOON = Deadline(math.inf)
OTHER = """
func.func @other(%x: tensor<?x96xf32>) -> tensor<?xf32> {
  %zero = arith.constant 0.0 : f32
  %c0 = arith.constant 0 : index
  %n = tensor.dim %x, %c0 : tensor<?x96xf32>
  %e = tensor.empty(%n) : tensor<?xf32>
  %f = linalg.fill ins(%zero : f32) outs(%e : tensor<?xf32>) -> tensor<?xf32>
  %s = linalg.reduce ins(%x : tensor<?x96xf32>) outs(%f : tensor<?xf32>) dimensions = [1]
    (%in: f32, %sum: f32) { %a = arith.addf %in, %sum : f32 linalg.yield %a : f32 }
  return %s : tensor<?xf32>
}
"""


class Kernels:
    """The kernels of a model at `source` for a target: dispatches, batches of one, calls."""

    def __init__(self, source: Path, folder: Path, target: Target, shapes: dict[str, Any]) -> None:
        sources = front_half(source, folder, [target], (), LocalCache(folder / "cache", 1 << 30)).sources
        self.target = target
        with mlir.opened(sources) as module:
            mlir.strip_locations(module)
            self.calls = calls.find(module, shapes)
            dispatches = Dispatches(module, [target], ())
            self.pieces = {dispatch: piece for (dispatch, _), piece in dispatches.pieces.items()}
            self.batches = {dispatch: dispatches.batch([piece]) for dispatch, piece in self.pieces.items()}

    def of(self, word: str) -> str:
        """The dispatch of which the kernel's name has this word."""
        (found,) = [d for d, batch in self.batches.items() if word in next(iter(batch.names.values()))]
        return found

    def trials(self, dispatch: str) -> Trials:
        return Trials(self.batches[dispatch], self.target, self.calls[dispatch])


def space_of(batch: Batch, target: Target, folder: Path) -> Space:
    with mlir.opened(configure(batch, folder, 60)) as module:
        (executable,) = mlir.operations(module, "hal.executable")
        found = backends.named(target.backend).space(lowerings.places(executable), target.attribute, 4, 0.0)
    assert found
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    return Kernels(DATA / "small.mlir", tmp_path_factory.mktemp("small"), resolve(*executables("x86-64")), SHAPES)


@pytest.fixture(scope="module")
def product(small: Kernels, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Space]:
    """The dispatch of the small model's matrix product, and the ways to lower it."""
    dispatch = small.of("matmul")
    return dispatch, space_of(small.batches[dispatch], small.target, tmp_path_factory.mktemp("space"))


@pytest.fixture(scope="module")
def other_tiles(product: tuple[str, Space]) -> Lowering:
    """A lowering of the product that is not the compiler's own."""
    found = product[1].lower({"v0": 2, "v1": 16})
    assert found
    return found


def entry(kernel: str, changes: Lowering, **others: Any) -> Tuned:
    known = {"name": "k", "operations": "linalg.matmul", "rounds": 1, "device": "CPU", "compiler": "3.13.0"}
    return Tuned(kernel=kernel, changes=changes, **{**known, "before_ms": 2.0, "after_ms": 1.0, **others})


def tuned(target: Any, *entries: Tuned) -> Any:
    return replace(target, tuning={one.kernel: one for one in entries})


def made(batch: Batch, folder: Path) -> Code:
    (data,) = generate(batch, folder).values()
    return Code.decode(data)


def test_a_record_changes_the_key_of_its_kernel_and_of_no_other(small: Kernels, other_tiles: Lowering, tmp_path: Path) -> None:
    dispatch = small.of("matmul")
    kernel = tuning.kernel_of(small.pieces[dispatch].symbol)
    with_it = Kernels(DATA / "small.mlir", tmp_path, tuned(small.target, entry(kernel, other_tiles)), SHAPES)
    keys = {name: (small.pieces[name].key, with_it.pieces[name].key) for name in small.pieces}
    assert {name for name, (before, after) in keys.items() if before != after} == {dispatch}
    assert with_it.batches[dispatch].lowerings == {small.pieces[dispatch].symbol: other_tiles}
    others = Kernels(DATA / "small.mlir", tmp_path, tuned(small.target, entry("kernel_" + "0" * 32, other_tiles)), SHAPES)
    assert {p.key for p in others.pieces.values()} == {p.key for p in small.pieces.values()}


def test_what_is_recorded_is_generated(small: Kernels, other_tiles: Lowering, tmp_path: Path) -> None:
    batch = small.batches[small.of("matmul")]
    (symbol,) = batch.keys
    plain = made(batch, tmp_path / "plain")
    code = made(replace(batch, lowerings={symbol: other_tiles}), tmp_path / "tuned")
    assert (plain.tuning, code.tuning) == ("", lowerings.USED)
    assert code.data != plain.data
    assert b"tuning" not in plain.encode().partition(b"\n")[0]  # it is kept as it was before there were records


def test_the_pipeline_s_own_choice_of_tiles_is_not_made_of_what_is_tuned(
    small: Kernels, other_tiles: Lowering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def correct(variant: ir.Operation, _size: int) -> None:
        asked.append(mlir.symbol(variant.parent))

    monkeypatch.setattr(corrections, "correct_configurations", correct)
    batch = small.batches[small.of("matmul")]
    (symbol,) = batch.keys
    for number, changes in enumerate(((), other_tiles, (replace(other_tiles[0], index=99),))):
        made(replace(batch, lowerings={symbol: changes} if changes else {}), tmp_path / str(number))
    assert asked == [symbol, symbol]  # of the untuned one, and of the one whose entry is stale


def test_a_stale_entry_is_passed_over(small: Kernels, other_tiles: Lowering, tmp_path: Path) -> None:
    batch = small.batches[small.of("matmul")]
    (symbol,) = batch.keys
    plain = made(batch, tmp_path / "plain")
    stale = (*other_tiles[:-1], replace(other_tiles[-1], before="#iree_cpu.lowering_config<distribution = [1]>"))
    for number, changes in enumerate((stale, (replace(other_tiles[0], index=99),), (replace(other_tiles[0], after="#no"),))):
        code = made(replace(batch, lowerings={symbol: changes}), tmp_path / str(number))
        assert code == replace(plain, tuning=lowerings.STALE, seconds=code.seconds)


def test_what_the_compiler_refuses_as_it_is_tuned_is_generated_as_it_is_without(
    small: Kernels, other_tiles: Lowering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PIPELINE_KERNEL_TIMEOUT", "20")
    kernel = tuning.kernel_of(small.pieces[small.of("matmul")].symbol)
    absurd = tuple(
        replace(c, after=c.before.replace("[", "[4096, 4096, 4096, ")) for c in other_tiles if "lowering" in c.attribute
    )
    target = tuned(small.target, entry(kernel, absurd))
    cache = Cache(LocalCache(tmp_path / "cache", 1 << 30))
    folder = tmp_path / "out"
    folder.mkdir()
    with caplog.at_level(logging.WARNING):
        found = compiler.compile_module(DATA / "small.mlir", folder, [target], {"x86-64": ()}, cache=cache)
    assert found.tuned == {"x86-64": None}
    (line,) = [message for message in caplog.messages if "tuning record" in message]
    assert line.startswith("x86-64: 1 entry of its tuning record")


def test_the_file_says_which_entries_it_has(small: Kernels, other_tiles: Lowering, tmp_path: Path) -> None:
    project = Project(tmp_path, "small", bundle={"targets": ["x86-64"]})
    found = entry(tuning.kernel_of(small.pieces[small.of("matmul")].symbol), other_tiles)
    record = project.targets / "tuning" / "x86-64.json"
    tuning.save(record, {found.kernel: found})
    result = project.doit("package:small")
    assert result.returncode == 0, result.stdout + result.stderr
    path = project.layout.package("small") / "manifest.json"
    first = decode(Manifest, path.read_bytes(), str(path))
    (variant,), notes = first.artifacts[0].variants, first.artifacts[0].notes
    assert (first.schema, variant.tuning, notes) == (TUNED_SCHEMA, (TuningInfo(1, 2, tuning.digest([found])),), ())
    assert manifest_lines(first, Testimony(()))[-1] == "    x86-64: 1 of 2 kernels tuned"
    assert "x86-64: 1 of 2 kernels tuned" in [row[-1] for row in table("small", project.layout.verified("small", "desktop"))]
    # What is said of other kernels changes nothing that was made.
    compiled, verified = project.layout.compiled("small", "desktop"), project.layout.verified("small", "desktop")
    kept = [compiled / "module.vmfb", compiled / "compiled.json", verified / "evidence.json"]
    stamps = [one.stat().st_mtime_ns for one in kept]
    tuning.save(record, {found.kernel: found, "kernel_" + "0" * 32: replace(found, kernel="kernel_" + "0" * 32)})
    result = project.doit("package:small")
    assert result.returncode == 0, result.stdout + result.stderr
    assert [one.stat().st_mtime_ns for one in kept] == stamps
    assert decode(Manifest, path.read_bytes(), str(path)) == first
    record.unlink()
    assert project.doit("package:small").returncode == 0
    plain = decode(Manifest, path.read_bytes(), str(path))
    assert (plain.schema, plain.artifacts[0].variants[0].tuning) == (MANIFEST_SCHEMA, ())
    assert b"tuning" not in path.read_bytes()  # programs that know only schema 4 read it
    assert plain.version != first.version


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is no tuning record, or damaged"),
        ('{"schema": 2}', "has schema 2, this program reads 1"),
        ('{"schema": 1, "target": "x86-64-v3", "kernels": []}', "named for another"),
        ('{"schema": 1, "target": "x86-64", "kernels": [{}]}', "lacks"),
        ('{"schema": 1, "target": "x86-64", "kernels": 3}', "is no tuning record, or damaged"),
        ("[" * 100000, "is no tuning record, or damaged"),
    ],
)
def test_a_damaged_record_is_one_problem(tmp_path: Path, text: str, told: str) -> None:
    project = Project(tmp_path)
    path = project.targets / "tuning" / "x86-64.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    with pytest.raises(ManyProblemsError) as caught:
        load(project.targets)
    (problem,) = caught.value.problems
    assert problem.startswith(str(path))
    assert told in problem


def test_a_record_of_no_target_is_a_problem(tmp_path: Path) -> None:
    project = Project(tmp_path)
    tuning.save(project.targets / "tuning" / "x86-64-v33.json", {})
    with pytest.raises(ManyProblemsError, match="no executable target 'x86-64-v33'"):
        load(project.targets)


def test_records_are_read_as_they_were_written_and_updated(tmp_path: Path) -> None:
    change = (Change(1, "linalg.matmul", "lowering_config", "a", "b"),)
    slow, fast = (entry("kernel_" + "a" * 32, change, after_ms=ms) for ms in (1.5, 1.0))
    second = entry("kernel_" + "b" * 32, change)
    record = tuning.updated({slow.kernel: slow}, [fast, second], [])
    assert record == {fast.kernel: fast, second.kernel: second}
    assert tuning.updated({fast.kernel: fast}, [slow], []) == {fast.kernel: slow}  # it was compared with the other one
    assert tuning.updated(record, [], [fast.kernel]) == {second.kernel: second}
    path = tmp_path / "x86-64.json"
    tuning.save(path, record)
    assert tuning.read(path) == record
    assert tuning.digest([fast, second]) == tuning.digest([second, replace(fast, before_ms=9.0)])
    assert tuning.digest([fast]) != tuning.digest([replace(fast, changes=(replace(change[0], after="c"),))])
    assert tuning.read(tmp_path / "none.json") == {}


def test_every_guess_is_in_the_space_and_parses(product: tuple[str, Space]) -> None:
    _, space = product
    assert space.guesses
    with ir.Context():
        for values in space.guesses:
            assert all(values[name] in choices for name, choices in space.knobs.items())
            for change in space.lower(values) or ():
                ir.Attribute.parse(change.after)
    assert space.lower({}) == ()  # the compiler's own choice


def test_a_cpu_with_twice_the_registers_is_tried_with_larger_tiles(small: Kernels, tmp_path: Path) -> None:
    rows = {}
    for name in ("x86-64-v3", "x86-64-v4"):
        target = resolve(*executables(name))
        kernels = Kernels(DATA / "small.mlir", tmp_path, target, SHAPES)
        space = space_of(kernels.batches[small.of("matmul")], target, tmp_path / name)
        lanes = 8 if name == "x86-64-v3" else 16
        rows[name] = max(-(-one["v1"] // lanes) * one["v0"] for one in space.guesses[::2][:4])
    assert rows["x86-64-v3"] <= 16 < rows["x86-64-v4"] <= 32


def test_how_a_model_calls_its_kernels_follows_from_the_shapes(tmp_path: Path) -> None:
    source = tmp_path / "other.mlir"
    source.write_text(OTHER)
    kernels = Kernels(source, tmp_path, resolve(*executables("x86-64")), {"other": [(7, 96)]})
    (call,) = kernels.calls.values()
    assert call.workload == (7,)
    assert 7 in call.constants
    assert [(buffer.length, buffer.written) for buffer in call.buffers] == [(7 * 96 * 4, False), (7 * 4, True)]
    assert call.buffers[0].regions == (Region(0, "f32"),)


def local(found: list[Device]) -> list[Device]:
    return ways.of(on(found, "local-task"))[:2]


def test_a_kernel_is_run_and_measured_and_wrong_numbers_are_seen(
    small: Kernels,
    other_tiles: Lowering,
    present: list[Device],  # noqa: F811
    tmp_path: Path,
) -> None:
    trials = small.trials(small.of("matmul"))
    plain, right = trials.generate([(), other_tiles], tmp_path, Here(2), SOON)
    assert plain
    assert right
    text = tmp_path / "wrong.mlir"
    text.write_text((DATA / "small.mlir").read_text().replace("%zero = arith.constant 0.0", "%zero = arith.constant 0.001"))
    others = Kernels(text, tmp_path, small.target, SHAPES)
    (wrong,) = others.trials(others.of("matmul")).generate([()], tmp_path / "wrong", Here(1), SOON)
    assert wrong
    module = trials.module([plain, right, wrong], tmp_path)
    for found in rounds.measure(module, trials.call, 3, local(present), tmp_path, 3):
        assert [one.wrong != "" for one in found] == [False, False, True]
        assert "f32 differ by 0.001" in found[2].wrong
        assert found[0].ratio == 1
        assert found[1].seconds > 0


def test_a_lowering_whose_numbers_are_wrong_is_thrown_away_and_told(
    small: Kernels,
    product: tuple[str, Space],
    present: list[Device],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The compiler makes another kernel, a faster one, of everything that is tried."""
    text = tmp_path / "wrong.mlir"
    text.write_text((DATA / "small.mlir").read_text().replace("64x128xf32", "64x8xf32").replace("128x64xf32", "8x64xf32"))
    others = Kernels(text, tmp_path, small.target, {"small": [(64, 8), (8, 64)]})
    (fast,) = others.trials(others.of("matmul")).generate([()], tmp_path / "fast", Here(1), SOON)
    dispatch, space = product
    true = Trials.generate

    def generate(self: Trials, asked: Sequence[Lowering], folder: Path, makers: Makers, until: Deadline) -> list[Code | None]:
        own = true(self, [()], folder, makers, until)[0] if () in asked else None
        return [fast if changes else own for changes in asked]

    monkeypatch.setattr(Trials, "generate", generate)
    kernel = Kernel("kernel_" + "0" * 32, "matmul", ("linalg.matmul",), small.trials(dispatch), space, 1e-5, 1)
    outcome = Search(kernel, local(present), tmp_path / "search", Here(2)).run(SOON)
    assert outcome.changes == ()
    assert len(outcome.wrong) == outcome.tried > 0


def test_rounding_is_no_difference_and_other_numbers_are() -> None:
    rng = np.random.default_rng(0)
    buffer = Buffer(4096 + 64, True, (Region(0, "f32"), Region(4096, "i32")))
    data = rounds.fill(buffer, rng, -1.0)
    assert data.dtype == np.uint8
    assert len(data) == buffer.length
    floats = data[:4096].view(np.float32)
    assert -1 <= floats.min() < 0 < floats.max() <= 1
    rounded, wrong, infinite, other = (data.copy() for _ in range(4))
    rounded[:4096].view(np.float32)[:] *= np.float32(1 + 1e-6)
    wrong[:4096].view(np.float32)[5] += 1e-3
    infinite[:4096].view(np.float32)[5] = math.nan
    other[4096] += 1
    assert rounds.difference(buffer, data, rounded) == ""
    assert "f32 differ" in rounds.difference(buffer, data, wrong)
    assert "finite" in rounds.difference(buffer, data, infinite)
    assert "i32 differ" in rounds.difference(buffer, data, other)


def test_a_target_that_nothing_here_runs_is_told(tmp_path: Path) -> None:
    project = Project(tmp_path, "small", bundle={"targets": ["aarch64"], "on_failure": "drop"})
    result = project.doit("tune", "model=small", "target=aarch64", "budget=5")
    assert result.returncode != 0
    assert "aarch64: no device here runs it" in result.stdout + result.stderr
    result = project.doit("tune", "model=small", "target=x86-65", "budget=5")
    assert "target=x86-65: small is not built for it" in result.stdout + result.stderr


SPEC = """
module @spec attributes {iree_codegen.tuning_spec_with_default_entrypoint, transform.with_named_sequence} {
  transform.named_sequence @apply_op_config(%op: !transform.any_op {transform.readonly},
                                            %config: !transform.any_param {transform.readonly}) {
    transform.annotate %op "compilation_info" = %config : !transform.any_op, !transform.any_param
    transform.yield
  }
  transform.named_sequence @match(%op: !transform.any_op {transform.readonly}) -> (!transform.any_op, !transform.any_param) {
    transform.match.operation_name %op ["linalg.matmul"] : !transform.any_op
    %config = transform.param.constant #iree_codegen.compilation_info<
      lowering_config = #iree_cpu.lowering_config<distribution = [32, 16, 0], vector_common_parallel = [2, 16, 0],
        vector_reduction = [0, 0, 4]>,
      translation_info = #iree_codegen.translation_info<pipeline = #iree_cpu.pipeline<DoubleTilingExpert>>>
      -> !transform.any_param
    transform.yield %op, %config : !transform.any_op, !transform.any_param
  }
  transform.named_sequence @__kernel_config(%variant: !transform.any_op {transform.consumed}) -> !transform.any_op
      attributes {iree_codegen.tuning_spec_entrypoint} {
    %done = transform.foreach_match in %variant @match -> @apply_op_config : (!transform.any_op) -> !transform.any_op
    transform.yield %done : !transform.any_op
  }
}
"""


def test_a_tuning_spec_of_irees_is_obeyed_and_part_of_the_key(small: Kernels, tmp_path: Path) -> None:
    project = Project(tmp_path)
    path = project.targets / "executables" / "x86-64.yaml"
    (path.parent / "spec.mlir").write_text(SPEC)
    path.write_text(path.read_text() + "tuning_spec: spec.mlir\n")
    kernels = Kernels(DATA / "small.mlir", tmp_path, resolve(load(project.targets).executables["x86-64"]), SHAPES)
    dispatch = small.of("matmul")
    assert kernels.pieces[dispatch].key != small.pieces[dispatch].key
    with mlir.opened(configure(kernels.batches[dispatch], tmp_path, 60)) as module:
        assert "distribution = [32, 16, 0]" in str(module)


def test_a_tuning_spec_that_is_not_there_or_not_obeyed_is_a_problem(tmp_path: Path) -> None:
    project = Project(tmp_path)
    for name in ("x86-64", "vulkan-any"):
        path = project.targets / "executables" / f"{name}.yaml"
        path.write_text(path.read_text() + "tuning_spec: spec.mlir\n")
    with pytest.raises(ManyProblemsError) as caught:
        load(project.targets)
    first, second = sorted(caught.value.problems)
    assert "vulkan-any.yaml: tuning_spec: IREE obeys one for llvm-cpu targets only" in first
    assert "x86-64.yaml: tuning_spec: spec.mlir cannot be read: No such file" in second


@pytest.mark.thorough
def test_doit_tune_searches_and_says_what_it_found(tmp_path: Path) -> None:
    project = Project(tmp_path, "small", bundle={"targets": ["x86-64"]})
    result = project.doit("tune", "model=small", "target=x86-64", "budget=40")
    assert result.returncode == 0, result.stdout + result.stderr
    report = (project.layout.tuned("small") / "report.txt").read_text()
    assert "small for x86-64 on CPU" in report
    record = project.targets / "tuning" / "x86-64.json"
    kept = " into " in report
    assert kept == record.exists()
    assert kept or "nothing faster was found" in report or "the record stays as it was" in report
    if kept:
        assert json.loads(record.read_text())["kernels"]
    result = project.doit("verify")
    assert result.returncode == 0, result.stdout + result.stderr


def test_what_ends_the_process_is_told(present: list[Device], tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(PipelineError, match="running it was"):
        rounds.measure(tmp_path / "none.vmfb", Call((), (), ()), 1, local(present), tmp_path, 1)

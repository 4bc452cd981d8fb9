"""Code generated piece by piece: the same as all at once, whatever came from a cache; keyed by what makes it, and no more."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
from iree.compiler import passmanager
from onnx import TensorProto, helper, numpy_helper

from pipeline import process
from pipeline.cache import Cache, LocalCache
from pipeline.errors import PipelineError
from pipeline.importers import onnx as importer
from pipeline.iree import backends, compiler, devices, mlir, toolchain
from pipeline.iree.backends.base import Corrections
from pipeline.iree.backends.cpu import elf, objects
from pipeline.iree.codegen import front
from pipeline.iree.codegen.batches import plan
from pipeline.iree.codegen.generation import generate, patience
from pipeline.iree.codegen.host import assemble
from pipeline.iree.codegen.pieces import Code, Dispatches
from pipeline.iree.compiler import Counts
from pipeline.iree.device import Device
from pipeline.iree.linking import link
from pipeline.iree.mlir import ir, operations, symbol
from pipeline.iree.targets import Target, device, resolve
from pipeline.iree.toolchain import CODEGEN_FLAGS, LINK_FLAGS, CompilerCrashedError, CompilerRefusedError, iree_compile
from pipeline.spec.types import Input
from tests.project import DATA, ROOT
from tests.test_compile import DESKTOP, executables, inputs, on, outputs, present  # noqa: F401  # fixtures

SMALL = DATA / "small.mlir"


def cache_at(folder: Path, limit: int = 1 << 30) -> Cache:
    return Cache(LocalCache(folder, limit))


def build(source: Path, folder: Path, names: Sequence[str], cache: Cache, flags: Sequence[str] = ()) -> Counts:
    folder.mkdir(parents=True, exist_ok=True)
    targets = executables(*names)
    compiler.compile_module(source, folder, [resolve(t) for t in targets], {t.name: t.gates for t in targets}, flags, cache)
    return Counts(**json.loads((folder / "pieces.json").read_text()))


def entries(cache: Cache) -> list[Path]:
    return sorted(cache.local.folder.glob("??/*"))


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Cache]:
    """The small model compiled for all targets with an empty cache."""
    folder = tmp_path_factory.mktemp("cold")
    cache = cache_at(folder / "cache")
    counts = build(SMALL, folder, DESKTOP, cache)
    assert (counts.local, counts.shared, counts.generated) == (0, 0, 12)
    return folder / "module.vmfb", cache


@pytest.mark.parametrize("seed", range(3))
def test_any_mix_of_hits_gives_the_same_bytes(cold: tuple[Path, Cache], tmp_path: Path, seed: int) -> None:
    module, full = cold
    cache = cache_at(tmp_path / "cache")
    kept = random.Random(seed).sample(entries(full), 7)
    for path in kept:
        cache.local.put(path.name, full.local.get(path.name) or b"")
    counts = build(SMALL, tmp_path, DESKTOP, cache)
    assert counts.local in (4, 5, 6, 7)  # three may be the front half and what is known of the convolutions
    assert counts.local + counts.generated == counts.total == 12
    assert (tmp_path / "module.vmfb").read_bytes() == module.read_bytes()


def test_with_everything_in_the_cache_nothing_is_generated(cold: tuple[Path, Cache], tmp_path: Path) -> None:
    module, cache = cold
    counts = build(SMALL, tmp_path, DESKTOP, cache)
    assert (counts.local, counts.generated) == (12, 0)
    assert counts.seconds_saved > 0
    assert (tmp_path / "module.vmfb").read_bytes() == module.read_bytes()


def test_thin_and_fat_share_the_front_half_and_all_pieces(cold: tuple[Path, Cache], tmp_path: Path) -> None:
    before = entries(cold[1])
    for name in DESKTOP:
        if name == "x86-64" or not name.startswith("x86-64"):
            assert build(SMALL, tmp_path / name, [name], cold[1]).generated == 0
    assert entries(cold[1]) == before


def test_damaged_entries_are_made_again(cold: tuple[Path, Cache], tmp_path: Path) -> None:
    module, full = cold
    cache = cache_at(tmp_path / "cache")
    for number, path in enumerate(entries(full)):
        cache.local.put(path.name, full.local.get(path.name) or b"")
        data = bytearray((copy := cache.local.folder / path.name[:2] / path.name).read_bytes())
        if number % 3 == 0:
            data[len(data) // 2] ^= 1
        elif number % 3 == 1:
            del data[len(data) // 2 :]
        else:
            data.clear()
        copy.write_bytes(data)
    assert build(SMALL, tmp_path, DESKTOP, cache).generated == 12
    assert (tmp_path / "module.vmfb").read_bytes() == module.read_bytes()
    assert build(SMALL, tmp_path / "again", DESKTOP, cache).local == 12


TEXT = """func.func @NAME(%ROW: tensor<8x64xf32>) -> tensor<8x32xf32> {
  %w = arith.constant dense<"WEIGHTS"> : tensor<64x32xf32>
  %z = arith.constant dense<BIAS> : tensor<8x32xf32>
  %r = linalg.matmul ins(%ROW, %w : tensor<8x64xf32>, tensor<64x32xf32>) outs(%z : tensor<8x32xf32>) -> tensor<8x32xf32>
  %s = math.tanh %r : tensor<8x32xf32>
  return %s : tensor<8x32xf32>
}"""


def variation(path: Path, name: str, weights: float, bias: float) -> Path:
    data = np.linspace(0, weights, 64 * 32, dtype=np.float32).tobytes().hex()
    path.parent.mkdir(parents=True, exist_ok=True)
    text = TEXT.replace("NAME", name).replace("ROW", f"row_of_{name}").replace("WEIGHTS", f"0x{data}")
    path.write_text("\n" * len(name) + text.replace("BIAS", str(bias)))
    return path


def test_keys_know_what_makes_the_code_and_nothing_else(tmp_path: Path) -> None:
    cache, target = cache_at(tmp_path / "cache"), ["vulkan-any", "x86-64"]
    first = build(variation(tmp_path / "a.mlir", "first", 1.0, 0.0), tmp_path / "1", target, cache)
    assert first.generated == first.total > 0
    # Another path, other names and places, other weights: the same code.
    assert build(variation(tmp_path / "other" / "b.mlir", "another", 1.0, 0.0), tmp_path / "2", target, cache).generated == 0
    assert build(variation(tmp_path / "c.mlir", "first", 2.0, 0.0), tmp_path / "3", target, cache).generated == 0
    # A constant that is folded into a kernel, a flag: other code.
    assert build(variation(tmp_path / "d.mlir", "first", 1.0, 0.5), tmp_path / "4", target, cache).generated > 0
    flags = ["--iree-llvmcpu-loop-unrolling"]
    assert build(variation(tmp_path / "a.mlir", "first", 1.0, 0.0), tmp_path / "5", target, cache, flags).generated > 0


RESOURCE = """module { func.func @f(%a: tensor<4x8xf32>) -> tensor<4x8xf32> {
  %w = arith.constant dense_resource<w> : tensor<8xf32>
  %e = tensor.empty() : tensor<4x8xf32>
  %r = linalg.generic {
    indexing_maps = [affine_map<(i, j) -> (i, j)>, affine_map<(i, j) -> (j)>, affine_map<(i, j) -> (i, j)>],
    iterator_types = ["parallel", "parallel"]
  } ins(%a, %w : tensor<4x8xf32>, tensor<8xf32>) outs(%e : tensor<4x8xf32>) {
  ^bb0(%x: f32, %y: f32, %o: f32):
    %s = arith.addf %x, %y : f32
    linalg.yield %s : f32
  } -> tensor<4x8xf32>
  return %r : tensor<4x8xf32>
} }
{-# dialect_resources: { builtin: { w: "0x04000000BYTES" } } #-}"""


def test_constants_that_are_only_named_in_a_kernel_count(tmp_path: Path, present: list[Device]) -> None:  # noqa: F811
    cache = cache_at(tmp_path / "cache")
    counts = []
    np.savez(tmp_path / "zeros.npz", **{"0": np.zeros((4, 8), np.float32)})
    for number in (1, 2, 1):
        data = np.arange(number, number + 8, dtype=np.float32)
        (tmp_path / "model.mlir").write_text(RESOURCE.replace("BYTES", data.tobytes().hex()))
        counts.append(build(tmp_path / "model.mlir", tmp_path / "out", ["x86-64"], cache))
        run = devices.run(tmp_path / "out/module.vmfb", on(present, "local-task"), "f", [tmp_path / "zeros.npz"], tmp_path, "run")
        assert not run.error
        np.testing.assert_array_equal(outputs(tmp_path, "run"), [data] * 4)
    assert [(c.local, c.generated) for c in counts] == [(0, 1), (0, 1), (1, 0)]


def test_flags_that_change_the_front_half_for_a_target_are_heeded(tmp_path: Path) -> None:
    cache = cache_at(tmp_path / "cache")
    build(SMALL, tmp_path / "plain", ["x86-64"], cache)
    build(SMALL, tmp_path / "tiled", ["x86-64"], cache, ["--iree-opt-data-tiling"])
    plain, tiled = ((tmp_path / name / "module.vmfb").read_bytes() for name in ("plain", "tiled"))
    assert plain != tiled


def installed_at(folder: Path) -> None:
    """Make `folder` an environment with the compiler: its programs as files, since they look for their linker beside them."""
    package = toolchain.tool("iree-opt").parent.parent
    shutil.copytree(package, folder / "iree/compiler", copy_function=os.symlink)
    for program in ("iree-compile", "iree-opt", "iree-lld"):
        (folder / "iree/compiler/_mlir_libs" / program).unlink()
        shutil.copy(package / "_mlir_libs" / program, folder / "iree/compiler/_mlir_libs")


ELSEWHERE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from pipeline.iree import toolchain
assert str(toolchain.tool("iree-compile")).startswith(sys.argv[1])
from tests.test_pieces import DESKTOP, SMALL, build, cache_at
build(SMALL, Path(sys.argv[2]), DESKTOP, cache_at(Path(sys.argv[2]) / "cache"))
"""


def test_the_environment_the_project_and_temporary_files_may_be_anywhere(cold: tuple[Path, Cache], tmp_path: Path) -> None:
    module, cache = cold
    odd = tmp_path / """it's $HOME's "wörk": (a) & b; *"""
    installed_at(odd / "environment")
    (odd / "temporary").mkdir()
    subprocess.run(
        [sys.executable, "-c", ELSEWHERE, odd / "environment", odd / "project"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(odd / "temporary")},
        check=True,
    )
    assert (odd / "project/module.vmfb").read_bytes() == module.read_bytes()
    assert {path.name for path in entries(cache_at(odd / "project/cache"))} == {path.name for path in entries(cache)}
    assert not list((odd / "temporary").iterdir())


@pytest.fixture(scope="module")
def taken_apart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Target]]:
    folder = tmp_path_factory.mktemp("apart")
    targets = [resolve(e) for e in executables(*DESKTOP)]
    return front.front_half(SMALL, folder, targets, (), LocalCache(folder / "cache", 1 << 30)).sources, targets


def test_the_front_half_knows_nodes_and_makes_the_same_without_them(tmp_path: Path) -> None:
    """Names of nodes are in no piece, and in nothing that the host's part is made of."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"], "product"), helper.make_node("Softmax", ["p"], ["y"], "weights")]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, (7, 16))
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, (7, 9))
    weights = numpy_helper.from_array(np.random.default_rng(1).random((16, 9), np.float32), "w")
    model = helper.make_model(
        helper.make_graph(nodes, "g", [given], [result], [weights]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(model, tmp_path / "m.onnx")
    importer.convert(tmp_path / "m.onnx", tmp_path, [Input("x", (7, 16), "float32", 0, -1.0, 1.0, None)])
    with mlir.opened(tmp_path / "model.mlirbc") as module:
        mlir.strip_locations(module)
        mlir.save(module, tmp_path / "plain.mlirbc")
    found, made = [], []
    for source in ("model.mlirbc", "plain.mlirbc"):
        found.append(front.front_half(tmp_path / source, tmp_path, [], (), LocalCache(tmp_path / "cache", 1 << 30)))
        with mlir.opened(found[-1].sources) as module:
            mlir.strip_locations(module)
            made.append(mlir.to_bytes(module))
    named, plain = found
    assert {node: list(names) for kernel in named.nodes.values() for node, names in kernel.items()} == {
        "product": ["onnx.MatMul"],
        "weights": ["onnx.Softmax"],
    }
    assert [list(nodes) for nodes in named.called_for.values()] == [["product"], ["weights"]]
    assert set(named.nodes) == set(plain.nodes) == set(named.called_for)
    assert not any(plain.nodes.values())
    assert made[0] == made[1]
    again = front.front_half(tmp_path / "model.mlirbc", tmp_path, [], (), LocalCache(tmp_path / "cache", 1 << 30))
    assert (again.nodes, again.called_for) == (named.nodes, named.called_for)  # from the cache


@pytest.mark.thorough
def test_pieces_are_the_same_alone_and_together(taken_apart: tuple[Path, list[Target]], tmp_path: Path) -> None:
    sources, targets = taken_apart
    with mlir.opened(sources) as module:
        dispatches = Dispatches(module, targets, ())
        together = plan(dispatches, list(dispatches.pieces.values()), 1)
        alone = [dispatches.batch([piece]) for piece in dispatches.pieces.values()]
    made = [
        {key: data for n, batch in enumerate(batches) for key, data in generate(batch, tmp_path / f"{name}{n}").items()}
        for name, batches in (("together", together), ("alone", alone))
    ]
    codes = [{key: asdict(Code.decode(data)) | {"seconds": 0} for key, data in some.items()} for some in made]
    assert len(codes[0]) == 12
    assert codes[0] == codes[1]


def kernel_of_constants(name: str, first: int, second: int) -> str:
    """Two of the constants that other kernels have too, in some order, a number that is in a pool, and conversions, which call
    functions on x86-64."""
    half, words = 0.5 + first, [f"dense<{[float(n + one) for n in range(48)]}> : tensor<48xf32>" for one in (first, second)]
    return f"""
  %{name}a = arith.constant {words[0]}
  %{name}b = arith.constant {words[1]}
  %{name}h = arith.constant {half} : f32
  %{name}e = tensor.empty() : tensor<48x48xf32>
  %{name} = linalg.generic {{indexing_maps = [affine_map<(i, j) -> (i)>, affine_map<(i, j) -> (j)>, affine_map<(i, j) -> (i, j)>,
      affine_map<(i, j) -> (i, j)>], iterator_types = ["parallel", "parallel"]}} ins(%{name}a, %{name}b, %x : tensor<48xf32>,
      tensor<48xf32>, tensor<48x48xf32>) outs(%{name}e : tensor<48x48xf32>) {{
    ^bb0(%a: f32, %b: f32, %c: f32, %d: f32):
      %p = arith.mulf %a, %c : f32
      %q = arith.addf %p, %b : f32
      %r = arith.mulf %q, %{name}h : f32
      %s = arith.truncf %r : f32 to f16
      %t = arith.extf %s : f16 to f32
      linalg.yield %t : f32
  }} -> tensor<48x48xf32>"""


def kernel_of(name: str, computed: str) -> str:
    """A kernel that makes %r of %a, an element of %x, and of where it is."""
    map_ = "affine_map<(i, j) -> (i, j)>"
    return f"""
  %{name}t = arith.constant dense<[1.0, 2.0, 4.0, 8.0]> : tensor<4xf32>
  %{name}3 = arith.constant 3 : index
  %{name}e = tensor.empty() : tensor<48x48xf32>
  %{name} = linalg.generic {{indexing_maps = [{map_}, {map_}], iterator_types = ["parallel", "parallel"]}}
      ins(%x : tensor<48x48xf32>) outs(%{name}e : tensor<48x48xf32>) {{
    ^bb0(%a: f32, %d: f32):
      %i = linalg.index 1 : index
{computed}
      linalg.yield %r : f32
  }} -> tensor<48x48xf32>"""


# Whole numbers by place, of which AVX-512 has a vector in a constant that no pool is for; a table, which pools of small constants
# get; and numbers in such pools.
OTHERS = {
    "iota": "%j = arith.index_cast %i : index to i32\n%f = arith.sitofp %j : i32 to f32\n%r = arith.addf %a, %f : f32",
    "back": "%j = arith.index_cast %i : index to i32\n%c = arith.constant 77 : i32\n%g = arith.subi %c, %j : i32\n"
    "%f = arith.sitofp %g : i32 to f32\n%r = arith.mulf %a, %f : f32",
    "look": "%g = arith.andi %i, %look3 : index\n%t = tensor.extract %lookt[%g] : tensor<4xf32>\n%r = arith.addf %a, %t : f32",
    "plain": "%b = math.absf %a : f32\n%c = arith.constant 0.3 : f32\n%r = arith.mulf %b, %c : f32",
}


@pytest.mark.parametrize("name", ["x86-64", "x86-64-v3", "x86-64-v4", "aarch64"])
def test_constants_that_kernels_share_do_not_tell_what_they_were_compiled_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(
        toolchain, "iree_compile", lambda source, *more: called.append(source.stem) or iree_compile(source, *more)
    )
    called: list[str] = []
    kernels = {"k": (0, 1), "l": (1, 0), "m": (1, 2), "n": (2, 0)}
    text = "".join(kernel_of_constants(called, *constants) for called, constants in kernels.items())
    text += "".join(kernel_of(called, computed) for called, computed in OTHERS.items())
    type_ = "tensor<48x48xf32>"
    results = ", ".join(f"%{called}" for called in (*kernels, *OTHERS))
    source = (
        f"func.func @main(%x: {type_}) -> ({', '.join([type_] * 8)}) {{{text}\n  return {results} : {', '.join([type_] * 8)}\n}}"
    )
    (given := tmp_path / "given.mlir").write_text(source)
    (target,) = map(resolve, executables(name))
    front_ = front.front_half(given, tmp_path, [target], (), LocalCache(tmp_path / "cache", 1 << 30))
    made = []
    with mlir.opened(front_.sources) as module:
        dispatches = Dispatches(module, [target], ())
        pieces = list(dispatches.pieces.values())
        assert len(pieces) == 8
        for batches in ([pieces], [pieces[2:], pieces[1::-1]], [[piece] for piece in pieces]):
            some = {}
            for number, batch in enumerate(batches):
                some |= generate(dispatches.batch(batch), tmp_path / f"{len(made)}-{number}")
            made.append({key: Code.decode(data).data for key, data in some.items()})
    assert made[0] == made[1] == made[2]
    assert "lean" in called
    assert ("finished" in called) == (name == "x86-64-v4")


@pytest.fixture(scope="module")
def object_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The object file of two kernels, one of which calls fmodf."""
    folder, kept = tmp_path_factory.mktemp("object"), []
    (source := folder / "calls.mlir").write_text(CALLS)
    with pytest.MonkeyPatch.context() as patch:
        apart = objects.apart
        patch.setattr(objects, "apart", lambda data: kept.append(data) or apart(data))
        build(source, folder, ["x86-64-v3"], cache_at(folder / "cache"))
    (data,) = kept
    return data


def test_an_object_file_is_taken_apart_or_refused(object_file: bytes, tmp_path: Path) -> None:
    made = objects.apart(object_file)
    assert len(made) == 2
    linked = toolchain.link(made, tmp_path / "log")
    assert len(linked) == 1  # the other calls what is in the C library
    assert backends.named("llvm-cpu").recognize(next(iter(linked.values()))) == "embedded-elf-x86_64"
    chance = random.Random(1)
    damaged = [b"", b"\x7fELF", bytes(500), *(object_file[: chance.randrange(len(object_file))] for _ in range(100))]
    for at in chance.choices(range(len(object_file)), k=300):
        damaged.append(object_file[:at] + bytes([chance.randrange(256)]) + object_file[at + 1 :])
    for one in damaged:
        with suppress(objects.NotTakenApartError):
            objects.apart(one)


def whole(module: ir.Module, targets: list[Target]) -> Dispatches:
    """Give the module's dispatches all variants, not yet generated, named as their pieces are."""
    dispatches = Dispatches(module, targets, ())
    kernels = {}
    for piece in dispatches.pieces.values():
        batch = ir.Module.parse(dispatches.batch([piece]).source)
        (variant,) = operations(batch, "hal.executable.variant")
        kernels[piece.key] = Code(variant.get_asm(use_local_scope=True, large_elements_limit=None), "", "", 0, b"")
    assemble(module, targets, dispatches.pieces, kernels, joined=False)
    for executable in operations(module, "hal.executable"):
        old, new = symbol(executable), dispatches.pieces[symbol(executable), targets[0].name].symbol
        ir.SymbolTable.replace_all_symbol_uses(old, new, module.operation)
        executable.attributes["sym_name"] = ir.StringAttr.get(new)
    passmanager.PassManager.parse("builtin.module(strip-debuginfo)").run(module.operation)
    return dispatches


def host(module: ir.Module, names: dict[str, str]) -> str:
    """The module without its code, with `names` replaced where they name a dispatch and not its function."""
    text = "\n".join(str(o) for o in module.body.operations if o.operation.name != "hal.executable")
    for name, dispatch in names.items():
        text = re.sub(rf"(?<!::)@{name}\b(?=::)|(?<=_){name}\b|`{name}`", lambda m, n=name, d=dispatch: m[0].replace(n, d), text)
    return text


def corrections(variant: ir.Operation) -> Corrections:
    text = str(variant.attributes["target"])
    return next(b for b in backends.every() if text.startswith(f'#hal.executable.target<"{b.name}"')).corrections()


def test_the_split_build_is_what_the_compiler_makes_in_one_go(
    taken_apart: tuple[Path, list[Target]], cold: tuple[Path, Cache], tmp_path: Path
) -> None:
    """Code and host, to the byte: where a new compiler does more than we ask it for, this shows it."""
    sources, targets = taken_apart
    paths = {name: tmp_path / name for name in ("whole", "configured", "corrected", "translated", "finished", "generated")}
    sizes = {t.name: t.subgroup_size for t in targets}
    with mlir.opened(sources) as module:
        dispatches = whole(module, targets)
        for variant in mlir.operations(module, "hal.executable.variant"):
            corrections(variant).correct_sources(variant)
        mlir.save(module, paths["whole"])
        names = {piece.symbol: dispatch for (dispatch, _), piece in dispatches.pieces.items()}
    flags = [
        "--emit-mlir-bytecode",
        *CODEGEN_FLAGS,
        "--compile-from=executable-sources",
        "--compile-to=executable-configurations",
    ]
    iree_compile(paths["whole"], paths["configured"], flags, tmp_path / "log")
    with mlir.opened(paths["configured"]) as module:
        for variant in operations(module, "hal.executable.variant"):
            corrections(variant).correct_configurations(variant, sizes[symbol(variant)])
        mlir.save(module, paths["corrected"])
    flags = ["--emit-mlir-bytecode", *CODEGEN_FLAGS]
    step = ["--compile-from=executable-configurations", "--compile-to=executable-targets"]
    iree_compile(paths["corrected"], paths["translated"], [*flags, *step], tmp_path / "log")
    with mlir.opened(paths["translated"]) as module:
        for variant in operations(module, "hal.executable.variant"):
            corrections(variant).correct_translated(variant)
        mlir.save(module, paths["finished"])
    step = ["--compile-from=executable-targets", "--compile-to=hal"]
    iree_compile(paths["finished"], paths["generated"], [*flags, *step], tmp_path / "log")
    with mlir.opened(paths["generated"]) as module:
        at_once = {(names[code.dispatch], code.variant): code.data for code in link.codes(module)}
        at_once_host = host(module, names)
    formats = {t.name: t.backend for t in targets}
    for name, piece in dispatches.pieces.items():
        wanted = backends.named(formats[name[1]]).trimmed(at_once[name])
        assert Code.decode(cold[1].local.get(piece.key) or b"").data == wanted, name
    generated, *_ = compiler._generate(SMALL, tmp_path, targets, (), cold[1], None, joined=False)
    with mlir.opened(generated) as module:
        assert host(module, {}) == at_once_host


@pytest.mark.parametrize("driver", ["local-task", "vulkan"])
def test_it_computes_what_plainly_compiled_modules_compute(
    cold: tuple[Path, Cache],
    inputs: tuple[Path, np.ndarray],  # noqa: F811
    present: list[Device],  # noqa: F811
    tmp_path: Path,
    driver: str,
) -> None:
    where = on(present, driver)
    run = devices.run(cold[0], where, "small", [inputs[0]], tmp_path, "split")
    assert not run.error
    assert run.selected is not None
    with mlir.opened(SMALL) as module:
        mlir.set_targets(module, device([resolve(*executables(DESKTOP[run.selected]))]))
        mlir.save(module, tmp_path / "plain.mlirbc")
    iree_compile(tmp_path / "plain.mlirbc", tmp_path / "plain.vmfb", LINK_FLAGS, tmp_path / "plain.log")
    assert not devices.run(tmp_path / "plain.vmfb", where, "small", [inputs[0]], tmp_path, "plain").error
    np.testing.assert_allclose(outputs(tmp_path, "split"), outputs(tmp_path, "plain"), rtol=1e-5)
    np.testing.assert_allclose(outputs(tmp_path, "split"), inputs[1], rtol=1e-4)


@pytest.mark.parametrize("problem", [process.TimedOutError("did not end"), CompilerCrashedError("crashed")])
def test_a_kernel_that_the_compiler_does_not_finish_is_named(
    problem: PipelineError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others of its batch are generated. (No kernel takes the compiler for ever on every machine: here one seems to.)"""
    targets = [resolve(*executables("x86-64"))]
    source = tmp_path / "front"
    source.mkdir()
    sources = front.front_half(SMALL, source, targets, (), LocalCache(tmp_path / "cache", 1 << 30)).sources
    with mlir.opened(sources) as module:
        dispatches = Dispatches(module, targets, ())
        pieces_ = list(dispatches.pieces.values())
        batch = dispatches.batch(pieces_)
    bad, good = sorted(batch.names)[0], sorted(batch.names)[1:]
    compiled: list[set[str]] = []
    real = toolchain.iree_compile

    def hesitating(path: Path, output: Path, flags: Sequence[str], log: Path, timeout: float = 0) -> process.Result:
        with mlir.opened(path) as module:
            kernels = {symbol(o) for o in operations(module, "hal.executable")}
        if bad in kernels:
            raise problem
        compiled.append(kernels)
        return real(path, output, flags, log, timeout)

    monkeypatch.setattr(toolchain, "iree_compile", hesitating)
    with pytest.raises(CompilerRefusedError, match=re.escape(batch.names[bad])):
        generate(batch, tmp_path / "batch")
    assert good
    assert set().union(*compiled) <= {*good}


def test_the_patience_with_a_kernel_is_a_number_of_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert patience() == 300
    monkeypatch.setenv("PIPELINE_KERNEL_TIMEOUT", "12")
    assert patience() == 12
    monkeypatch.setenv("PIPELINE_KERNEL_TIMEOUT", "soon")
    with pytest.raises(PipelineError, match="'soon' is no number of seconds"):
        patience()


def test_cpu_code_has_no_more_than_a_loader_reads(tmp_path: Path) -> None:
    flags = ["--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu"]
    toolchain.iree_compile(SMALL, tmp_path / "plain.vmfb", flags, tmp_path / "log")
    data = (tmp_path / "plain.vmfb").read_bytes()
    start = data.index(b"\x7fELF")
    sections, each, count = (int.from_bytes(data[start + at : start + at + n], "little") for at, n in ((40, 8), (58, 2), (60, 2)))
    code = data[start : start + sections + each * count]
    short = elf.trimmed(code)
    assert count
    assert len(short) < len(code) - each * count
    assert short[64:-64] == code[64 : len(short) - 64]
    assert elf.trimmed(short) == short
    for other in (b"", b"\x7fELF", b"\x7fELF\x01\x01" + bytes(100), bytes(200)):
        assert elf.trimmed(other) == other


CALLS = """
func.func @main(%x: tensor<16xf32>, %y: tensor<16xf32>, %m: tensor<16x16xf32>) -> (tensor<16xf32>, tensor<16x16xf32>) {
  %empty = tensor.empty() : tensor<16xf32>
  %calls = linalg.generic {indexing_maps = [affine_map<(i) -> (i)>, affine_map<(i) -> (i)>, affine_map<(i) -> (i)>],
      iterator_types = ["parallel"]} ins(%x, %y : tensor<16xf32>, tensor<16xf32>) outs(%empty : tensor<16xf32>) {
    ^bb0(%a: f32, %b: f32, %c: f32):
      %r = arith.remf %a, %b : f32
      linalg.yield %r : f32
  } -> tensor<16xf32>
  %zero = arith.constant 0.0 : f32
  %square = tensor.empty() : tensor<16x16xf32>
  %zeros = linalg.fill ins(%zero : f32) outs(%square : tensor<16x16xf32>) -> tensor<16x16xf32>
  %product = linalg.matmul ins(%m, %m : tensor<16x16xf32>, tensor<16x16xf32>)
      outs(%zeros : tensor<16x16xf32>) -> tensor<16x16xf32>
  return %calls, %product : tensor<16xf32>, tensor<16x16xf32>
}
"""


@pytest.mark.parametrize("name", ["x86-64", "x86-64-v3", "aarch64", "riscv64"])
def test_a_kernel_without_the_c_library_has_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (source := tmp_path / "calls.mlir").write_text(CALLS)
    steps: list[str] = []

    def compile_(source: Path, *arguments: object) -> process.Result:
        steps.append(source.stem)
        return iree_compile(source, *arguments)

    monkeypatch.setattr(toolchain, "iree_compile", compile_)
    made = {}
    for how in ("lean", "whole"):
        build(source, tmp_path / how, [name], cache_at(tmp_path / how / "cache"))
        made[how] = (tmp_path / how / "module.vmfb").read_bytes()
        # The remainder of floats is a call of fmodf: that kernel is serialized again, with the library.
        assert (steps.count("lean"), steps.count("finished")) == ((1, 1) if how == "lean" else (0, 1))
        steps.clear()
        monkeypatch.setattr(type(backends.named("llvm-cpu")), "lean", lambda *_: "")
    assert made["lean"] == made["whole"]


def test_a_batch_that_cannot_be_taken_apart_is_made_in_parts(
    cold: tuple[Path, Cache], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart, refused = objects.apart, list[int]()

    def alone(data: bytes) -> dict[str, bytes]:
        if len(made := apart(data)) > 1:
            refused.append(len(made))
            raise objects.NotTakenApartError("several")
        return made

    monkeypatch.setattr(objects, "apart", alone)
    build(SMALL, tmp_path, DESKTOP, cache_at(tmp_path / "cache"))
    assert refused
    assert (tmp_path / "module.vmfb").read_bytes() == cold[0].read_bytes()


def test_where_the_lean_way_fails_the_other_is_taken(
    cold: tuple[Path, Cache], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolchain, "_KEEP", "exit 1\n")
    build(SMALL, tmp_path, DESKTOP, cache_at(tmp_path / "cache"))
    assert (tmp_path / "module.vmfb").read_bytes() == cold[0].read_bytes()

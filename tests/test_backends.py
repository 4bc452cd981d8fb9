"""Backends: what there are, that nothing else names one, and what happens to code of one that is not known."""

from __future__ import annotations

from pathlib import Path

import pytest

import pipeline
from pipeline.consume.choose import choices
from pipeline.consume.facts import of_machine
from pipeline.errors import PipelineError
from pipeline.iree import backends, compiler
from pipeline.iree.gates import Facts, Gate, Gated, select
from pipeline.iree.targets import resolve
from pipeline.spec.load import load
from pipeline.spec.types import Executable
from tests.project import ROOT
from tests.test_pieces import SMALL

PACKAGE = Path(pipeline.__file__).parent


def test_nothing_but_its_own_module_names_a_backend() -> None:
    words = {word for b in backends.every() for word in (b.name, *b.formats, f'"{b.driver}"')}
    words |= {f"{category}::" for b in backends.every() for category in b.queries}
    paths = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".j2") and "backends" not in path.parts]
    assert len(paths) > 80
    found = [f"{path.relative_to(PACKAGE)}: {word}" for path in paths for word in sorted(words) if word in path.read_text()]
    assert not found


def test_backends_have_names_formats_drivers_and_words_of_their_own() -> None:
    every = backends.every()
    assert [b.rank for b in every] == sorted({b.rank for b in every})
    for of in (lambda b: [b.name], lambda b: list(b.formats), lambda b: [b.driver], lambda b: list(b.words)):
        said = [word for b in every for word in of(b)]
        assert len(said) == len(set(said))
    assert [b.name for b in every if b.is_cpu] == [every[-1].name]  # asked for last: whatever else there is, it is there
    for backend in every:
        assert backends.named(backend.name) is backend
        assert backends.of_driver(backend.driver) is backend
        assert all(backends.of_format(format_) is backend for format_ in backend.formats)


def test_code_of_a_backend_that_is_not_known_is_passed_over() -> None:
    """A file of a newer release on an older program: no device that it knows takes such code."""
    newer = Gated("npu", "npu-code-fb", (Gate.parse("npu.device::generation >= 7"),))
    known = Gated("x86-64", "embedded-elf-x86_64", ())
    backends.require_known([newer, known], "FILE")
    assert select([newer, known], Facts("CPU", frozenset({"embedded-elf-x86_64"}))) == "x86-64"
    assert "this program does not know" in backends.people("npu-code-fb")


def test_a_query_that_is_not_known_of_a_format_that_is_needs_an_upgrade() -> None:
    newer = Gated("x86-64-v5", "embedded-elf-x86_64", (Gate.parse("hal.cpu::avx2048 == 1"),))
    with pytest.raises(PipelineError, match=r"x86-64-v5 asks devices for hal\.cpu::avx2048.*does not know") as caught:
        backends.require_known([newer], "FILE")
    assert "upgrade" in caught.value.hint


# Compute capabilities as NVIDIA lists them: https://developer.nvidia.com/cuda-gpus.
GPUS = {
    "Tesla T4": ((7, 5), None),
    "A100": ((8, 0), "cuda-sm80"),
    "RTX 3060": ((8, 6), "cuda-sm86"),
    "Jetson Orin": ((8, 7), "cuda-sm86"),
    "RTX 4090": ((8, 9), "cuda-sm89"),
    "H100": ((9, 0), "cuda-sm80"),
    "RTX 5090": ((12, 0), "cuda-sm80"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, compiler.Compiled]:
    """A small program for all targets of the bundle `server`."""
    folder = tmp_path_factory.mktemp("server")
    spec = load(ROOT / "targets")
    targets = [spec.executables[name] for name in spec.bundles["server"].targets]
    made = compiler.compile_module(SMALL, folder, [resolve(t) for t in targets], {t.name: t.gates for t in targets})
    return folder / "module.vmfb", made


@pytest.mark.parametrize("gpu", GPUS)
def test_nvidia_gpus_run_the_newest_code_not_newer_than_they_are(server: tuple[Path, compiler.Compiled], gpu: str) -> None:
    (major, minor), expected = GPUS[gpu]
    answers = {"cuda.device::compute_capability_major": major, "cuda.device::compute_capability_minor": minor}
    assert select(server[1].variants, Facts(gpu, frozenset({"cuda-nvptx-fb"}), answers)) == expected


@pytest.mark.parametrize(("machine", "variant"), [("a100", "cuda-sm80"), ("l4", "cuda-sm89"), ("h100", "cuda-sm80")])
def test_known_servers_run_code_for_their_gpu(server: tuple[Path, compiler.Compiled], machine: str, variant: str) -> None:
    found = choices(server[1].variants, of_machine(f"{machine}-server"))
    assert [choice.variant for choice in found] == [variant, "x86-64-v4"]
    assert "compute capability" in backends.of_device(found[0].device).line(found[0].device)


def test_code_for_cuda_is_ptx_of_its_architecture(server: tuple[Path, compiler.Compiled]) -> None:
    data = server[0].read_bytes()
    for number in (80, 86, 89):
        pieces = server[1].code[f"cuda-sm{number}"]
        assert pieces
        codes = [data[p.segment.offset : p.segment.offset + p.segment.length] for p in pieces]
        assert all(f".target sm_{number}".encode() in code for code in codes)
        assert {backends.recognize(code[: backends.HEAD]) for code in codes} == {"cuda-nvptx-fb"}


def test_a_server_without_a_gpu_runs_its_cpu_code(server: tuple[Path, compiler.Compiled]) -> None:
    variants = server[1].variants
    assert select(variants, Facts("CPU", frozenset({"embedded-elf-x86_64"}))) == "x86-64"
    assert "CUDA" in backends.people(variants[0].format)


@pytest.mark.parametrize("name", ["h100", "sm_90", "gfx1101"])
def test_an_architecture_that_the_compiler_does_not_know_is_refused(name: str, tmp_path: Path) -> None:
    target = Executable("gpu", tmp_path / "gpu.yaml", "", "cuda", name, (), {}, (), None)
    with pytest.raises(PipelineError, match=r"CUDA target|no GPU of this architecture"):
        resolve(target)

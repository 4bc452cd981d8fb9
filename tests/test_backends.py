"""Backends: what there are, that nothing else names one, and what happens to code of one that is not known."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pipeline
from pipeline.consume.choose import choices
from pipeline.consume.facts import of_machine
from pipeline.errors import PipelineError
from pipeline.iree import backends, compiler
from pipeline.iree.device import Device
from pipeline.iree.gates import Facts, Gate, Gated, select
from pipeline.iree.targets import resolve
from pipeline.spec.load import load
from pipeline.spec.types import Executable
from tests.project import ROOT, Project, evidence, manifest
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


@pytest.mark.parametrize(
    ("backend", "device", "complaint"),
    [
        ("cuda", "h100", "Unknown CUDA target"),
        ("cuda", "sm_90", "no GPU of this architecture"),
        ("cuda", "gfx1101", "Unknown CUDA target"),
        ("rocm", "gfx11-generic", "Unknown ROCM target"),
        ("rocm", "gfx1250", "no architecture of ROCm that is known here"),
        ("metal-spirv", "macos", "no query tells the size of a Metal device's subgroups"),
    ],
)
def test_a_device_for_which_no_right_code_can_be_made_is_refused(
    backend: str, device: str, complaint: str, tmp_path: Path
) -> None:
    target = Executable("gpu", tmp_path / "gpu.yaml", "", backend, device, (), {}, (), None)
    with pytest.raises(PipelineError, match=complaint) as caught:
        resolve(target)
    assert caught.value.where.endswith("gpu.yaml")


def test_a_file_holds_rocm_code_for_one_architecture_only(tmp_path: Path) -> None:
    """Whose gate the runtime does not ask for: it would take the first of two."""
    found = load(ROOT / "targets").executables
    targets = [found["rocm-gfx1100"], found["rocm-gfx942"]]
    with pytest.raises(compiler.UnreachableError, match="rocm-gfx942 can never be chosen") as caught:
        compiler.compile_module(SMALL, tmp_path, [resolve(t) for t in targets], {t.name: t.gates for t in targets})
    assert "cannot tell their devices apart" in caught.value.hint


def test_rocm_code_is_only_for_the_gpu_that_says_it_is_of_that_architecture(server: tuple[Path, compiler.Compiled]) -> None:
    """By what the driver says of it, with the features of the board behind a colon."""
    hip = backends.named("rocm")
    for said, variant in (("gfx942:sramecc+:xnack-", "rocm-gfx942"), ("gfx90a:sramecc+:xnack-", None), ("gfx9999", None)):
        info = {"gpu-arch-name": said}
        described = hip.described({"name": "AMD", "path": "0"}, info)
        facts = Facts("AMD", frozenset(hip.formats), hip.answers(info))
        assert described["driver_info"] == "ROCm"
        assert hip.note(Device("", "", "hip", "", False, facts)) == (
            said.split(":")[0] if said != "gfx9999" else "of unknown architecture"
        )
        assert select(server[1].variants, facts) == variant


@pytest.mark.parametrize("name", ["cuda-sm80", "rocm-gfx942"])
def test_code_that_cannot_run_here_is_inspected(server: tuple[Path, compiler.Compiled], name: str, tmp_path: Path) -> None:
    """By NVIDIA's assembler and LLVM's reader of machine code: right code is, and what is wrong is found."""
    target = resolve(load(ROOT / "targets").executables[name])
    backend, data = backends.named(target.backend), server[0].read_bytes()
    codes = [data[p.segment.offset : p.segment.offset + p.segment.length] for p in server[1].code[name]]
    found = backend.inspect(target.attribute, codes, tmp_path)
    assert found and not found.wrong
    assert "every kernel" in found.said
    assert re.search(r"at most [1-9]\d* (vector )?registers", found.said)
    other = backend.inspect(target.attribute, [b"machine code of another kind"], tmp_path)
    assert other and not other.wrong
    broken = [code.replace(b"ld.", b"lb.").replace(b"gfx942", b"gfx941") for code in codes]
    wrong = backend.inspect(target.attribute, broken, tmp_path)
    assert wrong and wrong.wrong


def test_the_evidence_says_what_was_inspected_and_what_was_wrong_is_left_out(tmp_path: Path) -> None:
    """By another `ptxas`, which is too old first, and then refuses a line. That it is another is noticed."""
    bundle: dict[str, object] = {"targets": ["cuda-sm80", "x86-64"], "on_failure": "drop"}
    project = Project(tmp_path / "project", "small", bundle=bundle)
    assert project.doit().returncode == 0
    cuda, cpu = evidence(project).values()
    assert (cuda.kind, cpu.kind) == ("untested", "device")
    assert "the build had no NVIDIA GPU" in cuda.reason
    assert "not run, but inspected: ptxas assembles every kernel for sm_80" in cuda.reason
    tool = tmp_path / "other/nvidia/cuda_nvcc/bin/ptxas"
    tool.parent.mkdir(parents=True)
    for said, names in {
        "ptxas fatal   : Unsupported .version 9.9; current version is '8.2'": ["cuda-sm80", "x86-64"],
        "ptxas $3, line 7; error   : boom: no such instruction": ["x86-64"],
    }.items():
        tool.write_text(f'#!/bin/sh\necho "{said}"\nexit 255\n')
        tool.chmod(0o755)
        result = project.doit(PYTHONPATH=f"{ROOT}:{tmp_path / 'other'}")  # its packages come first
        assert result.returncode == 0
        assert said.split(" : ")[1] in f"{result.stdout} {manifest(project)} {evidence(project)}"
        assert [v.name for v in manifest(project).artifacts[0].variants] == names

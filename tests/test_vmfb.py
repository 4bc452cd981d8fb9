"""Reading vmfbs, made by anyone, damaged by anything: every answer is a module or a PipelineError."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.iree.devices.session import FACTS
from pipeline.iree.file import vmfb
from pipeline.iree.toolchain import iree_compile
from tests.project import DATA


def test_a_file_of_plain_iree_compile_is_read(tmp_path: Path) -> None:
    flags = ["--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu"]
    iree_compile(DATA / "small.mlir", tmp_path / "thin.vmfb", [*flags, "--iree-llvmcpu-target-cpu=x86-64"], tmp_path / "log")
    module = vmfb.read(tmp_path / "thin.vmfb")
    assert "small" in {e.name for e in module.exports}
    assert any(s.name.endswith(".so") for s in module.segments)
    assert module.size == (tmp_path / "thin.vmfb").stat().st_size


def test_a_file_without_the_zip_directory_is_read(tmp_path: Path) -> None:
    flags = ["--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu"]
    flags += ["--iree-llvmcpu-target-cpu=x86-64", "--iree-vm-emit-polyglot-zip=false"]
    iree_compile(DATA / "small.mlir", tmp_path / "plain.vmfb", flags, tmp_path / "log")
    assert "small" in {e.name for e in vmfb.read(tmp_path / "plain.vmfb").exports}


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x7fELF" + bytes(100), bytes(5000), b"\xff" * 5000])
def test_what_is_no_vmfb_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.vmfb"
    path.write_bytes(data)
    with pytest.raises(PipelineError):
        vmfb.read(path)


def test_damaged_files_give_a_module_or_an_error_and_nothing_else(tmp_path: Path) -> None:
    whole = FACTS.read_bytes()
    generator = random.Random(3)
    refused = 0
    for round_ in range(300):
        data = bytearray(whole[: generator.randrange(1, len(whole))] if round_ % 3 == 0 else whole)
        for _ in range(generator.randrange(1, 20)):
            data[generator.randrange(min(len(data), 12000))] = generator.randrange(256)
        path = tmp_path / "damaged.vmfb"
        path.write_bytes(data)
        try:
            vmfb.read(path)
        except PipelineError:
            refused += 1
    assert refused > 50

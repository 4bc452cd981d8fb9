"""The command `vmfb` on files of this project and of plain iree-compile: what is in them, what would run, and why."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline import cli
from pipeline.consume import inputs
from pipeline.consume.cache import default_folder
from pipeline.consume.facts import MACHINES
from pipeline.errors import PipelineError
from pipeline.iree import compiler
from pipeline.iree.targets import resolve
from pipeline.iree.toolchain import iree_compile
from pipeline.spec.load import load
from tests.project import DATA, ROOT


def compiled(bundle: str, folder: Path) -> Path:
    """A small model for one of the project's own bundles."""
    spec = load(ROOT / "targets")
    targets = [spec.executables[name] for name in spec.bundles[bundle].targets]
    compiler.compile_module(DATA / "small.mlir", folder, [resolve(t) for t in targets], {t.name: t.gates for t in targets})
    return folder / "module.vmfb"


@pytest.fixture(scope="module")
def fat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("desktop", tmp_path_factory.mktemp("fat"))


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("everything", tmp_path_factory.mktemp("everything"))


@pytest.fixture(scope="module")
def vulkan_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the question was about: plain iree-compile for one GPU."""
    folder = tmp_path_factory.mktemp("thin")
    flags = ["--iree-hal-target-device=vulkan", "--iree-vulkan-target=gfx1101"]
    iree_compile(DATA / "small.mlir", folder / "thin.vmfb", flags, folder / "log")
    return folder / "thin.vmfb"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))


def vmfb(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> str:
    assert cli.main([str(a) for a in arguments]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err if code else captured.out


# What the devices of known machines run of a file for desktops, and of one that holds everything.
KNOWN = {
    "a100-server": ("x86-64-v4", "x86-64-v4, cuda-sm80"),
    "adreno": ("vulkan-any", "aarch64, adreno"),
    "alder-lake": ("x86-64-v3", "x86-64-v3"),
    "apple-m1": ("vulkan-any", "aarch64, vulkan-32, metal"),
    "apple-m1-kosmickrisp": ("vulkan-any", "aarch64, vulkan-32"),
    "arc-a770": ("x86-64-v3, vulkan-any", "x86-64-v3, vulkan-32"),
    "arc-a770-windows": ("x86-64-v3, vulkan-any", "x86-64-v3, vulkan-32"),
    "arc-b580-windows": ("x86-64-v3, vulkan-any", "x86-64-v3, vulkan-32"),
    "avx512-server": ("x86-64-v4", "x86-64-v4"),
    "graviton2": ("", "aarch64"),
    "graviton3": ("", "aarch64"),
    "gtx-1080": ("x86-64-v3, nvidia-ampere", "x86-64-v3, nvidia-ampere"),
    "gtx-1650": ("x86-64-v3, nvidia-ampere", "x86-64-v3, nvidia-ampere"),
    "h100-server": ("x86-64-v4", "x86-64-v4, cuda-sm80"),
    "haswell": ("x86-64-v3", "x86-64-v3"),
    "intel-hd-620": ("x86-64-v3, vulkan-any", "x86-64-v3, vulkan-32"),
    "intel-igpu": ("x86-64-v4, vulkan-any", "x86-64-v4, vulkan-32"),
    "intel-uhd-620": ("x86-64-v3, vulkan-any", "x86-64-v3, vulkan-32"),
    "jetson-orin": ("", "aarch64, cuda-sm86"),
    "l4-server": ("x86-64-v4", "x86-64-v4, cuda-sm89"),
    "laptop-without-gpu": ("x86-64-v3, vulkan-any", "x86-64-v3, vulkan-any"),
    "mali-g715": ("vulkan-any", "aarch64, mali-valhall"),
    "mali-g720": ("vulkan-any", "aarch64, mali-valhall"),
    "mali-g78": ("vulkan-any", "aarch64, mali-valhall"),
    "mi210-server": ("x86-64-v3", "x86-64-v3"),
    "mi300x-server": ("x86-64-v4", "x86-64-v4"),
    "nehalem": ("x86-64", "x86-64"),
    "radeon-pro-vii": ("x86-64-v3, vulkan-any", "x86-64-v3, amd-rdna2"),
    "raspberry-pi-4": ("", "aarch64"),
    "raspberry-pi-5": ("vulkan-any", "aarch64, vulkan-any"),
    "rtx-2080": ("x86-64-v3, nvidia-ampere", "x86-64-v3, nvidia-ampere"),
    "rtx-3060": ("x86-64-v3, nvidia-ampere", "x86-64-v3, nvidia-ampere"),
    "rtx-4090": ("x86-64-v3, nvidia-ampere", "x86-64-v3, nvidia-ampere, cuda-sm89"),
    "rtx-5090": ("x86-64-v4, nvidia-ampere", "x86-64-v4, nvidia-ampere, cuda-sm80"),
    "rx-5700-xt": ("x86-64-v3, vulkan-any", "x86-64-v3, amd-rdna2"),
    "rx-5700-xt-windows": ("x86-64-v3, amd-rdna3", "x86-64-v3, amd-rdna3"),
    "rx-580": ("x86-64-v3, vulkan-any", "x86-64-v3, amd-rdna2"),
    "rx-6800": ("x86-64-v3, vulkan-any", "x86-64-v3, amd-rdna2"),
    "rx-7900-xtx": ("x86-64-v3, amd-rdna3", "x86-64-v3, amd-rdna3"),
    "rx-7900-xtx-rocm": ("x86-64-v4", "x86-64-v4, rocm-gfx1100"),
    "rx-7900-xtx-windows": ("x86-64-v4, amd-rdna3", "x86-64-v4, amd-rdna3"),
    "rx-9070-xt": ("x86-64-v4, amd-rdna3", "x86-64-v4, amd-rdna3"),
    "rx-9070-xt-windows": ("x86-64-v4, amd-rdna3", "x86-64-v4, amd-rdna3"),
    "sapphire-rapids": ("x86-64-v4", "x86-64-v4"),
    "skylake": ("x86-64-v3", "x86-64-v3"),
    "spacemit-k1": ("", "riscv64-v"),
    "visionfive2": ("", "riscv64"),
    "zen2": ("x86-64-v3", "x86-64-v3"),
    "zen3": ("x86-64-v3", "x86-64-v3"),
    "zen4": ("x86-64-v4", "x86-64-v4"),
}


@pytest.mark.parametrize("machine", KNOWN)
def test_other_machines_can_be_asked_about(fat: Path, everything: Path, capsys: pytest.CaptureFixture[str], machine: str) -> None:
    texts = [vmfb(capsys, "explain", path, "--pretend", machine) for path in (fat, everything)]
    found = [", ".join(line.split(": runs ")[1] for line in text.splitlines() if ": runs " in line) for text in texts]
    assert tuple(found) == KNOWN[machine]


def test_apple_gpus_on_linux_are_not_taken_for_nvidias(
    everything: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Mesa's driver has all of NVIDIA's limits (src/asahi/vulkan/hk_physical_device.c), and can require no subgroup size."""
    facts = json.loads((MACHINES / "apple-m1-kosmickrisp.json").read_text())
    facts["devices"][1]["answers"]["vulkan.device::max_compute_workgroup_size_z"] = 64
    (tmp_path / "honeykrisp.json").write_text(json.dumps(facts))
    text = vmfb(capsys, "explain", everything, "--pretend", tmp_path / "honeykrisp.json")
    assert "[subgroup size 32]: runs vulkan-32" in text


def test_every_variant_of_everything_is_for_some_known_machine() -> None:
    chosen = {name for _, found in KNOWN.values() for name in found.split(", ")}
    assert set(load(ROOT / "targets").bundles["everything"].targets) == chosen


def test_every_shipped_machine_is_asked_about_in_these_tests() -> None:
    assert {p.stem for p in MACHINES.glob("*.json")} == KNOWN.keys()


def test_every_device_of_a_shipped_machine_names_its_sources() -> None:
    for path in sorted(MACHINES.glob("*.json")):
        for device in json.loads(path.read_text())["devices"]:
            assert device["sources"], (path.name, device["name"])
            assert all(isinstance(source, str) and source.strip() for source in device["sources"]), (path.name, device["name"])


def test_this_machine_is_explained_with_reasons(fat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = vmfb(capsys, "explain", fat)
    assert "): runs x86-64" in text
    assert "wants vulkan.device::subgroup_size == 64, the device has " in text


def test_facts_of_this_machine_can_be_written_and_asked_about_elsewhere(
    fat: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    here = vmfb(capsys, "explain", fat)
    (tmp_path / "facts.json").write_text(vmfb(capsys, "devices", "--json"))
    there = vmfb(capsys, "explain", fat, "--pretend", tmp_path / "facts.json")
    assert there.splitlines() == [line for line in here.splitlines() if "loaded here" not in line]


def test_a_vulkan_only_file_is_told_as_what_it_is(vulkan_only: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = vmfb(capsys, "explain", vulkan_only)
    assert "There is no CPU code in it" in text
    assert "): refuses the file" in text
    assert "do not say for which size" in text


def test_inspect_needs_only_the_file(fat: Path, vulkan_only: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "gates of nvidia-ampere: " in vmfb(capsys, "inspect", fat)
    document = json.loads(vmfb(capsys, "inspect", vulkan_only, "--json"))
    assert document["variants"] == []
    assert {s["format"] for s in document["segments"]} >= {"vulkan-spirv-fb"}


def test_bad_input_is_one_message(tmp_path: Path, fat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x").write_text("[]")
    assert "is no vmfb" in vmfb(capsys, "inspect", tmp_path / "x", code=1)
    assert "cannot be read" in vmfb(capsys, "explain", tmp_path / "nothing", code=1)
    assert "is no file of device facts" in vmfb(capsys, "explain", fat, "--pretend", tmp_path / "x", code=1)
    assert "`vmfb devices --known` lists names" in vmfb(capsys, "explain", fat, "--pretend", tmp_path / "nothing", code=1)
    (tmp_path / "deep").write_text("[" * 100_000)
    assert "is no file of device facts" in vmfb(capsys, "explain", fat, "--pretend", tmp_path / "deep", code=1)
    endless = {
        "schema": 1,
        "devices": [{"name": "", "driver": "", "driver_info": "", "software": 0, "formats": [], "answers": {"a": 1e999}}],
    }
    (tmp_path / "endless").write_text(json.dumps(endless))
    assert "is no file of device facts" in vmfb(capsys, "explain", fat, "--pretend", tmp_path / "endless", code=1)
    assert "cannot be read" in vmfb(capsys, "explain", fat, "--pretend", "", code=1)
    assert "neither a file nor a model's name" in vmfb(capsys, "inspect", "x" * 300 + "!", "--store", tmp_path, code=1)
    assert "there is no such folder" in vmfb(capsys, "list", "~nosuchuser/store", code=1)
    assert "two stores" in vmfb(capsys, "list", tmp_path, "--store", tmp_path, code=1)


def test_a_folder_that_was_removed_is_one_message(tmp_path: Path) -> None:
    code = """if True:
        import os, sys
        from pipeline import cli
        os.mkdir("x")
        os.chdir("x")
        os.rmdir("../x")
        sys.exit(cli.main(["list", "store"]))"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, "error: the current folder: No such file or directory")


def test_the_cache_is_where_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("VMFB_CACHE", "~/cache")
    assert default_folder() == Path("/home/someone/cache")


def test_sizes_of_any_length_are_sizes() -> None:
    assert cli._bytes("1.5GB") == 1_500_000_000
    assert cli._bytes("9" * 400) > 10**399


@pytest.mark.parametrize(("text", "values"), [("4xi1=true,false,1,0", [1, 0, 1, 0]), ("2xsi8=-1,127", [-1, 127])])
def test_inputs_are_as_iree_takes_them(text: str, values: list[int]) -> None:
    assert inputs.parse(text).tolist() == values


def test_inputs_that_are_none_are_one_message(tmp_path: Path) -> None:
    (tmp_path / "zip.npz").write_bytes(b"PK\x03\x04 and nothing more")
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1 << 50,), }".replace("1 << 50", str(1 << 50)).ljust(117) + "\n"
    (tmp_path / "huge.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    for name in ("zip.npz", "huge.npy"):
        with pytest.raises(PipelineError, match="write 2x3xf32"):
            inputs.load(tmp_path / name)


def test_outputs_of_alike_names_are_all_kept(tmp_path: Path) -> None:
    arrays = dict(zip(("a/b", "a_b", "../c", "a_1", "a", ".a"), map(np.full, range(6), range(6)), strict=True))
    paths = inputs.save(arrays, tmp_path)
    assert [np.load(path).tolist() for path in paths] == [array.tolist() for array in arrays.values()]
    assert all(path.parent == tmp_path for path in paths)

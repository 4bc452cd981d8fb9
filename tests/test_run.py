"""A real release, consumed on this machine's devices: fetched in part, explained, run, checked, loaded in a program."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from pipeline import cli, exits
from pipeline.consume import facts, load
from pipeline.consume.cache import Cache
from pipeline.errors import PipelineError
from pipeline.iree import devices
from pipeline.iree.device import Device
from pipeline.iree.devices import NoRuntimeError
from pipeline.machine import fingerprint
from pipeline.manifest.codec import decode, encode
from pipeline.manifest.types import Manifest
from tests.project import ROOT, Project, manifest
from tests.waiting import wait_for


@pytest.fixture(autouse=True)
def store(built: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The store of the built project, and a cache of its own for each test."""
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIPELINE_STORE", str(built.layout.store))
    return str(built.layout.store)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[Device]:
    return devices.find(tmp_path_factory.mktemp("devices"))


def vmfb(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> str:
    capsys.readouterr()
    assert cli.main([str(a) for a in arguments]) == code, capsys.readouterr().err
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err if code else captured.out


def inputs() -> tuple[list[np.ndarray], np.ndarray]:
    random = np.random.default_rng(3)
    a, b = (random.uniform(-1, 1, shape).astype(np.float32) for shape in ((64, 128), (128, 64)))
    return [a, b], (a @ b).sum(axis=1)


# Fetching for a device


@pytest.mark.parametrize("device", ["local", "vulkan", "llvmpipe", "auto"])
def test_a_sparse_file_runs_with_plain_iree_tools_on_its_device(
    device: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = Path(vmfb(capsys, "fetch", "small", "--device", device).strip())
    assert path.stat().st_blocks * 512 < path.stat().st_size
    arrays, wanted = inputs()
    for i, array in enumerate(arrays):
        np.save(tmp_path / f"{i}.npy", array)
    tool = [sys.executable, "-m", "iree._runtime.scripts.iree_run_module"]
    command = [*tool, f"--module={path}", f"--output=@{tmp_path}/out.npy"]
    command += [f"--device={'vulkan' if device in ('vulkan', 'llvmpipe') else 'local-task'}"]
    command += [f"--input=@{tmp_path}/{i}.npy" for i in range(2)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), wanted, atol=1e-4, rtol=1e-3)


def test_auto_brings_no_code_for_a_software_gpu_beside_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    vmfb(capsys, "fetch", "small")
    assert cli.main(["fetch", "small"]) == 0
    assert ", for x86-64" in (said := capsys.readouterr().err)
    assert "vulkan" not in said


def test_a_device_whose_code_was_not_fetched_is_told_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    vmfb(capsys, "fetch", "small", "--device", "local", "-o", tmp_path / "sparse.vmfb")
    text = vmfb(
        capsys,
        "run",
        tmp_path / "sparse.vmfb",
        "--device",
        "vulkan",
        "--input",
        "64x128xf32=1",
        "--input",
        "128x64xf32=1",
        code=1,
    )
    assert "its variant vulkan-any is a hole" in text
    assert "vmfb fetch MODEL --device" in text
    assert "not fetched: a hole in this file" in vmfb(capsys, "inspect", tmp_path / "sparse.vmfb")
    explained = vmfb(capsys, "explain", tmp_path / "sparse.vmfb")
    assert "that code is not here" in explained
    assert "the module itself says: x86-64" in explained
    vmfb(capsys, "fetch", "small", "--device", "vulkan", "-o", tmp_path / "sparse.vmfb")
    assert "is a hole" not in vmfb(
        capsys, "run", tmp_path / "sparse.vmfb", "--device", "vulkan", "--input", "64x128xf32=1", "--input", "128x64xf32=1"
    )


def test_sparse_files_for_other_machines_hold_what_those_select(capsys: pytest.CaptureFixture[str]) -> None:
    for machine, variants in {"rtx-3060": "nvidia-ampere, x86-64-v3", "rx-7900-xtx": "amd-rdna3, x86-64-v3"}.items():
        shutil.rmtree(Cache().root, ignore_errors=True)
        vmfb(capsys, "fetch", "small", "--device", machine)
        assert cli.main(["fetch", "small", "--device", machine]) == 0
        assert f"for {variants}" in capsys.readouterr().err


def test_unknown_devices_are_told_with_those_that_are_here(capsys: pytest.CaptureFixture[str]) -> None:
    text = vmfb(capsys, "fetch", "small", "--device", "H100", code=1)
    assert "there is no device 'H100' here" in text
    assert "local-task" in text
    assert "there is no device ''" in vmfb(capsys, "fetch", "small", "--device", "", code=1)
    for command in ("run", "explain"):
        said = vmfb(capsys, command, "small", "--device", "rtx-3060", code=1)
        assert "it is another machine: `vmfb explain MODEL --pretend rtx-3060`" in said
    assert "→ --device vulkan" in vmfb(capsys, "explain", "small", "--pretend", "vulkan", code=1)
    with pytest.raises(SystemExit):
        cli.main(["fetch", "small", "--pretend", "rtx-3060"])
    assert "other machines are for `vmfb explain --pretend`, and for `vmfb fetch --device`" in capsys.readouterr().err


def test_without_a_cache_that_can_be_written_to_what_needs_none_works(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("VMFB_CACHE", str(tmp_path / "file"))
    for command in (["list"], ["inspect", "small"], ["explain", "small"], ["devices"]):
        vmfb(capsys, *command)
    text = vmfb(capsys, "fetch", "small", code=1)
    assert "the cache cannot be written to: Not a directory" in text
    assert "set VMFB_CACHE" in text


def test_without_a_runtime_everything_is_fetched_and_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> str:
        raise NoRuntimeError("iree-base-runtime is not installed", hint="pip install it")

    monkeypatch.setattr("pipeline.machine.runtime_version", missing)
    assert cli.main(["fetch", "small"]) == 0
    said = capsys.readouterr().err
    assert "fetching the code for all" in said
    assert "here is all of it" in said
    assert "is not installed" in vmfb(capsys, "run", "small", code=1)


# Explaining


def test_a_release_is_explained_with_its_evidence_and_its_own_word(capsys: pytest.CaptureFixture[str], built: Project) -> None:
    before = vmfb(capsys, "explain", "small")
    assert "that code is not here" in before
    assert "its twin verified on" not in before  # only for variants that are accepted
    assert "verified on" in before
    vmfb(capsys, "fetch", "small", "--device", "local")
    vmfb(capsys, "fetch", "small", "--device", "vulkan")
    after = vmfb(capsys, "explain", "small")
    assert after.count("loaded here, the module itself says") == 2
    assert "prefer --device local" in after


def test_a_module_that_decides_otherwise_is_shown_as_a_bug(
    capsys: pytest.CaptureFixture[str], found: list[Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    vmfb(capsys, "fetch", "small", "--device", "local")
    monkeypatch.setattr(devices, "report", lambda *_: [devices.Report(0)])
    assert cli.main(["explain", "small", "--device", "local"]) == 1
    captured = capsys.readouterr()
    assert "BUG predicted is x86-64" in captured.out
    assert "the module itself says amd-rdna3" in captured.out
    assert "not what the file does" in captured.err


def test_a_crash_of_one_device_is_the_report_of_that_one(
    built: Project, found: list[Device], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = devices._child

    def crashes(job: dict[str, object], *rest: object) -> dict[str, object]:
        if len(job["devices"]) > 1 or "vulkan" in job["devices"][0]:  # type: ignore[arg-type,index]
            return {"error": "the process was killed by SIGSEGV"}
        return real(job, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(devices, "_child", crashes)
    path = built.layout.verified("small", "desktop") / "module.vmfb"
    reports = dict(zip([d.driver for d in found], devices.report(path, found, tmp_path), strict=True))
    assert reports["vulkan"].error == "the process was killed by SIGSEGV"
    assert reports["local-task"].selected is not None


# Running


def test_a_release_is_checked_against_its_reference(capsys: pytest.CaptureFixture[str]) -> None:
    assert ": right, max error" in vmfb(capsys, "run", "small", "--check")
    assert "llvmpipe" in (said := vmfb(capsys, "run", "small", "--check", "--device", "vulkan"))
    assert "vulkan-any" in said


def test_wrong_outputs_are_an_error(capsys: pytest.CaptureFixture[str], built: Project, tmp_path: Path) -> None:
    from dataclasses import replace

    from pipeline.files import sha256_bytes, write
    from pipeline.layout import blob_key, release_key
    from pipeline.manifest.types import Blob

    store = tmp_path / "store"
    shutil.copytree(built.layout.store, store)
    real = manifest(built)
    wrong = tmp_path / "wrong.npy"
    np.save(wrong, np.zeros(64, np.float32))
    blob = Blob("output_0.npy", sha256_bytes(wrong.read_bytes()), wrong.stat().st_size)
    write(store / blob_key(blob.sha256), wrong.read_bytes())
    (entry,) = real.entries
    given = replace(entry.reference.draws[0], outputs=(blob,))
    entry = replace(entry, reference=replace(entry.reference, draws=(given,)))
    other = replace(real, version="wrong", entries=(entry,))
    write(store / release_key("small", "wrong"), encode(other))
    text = vmfb(capsys, "run", "small@wrong", "--check", "--store", store, code=exits.WRONG)
    assert "its outputs are not those of the reference" in text
    assert "values are off" in text


def test_a_release_runs_on_given_inputs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arrays, wanted = inputs()
    np.save(tmp_path / "a.npy", arrays[0])
    np.save(tmp_path / "b.npy", arrays[1])
    text = vmfb(
        capsys, "run", "small", "--input", tmp_path / "a.npy", "--input", f"@{tmp_path}/b.npy", "--output", tmp_path / "out"
    )
    (path,) = [Path(line) for line in text.splitlines()]
    np.testing.assert_allclose(np.load(path), wanted, atol=1e-4, rtol=1e-3)
    shown = vmfb(capsys, "run", "small", "--input", "64x128xf32=1", "--input", "128x64xf32=0.5")
    assert "64 float32" in shown
    assert "4096" in shown


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ([], "takes 2 inputs, not 0"),
        (["64x128xf32=1", "64x128xf32=1"], "but the model takes"),
        (["64x128xi32=1", "128x64xf32=1"], "int32, but the model takes"),
        (["64x128xq9=1", "128x64xf32=1"], "'q9' is no type here"),
        (["64x128xf32=1,2", "128x64xf32=1"], "reshape"),
        (["64x128xi8=300", "128x64xf32=1"], "out of bounds"),
        (["64x128xf32=", "128x64xf32=1"], "--input 64x128xf32="),
        (["nothing.npy", "128x64xf32=1"], "nothing.npy"),
    ],
)
def test_inputs_that_do_not_fit_are_told(given: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [word for text in given for word in ("--input", text)]
    assert complaint in vmfb(capsys, "run", "small", *arguments, code=1)


def test_every_device_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    lines = vmfb(capsys, "run", "small", "--benchmark").splitlines()
    assert next(line.split("  ")[0] for line in lines[1:]).startswith("CPU")
    assert "by local-sync" in lines[2]
    assert "llvmpipe" in lines[-1]
    assert all(line.count(" ms") == 2 for line in lines[1:])


def test_a_measured_release_is_checked_and_its_outputs_are_written_too(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = vmfb(capsys, "run", "small", "--check", "--benchmark", "--device", "local", "--output", tmp_path / "out")
    assert ": right, max error" in text
    assert "latency" in text
    assert list((tmp_path / "out").glob("*.npy"))


def test_a_measurement_in_which_every_device_fails_is_an_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = facts.of_this_machine(Cache(), print)
    monkeypatch.setattr(facts, "of_this_machine", lambda *_: here)
    monkeypatch.setattr(devices, "_child", lambda *_: {"error": "the process was killed by SIGILL"})
    assert "no device ran it" in vmfb(capsys, "run", "small", "--benchmark", code=1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_child_too(number: signal.Signals) -> None:
    facts.of_this_machine(Cache(), print)  # so that the first child is the one that runs the model
    words = [sys.executable, "-m", "pipeline.cli", "run", "small", "--benchmark", "--device", "local"]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def runners() -> list[str]:
        with suppress(FileNotFoundError):
            commands = {child: Path(f"/proc/{child}/cmdline").read_bytes() for child in children.read_text().split()}
            return [child for child, words in commands.items() if b"pipeline.iree.devices.runner" in words]
        return []

    wait_for(runners)
    (child,) = runners()
    os.kill(int(child), signal.SIGSTOP)  # so that it is certainly at work
    wait_for(lambda: "State:\tS" in Path(f"/proc/{process.pid}/status").read_text())  # waiting for it
    process.send_signal(number)
    assert process.wait() == 128 + number
    assert not Path(f"/proc/{child}").exists()


def test_a_crash_is_one_message(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_child", lambda *_: {"error": "the process was killed by SIGILL"})
    server = facts.of_machine("avx512-server")
    monkeypatch.setattr(facts, "of_this_machine", lambda *_: server)
    text = vmfb(capsys, "run", "small", "--check", code=1)
    assert "killed by SIGILL" in text
    assert "a driver or the code crashed" in text


def test_a_machine_for_which_there_is_no_code_is_told_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    phone = [Device("vulkan://1", "Phone", "vulkan", "driver", False, facts.of_machine("adreno")[0].facts)]
    poor = {**phone[0].facts.answers, "vulkan.device::max_compute_workgroup_invocations": 1}
    from pipeline.iree.gates import Facts

    device = Device("vulkan://1", "Phone", "vulkan", "", False, Facts("Phone", frozenset(["vulkan-spirv-fb"]), poor))
    monkeypatch.setattr(facts, "of_this_machine", lambda *_: [device])
    for command in (["run", "small", "--check"], ["fetch", "small"]):
        text = vmfb(capsys, *command, code=1)
        assert "vulkan-any wants vulkan.device::max_compute_workgroup_invocations" in text
        assert "vmfb explain" in text
    assert "refuses the file" in vmfb(capsys, "explain", "small")


def test_the_devices_are_asked_once_and_again_when_the_machine_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    first = facts.of_this_machine(Cache(), print)
    monkeypatch.setattr(devices, "find", lambda *_: [])
    assert facts.of_this_machine(Cache(), print) == first
    monkeypatch.setenv("VK_DRIVER_FILES", "/nothing.json")
    assert facts.of_this_machine(Cache(), print) == []


@pytest.mark.parametrize(
    "variable", ["VK_LOADER_DRIVERS_DISABLE", "CUDA_VISIBLE_DEVICES", "MESA_VK_DEVICE_SELECT", "LP_NUM_THREADS"]
)
def test_what_hides_devices_is_a_part_of_what_the_machine_is(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint()
    monkeypatch.setenv(variable, "1")
    assert fingerprint() != before


def test_a_vulkan_driver_that_crashes_leaves_the_cpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The runtime is told to load a driver whose manifest names a library that ends the process."""
    source, library = tmp_path / "driver.c", tmp_path / "driver.so"
    source.write_text("#include <stdlib.h>\n__attribute__((constructor)) static void start(void) { abort(); }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    icd = {"file_format_version": "1.0.0", "ICD": {"library_path": str(library), "api_version": "1.3.0"}}
    (tmp_path / "driver.json").write_text(json.dumps(icd))
    monkeypatch.setenv("VK_DRIVER_FILES", str(tmp_path / "driver.json"))
    for _ in range(2):  # it is not remembered
        notes: list[str] = []
        assert [d.uri for d in facts.of_this_machine(Cache(), notes.append)] == ["local-task"]
        assert notes == [
            "cannot list the vulkan devices of this machine: the process was killed by SIGABRT; going on without them"
        ]
    with pytest.raises(PipelineError, match="cannot list the vulkan devices"):  # a release says what was verified
        devices.find(tmp_path / "logs")
    assert "right, max error" in vmfb(capsys, "run", "small", "--check")


def test_no_room_for_temporary_files_is_one_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    facts.of_this_machine(Cache(), print)
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    assert "Not a directory" in vmfb(capsys, "run", "small", "--check", code=1)


@pytest.mark.parametrize("output", ["> /dev/full", ">&-"])
def test_output_that_cannot_be_written_is_one_message(output: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$0" -m pipeline.cli list {output}', sys.executable], capture_output=True, text=True, cwd=ROOT
    )
    *notes, error = done.stderr.splitlines()
    assert done.returncode == 1
    assert all(note.startswith("note: ") for note in notes)
    assert error.startswith("error: standard output: ")


def test_without_a_standard_error_standard_output_is_still_the_path_alone() -> None:
    done = subprocess.run(
        ["sh", "-c", '"$0" -m pipeline.cli fetch small --device local 2>&-', sys.executable],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0
    assert Path(done.stdout.removesuffix("\n")).is_file()


def test_a_terminal_of_another_encoding_gets_its_text() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "explain", "small", "--device", "local"],
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert done.returncode == 0
    assert all(line.startswith(b"note: ") for line in done.stderr.splitlines())


def test_a_file_named_like_a_device_is_no_device(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "local").write_text("nothing of the kind")
    monkeypatch.chdir(tmp_path)
    vmfb(capsys, "fetch", "small", "--device", "local")


def test_a_file_that_may_only_be_read_runs_and_is_explained(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "read-only.vmfb"
    vmfb(capsys, "fetch", "small", "--device", "local", "-o", file)
    file.chmod(0o444)
    # Root may write to any file, unless the capability for that is dropped.
    drop = [] if os.geteuid() else ["setpriv", "--bounding-set=-dac_override"]
    given = ["--input", "64x128xf32=1", "--input", "128x64xf32=0.5"]
    for command, said in ((["run", file, *given], "4096"), (["explain", file], "loaded here, the module itself says")):
        words = [*drop, sys.executable, "-m", "pipeline.cli", *command, "--device", "local"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout


def test_a_file_that_cannot_be_read_is_no_bug_of_its_gates(found: list[Device], tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="No such file"):
        devices.report(tmp_path / "gone.vmfb", found, tmp_path)


# In a program


@pytest.mark.parametrize("device", ["auto", "vulkan"])
def test_a_program_loads_and_calls_a_release(device: str, built: Project) -> None:
    model = load("small", device=device)
    arrays, wanted = inputs()
    (found,) = model(*arrays)
    np.testing.assert_allclose(found, wanted, atol=1e-4, rtol=1e-3)
    assert model.variant == ("vulkan-any" if device == "vulkan" else model.variant)
    assert model.manifest == manifest(built)
    assert model.device.driver == ("vulkan" if device == "vulkan" else "local-task")
    assert "small@" in repr(model)
    with pytest.raises(PipelineError, match="takes 2 inputs, not 1"):
        model(arrays[0])
    with pytest.raises(PipelineError, match="float64, but the model takes"):
        model(arrays[0].astype(np.float64), arrays[1])


def test_what_a_consumer_imports_needs_neither_numpy_nor_compiler(tmp_path: Path, store: str) -> None:
    """The base install: everything but the AWS client, the progress bar and the web client is hidden."""
    hidden = ["numpy", "iree", "doit", "jinja2", "yaml", "onnx", "onnxruntime"]
    code = f"""if True:
        import sys
        class Hide:
            def find_spec(self, name, *_):
                if name.split(".")[0] in {hidden!r}:
                    raise ModuleNotFoundError(name)
        sys.meta_path.insert(0, Hide())
        import importlib.metadata as metadata
        real = metadata.version
        def version(name):
            if name == "iree-base-runtime":
                raise metadata.PackageNotFoundError(name)
            return real(name)
        metadata.version = version
        from pipeline import cli
        sys.exit(cli.main(sys.argv[1:]))"""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, cwd=ROOT, env={**os.environ}, capture_output=True, text=True, check=False)

    for arguments in (
        ["list"],
        ["fetch", "small"],
        ["fetch", "small", "--device", "rtx-3060", "-o", str(tmp_path / "x.vmfb")],
        ["inspect", "small"],
        ["inspect", str(tmp_path / "x.vmfb")],
        ["explain", "small", "--pretend", "rtx-3060"],
        ["explain", str(tmp_path / "x.vmfb"), "--pretend", "adreno"],
        ["cache", "verify"],
    ):
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
    for command in ("run", "profile", "explain", "devices"):
        done = run(*[w for w in (command, "small" if command != "devices" else "") if w])
        assert done.returncode == 1
        assert "iree-base-runtime is not installed" in done.stderr
        assert "pip install" in done.stderr


def test_what_is_printed_for_programs_is_json(capsys: pytest.CaptureFixture[str], built: Project) -> None:
    assert decode(Manifest, vmfb(capsys, "inspect", "small", "--json").encode(), "stdout") == manifest(built)
    assert json.loads(vmfb(capsys, "list", "--json"))["models"][0]["name"] == "small"
    assert vmfb(capsys, "list").startswith("small  latest → ")

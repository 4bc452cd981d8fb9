"""Pieces generated on a Dask cluster: real scheduler and workers, as processes with nothing in common but the network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline import seal
from pipeline.cache import Cache, LocalCache, SharedCache
from pipeline.errors import PipelineError
from pipeline.iree.codegen import cluster
from pipeline.iree.codegen.pieces import Batch
from pipeline.iree.targets import resolve
from pipeline.store.open import open_store
from pipeline.tuner import makers
from tests import servers
from tests.cluster import Dask
from tests.project import DATA, ROOT, Project
from tests.test_compile import DESKTOP, executables
from tests.test_pieces import SMALL, build, cold  # noqa: F401  # a fixture
from tests.test_tune import SHAPES, SOON, Kernels, space_of
from tests.waiting import FOREVER, wait_for


@pytest.fixture
def dask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, builders_key: Path) -> Iterator[Dask]:
    (tmp_path / "dask").mkdir()
    dask = Dask(tmp_path / "dask")
    monkeypatch.setenv("PIPELINE_SCHEDULER", dask.address)
    monkeypatch.setenv("PIPELINE_SCHEDULER_TIMEOUT", "1800")
    try:
        dask.scheduler()
        yield dask
    finally:
        dask.close()


def cache_at(folder: Path, store: str = "") -> Cache:
    sealed = seal.from_environment("pieces")
    return Cache(LocalCache(folder, 1 << 30), SharedCache(open_store(store), True, sealed) if store and sealed else None)


def test_workers_generate_the_same_bytes(dask: Dask, cold: tuple[Path, Cache], tmp_path: Path) -> None:  # noqa: F811
    folders = [dask.worker(name) for name in ("one", "two")]
    counts = build(SMALL, tmp_path, DESKTOP, cache_at(tmp_path / "cache"))
    assert counts.generated == 12
    assert (tmp_path / "module.vmfb").read_bytes() == cold[0].read_bytes()
    assert not (tmp_path / "pieces").exists()  # nothing was generated here
    assert not [left for folder in folders for left in folder.rglob("pieces-*")]
    assert build(SMALL, tmp_path / "again", DESKTOP, cache_at(tmp_path / "cache")).local == 12


def test_code_comes_through_the_shared_cache(
    dask: Dask,
    cold: tuple[Path, Cache],  # noqa: F811
    seaweedfs: servers.Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    servers.use_aws(monkeypatch, seaweedfs.endpoint)
    url = f"s3://{servers.BUCKET}/{tmp_path.name}"
    dask.worker("one")
    build(SMALL, tmp_path, DESKTOP, cache_at(tmp_path / "cache", url))
    assert (tmp_path / "module.vmfb").read_bytes() == cold[0].read_bytes()
    monkeypatch.delenv("PIPELINE_SCHEDULER")
    assert build(SMALL, tmp_path / "other", DESKTOP, cache_at(tmp_path / "other-cache", url)).shared == 12


@pytest.mark.thorough
def test_a_worker_that_cannot_reach_the_shared_cache_sends_the_code(
    dask: Dask,
    cold: tuple[Path, Cache],  # noqa: F811
    seaweedfs: servers.Server,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    servers.use_aws(monkeypatch, seaweedfs.endpoint)
    dask.worker("one", AWS_ENDPOINT_URL_S3=f"http://127.0.0.1:{servers.free_ports(1)[0]}")
    cache = cache_at(tmp_path / "cache", f"s3://{servers.BUCKET}/{tmp_path.name}")
    assert build(SMALL, tmp_path, ["x86-64"], cache).generated == 2
    assert build(SMALL, tmp_path / "again", ["x86-64"], cache).local == 2


def test_the_pieces_of_a_killed_worker_are_done_by_another(dask: Dask, cold: tuple[Path, Cache], tmp_path: Path) -> None:  # noqa: F811
    first = dask.worker("one")
    done: list[object] = []
    thread = threading.Thread(target=lambda: done.append(build(SMALL, tmp_path, DESKTOP, cache_at(tmp_path / "cache"))))
    thread.start()
    wait_for(lambda: [*first.glob("pieces-*/kernels.mlirbc")] or not thread.is_alive())
    dask.processes[-1].kill()
    dask.worker("two")
    thread.join()
    assert done
    assert (tmp_path / "module.vmfb").read_bytes() == cold[0].read_bytes()


def test_no_scheduler_no_worker_and_a_dead_scheduler_are_said(
    dask: Dask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster._connect(dask.address)
    monkeypatch.setenv("PIPELINE_SCHEDULER_TIMEOUT", "1")
    with pytest.raises(PipelineError, match="no worker for 1 s") as caught:
        build(SMALL, tmp_path, ["x86-64"], cache_at(tmp_path / "cache"))
    assert "dask worker" in caught.value.hint
    dask.processes[0].kill()
    with pytest.raises(PipelineError, match=r"went away|no worker"):
        build(SMALL, tmp_path, ["x86-64"], cache_at(tmp_path / "cache"))
    monkeypatch.setenv("PIPELINE_SCHEDULER", f"tcp://127.0.0.1:{servers.free_ports(1)[0]}")
    with pytest.raises(PipelineError, match="no Dask scheduler answers"):
        build(SMALL, tmp_path, ["x86-64"], cache_at(tmp_path / "cache"))


@pytest.mark.thorough
def test_a_worker_with_another_compiler_is_refused(
    dask: Dask,
    cold: tuple[Path, Cache],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = tmp_path / "other"
    shutil.copytree(ROOT / "pipeline", other / "pipeline")
    toolchain = other / "pipeline/iree/toolchain.py"
    toolchain.write_text(toolchain.read_text().replace("_LINKER)).encode()", '_LINKER)).encode() + b"older"'))
    dask.worker("old", PYTHONPATH=str(other))
    cluster._connect(dask.address)
    monkeypatch.setattr(cluster, "_patience", lambda: 1.0)
    with pytest.raises(
        PipelineError, match=r"no worker has this compiler, this version and this PIPELINE_CACHE_KEY: .* tcp://127"
    ):
        build(SMALL, tmp_path / "a", ["x86-64"], cache_at(tmp_path / "cache"))
    assert "has another compiler or version than this machine: it is left out" in caplog.text
    monkeypatch.setattr(cluster, "_patience", lambda: FOREVER)
    dask.worker("new")
    build(SMALL, tmp_path / "b", DESKTOP, cache_at(tmp_path / "cache"))
    assert (tmp_path / "b/module.vmfb").read_bytes() == cold[0].read_bytes()


def test_workers_without_the_key_or_with_another_are_left_out(
    dask: Dask,
    cold: tuple[Path, Cache],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    other = tmp_path / "other"
    other.write_bytes(os.urandom(32))
    other.chmod(0o600)
    dask.worker("none", PIPELINE_CACHE_KEY="")
    dask.worker("another", PIPELINE_CACHE_KEY=str(other))
    cluster._connect(dask.address)
    monkeypatch.setattr(cluster, "_patience", lambda: 1.0)
    with pytest.raises(PipelineError, match=r"this PIPELINE_CACHE_KEY: refused were tcp://.*, tcp://"):
        build(SMALL, tmp_path / "a", ["x86-64"], cache_at(tmp_path / "cache"))
    assert "has no PIPELINE_CACHE_KEY: it is left out" in caplog.text
    assert "has another PIPELINE_CACHE_KEY than this machine: it is left out" in caplog.text
    monkeypatch.delenv("PIPELINE_CACHE_KEY")
    with pytest.raises(PipelineError, match="could be anybody's code") as caught:
        build(SMALL, tmp_path / "b", ["x86-64"], cache_at(tmp_path / "cache"))
    assert "head -c 32 /dev/urandom" in caught.value.hint


def test_what_a_worker_forges_is_generated_here(
    dask: Dask,
    cold: tuple[Path, Cache],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    forged = cluster.Seal("sent", b"a key that no builder has, of 32 bytes")

    class Worker:
        """Says that it has the key, and seals what it made by another."""

        status = "finished"

        def __init__(self, batch: Batch) -> None:
            found = {key: cold[1].local.get(key) or b"" for key in batch.keys.values()}
            self.done = cluster.Done((), {key: forged.sealed(key, data[:-8] + b"poisoned") for key, data in found.items()})

        def add_done_callback(self, call: Callable[[object], None]) -> None:
            call(self)

        def result(self, timeout: float) -> cluster.Done:
            return self.done

    dask.worker("one")
    monkeypatch.setattr(cluster.Cluster, "_submit", lambda self, batch, url, generate: Worker(batch))
    here = cache_at(tmp_path / "cache")
    build(SMALL, tmp_path, DESKTOP, here)
    assert (tmp_path / "module.vmfb").read_bytes() == cold[0].read_bytes()
    assert "entries are damaged, or by no builder that has this key" in caplog.text
    assert not [path for path in here.local.folder.glob("??/*") if b"poisoned" in path.read_bytes()]


def test_a_target_that_is_refused_on_a_worker_is_named(dask: Dask, tmp_path: Path) -> None:
    from pipeline.iree import compiler
    from pipeline.spec.types import Executable

    dask.worker("one")
    plain = Executable("plain", Path("plain.yaml"), "", "vulkan-spirv", "vp_android_baseline_2022", (), {}, (), None)
    with pytest.raises(compiler.RefusedError, match="plain: ") as caught:
        compiler.compile_module(DATA / "half.mlir", tmp_path, [resolve(plain)], {"plain": ()}, cache=cache_at(tmp_path / "cache"))
    assert "worker tcp://127" in str(caught.value.reasons["plain"])


def test_a_search_has_its_code_made_by_workers_and_goes_on_without_them(
    dask: Dask, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = Kernels(DATA / "small.mlir", tmp_path, resolve(*executables("x86-64")), SHAPES)
    product = small.of("matmul")
    other = space_of(small.batches[product], small.target, tmp_path / "space").lower({"v0": 2, "v1": 16})
    assert other
    for name in ("one", "two"):
        dask.worker(name)
    crew = makers.find(1)

    def made(place: str, who: makers.Makers) -> list[tuple[str, bytes] | None]:
        codes = small.trials(product).generate([(), other], tmp_path / place, who, SOON)
        return [(code.stub, code.data) if code else None for code in codes]

    there = made("there", crew)
    assert (crew.cores, crew.are_elsewhere) == (2, True)
    assert not (tmp_path / "there").exists()  # nothing was made here
    dask.processes[0].kill()
    wait_for(lambda: not crew.are_elsewhere)
    assert (crew.cores, made("here", crew)) == (1, made("alone", makers.Here(1)))
    assert None not in there
    assert there == made("as there", makers.Here(2))


def test_a_search_does_not_wait_for_a_cluster_that_does_not_answer(
    dask: Dask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    small = Kernels(DATA / "small.mlir", tmp_path, resolve(*executables("x86-64")), SHAPES)
    trials = small.trials(small.of("matmul"))
    dask.worker("one")
    crew = makers.find(1)
    monkeypatch.setattr(makers, "_SENT", -60.0)  # as if all that time had passed
    (code,) = trials.generate([()], tmp_path / "there", crew, SOON)
    assert code
    assert "the search goes on without the cluster: it did not answer" in caplog.text
    assert not crew.are_elsewhere


def test_nothing_to_do_does_not_contact_a_cluster(built: Project) -> None:
    result = built.doit(PIPELINE_SCHEDULER="tcp://127.0.0.1:1")
    assert (result.returncode, result.stdout.split(" in ")[0]) == (0, "7 up to date")


def test_all_hits_do_not_import_dask(cold: tuple[Path, Cache], tmp_path: Path) -> None:  # noqa: F811
    program = "from tests.test_pieces import *; import sys; from pathlib import Path\n"
    program += f"print(build(SMALL, Path({str(tmp_path)!r}), DESKTOP, cache_at(Path({str(cold[1].local.folder)!r}))).local)\n"
    program += "assert 'distributed' not in sys.modules"
    environment = {**os.environ, "PIPELINE_SCHEDULER": "tcp://127.0.0.1:1", "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (result.stdout, result.returncode) == ("12\n", 0), result.stderr


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("tcp://10.0.0.1:8786", True),
        ("scheduler:8786", True),
        ("ws://scheduler:8786", True),
        ("tcp://[2001:db8::1]:8786", True),
        ("tcp://localhost.example.org:8786", True),
        ("tls://scheduler:8786", False),
        ("tcp://127.0.0.1:8786", False),
        ("tcp://[::1]:8786", False),
        ("localhost:8786", False),
    ],
)
def test_a_scheduler_that_others_may_reach_is_named(address: str, told: bool) -> None:
    assert cluster.is_open(address) == told


def test_what_anybody_may_reach_is_said_once(
    dask: Dask, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "is_open", lambda _: True)
    for _ in range(2):
        cluster._connect(dask.address)
    assert caplog.text.count(f"{dask.address} is not encrypted, and runs what anybody sends it") == 1


def test_a_cluster_may_speak_tls_and_takes_nobody_without_a_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, builders_key: Path
) -> None:
    distributed = pytest.importorskip("distributed")
    for name in ("own", "other"):
        made = distributed.Security.temporary()
        (tmp_path / f"{name}.ca").write_text(made.tls_ca_file)
        (tmp_path / f"{name}.pem").write_text(made.tls_client_cert + made.tls_client_key)
    (tmp_path / "dask").mkdir()
    prefix = "DASK_DISTRIBUTED__COMM__TLS__"
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION", "true")
    monkeypatch.setenv(f"{prefix}CA_FILE", str(tmp_path / "own.ca"))
    for side in ("SCHEDULER", "WORKER", "CLIENT"):
        monkeypatch.setenv(f"{prefix}{side}__CERT", str(tmp_path / "own.pem"))
    encrypted = Dask(tmp_path / "dask", "tls")

    def cores(**variables: str) -> subprocess.CompletedProcess[str]:
        code = f"from pipeline.iree.codegen.cluster import Cluster; print(Cluster({encrypted.address!r}).cores())"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
        return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)

    try:
        encrypted.scheduler()
        encrypted.worker("one")
        assert cores(PIPELINE_SCHEDULER_TIMEOUT="1800").stdout == "1\n"
        strange = {f"{prefix}CA_FILE": str(tmp_path / "other.ca"), f"{prefix}CLIENT__CERT": str(tmp_path / "other.pem")}
        assert "no Dask scheduler answers" in cores(PIPELINE_SCHEDULER_TIMEOUT="3", **strange).stderr
    finally:
        encrypted.close()

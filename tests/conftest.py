"""Stores (a directory, and buckets of real S3 servers that start when first needed), and a built project to break."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from pipeline.files import locked
from pipeline.store.base import Store
from pipeline.store.open import open_store
from tests import servers
from tests.project import Project
from tests.publishing import Package, make_package
from tests.waiting import FOREVER

# Each takes half a minute or more there, all its forms together, and is the same in a folder.
_LONG_IN_A_BUCKET = (
    "test_a_failure_at_any_step_leaves_no_half_release_and_can_be_repeated",
    "test_damage_is_found_and_repaired",
    "test_eight_publishers_at_once",
    "test_witnesses_that_write_at_once_and_are_killed_lose_nothing_and_leave_no_half",
)
_LONG_FILES = ("test_life.py",)  # the same of whole files


@pytest.hookimpl(tryfirst=True)  # before those that are not asked for are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ceph differs from SeaweedFS in conditional writes and in rights: what is about other things is thorough with it."""
    for item in items:
        if "ceph" in item.name and item.path.name not in (
            "test_store.py",
            "test_documents.py",
            "test_policy.py",
            "test_rights.py",
        ):
            item.add_marker(pytest.mark.thorough)
        long = getattr(item, "originalname", "") in _LONG_IN_A_BUCKET or item.path.name in _LONG_FILES
        if "seaweedfs" in item.name and long and "a blob has other bytes" not in item.name:
            item.add_marker(pytest.mark.thorough)


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the processes of this session of tests share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def _own_cache(common: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caches for this session of tests: nobody's own is read, filled or asked, and those that run at once do no work twice."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIPELINE_CACHE_DIR", str(common / "pieces"))
        patch.setenv("MESA_SHADER_CACHE_DIR", str(common / "shaders"))  # for users without a home, too
        patch.setenv("PIPELINE_RUNTIMES", "none")  # but in the tests that are about them
        patch.setenv("VMFB_TRUST_DIR", str(base / "trust"))  # nobody's own either
        patch.setattr("pipeline.terminal.SILENCE", 600.0)  # what a slow machine would add to what is compared
        patch.setenv("VMFB_CACHE", str(base / "fetched"))
        patch.delenv("VMFB_REQUIRE_SIGNED", raising=False)
        for name in ("CACHE", "CACHE_KEY", "CACHE_READ_ONLY", "CACHE_SIZE", "KEYS", "SCHEDULER", "WITNESSES"):
            patch.delenv(f"PIPELINE_{name}", raising=False)
        yield


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """A SeaweedFS server."""
    with servers.seaweedfs(tmp_path_factory.mktemp("seaweedfs")) as weed:
        yield weed.server


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Server]:
    """A Ceph cluster with a gateway."""
    with servers.ceph(tmp_path_factory.mktemp("ceph")) as server:
        yield server


@pytest.fixture(params=["seaweedfs", "ceph"])
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> servers.Server:
    """Each S3 server in turn, named by the AWS variables."""
    running: servers.Server = request.getfixturevalue(request.param)
    servers.use_aws(monkeypatch, running.endpoint)
    return running


@pytest.fixture(params=["directory", "seaweedfs", "ceph"])
def new_store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], Store]:
    """Makes empty stores: of each kind in turn, each call another one."""
    if request.param == "directory":
        return lambda: open_store(str(tmp_path / uuid.uuid4().hex))
    servers.use_aws(monkeypatch, request.getfixturevalue(request.param).endpoint)
    return lambda: open_store(f"s3://{servers.BUCKET}/{uuid.uuid4().hex}")


@pytest.fixture
def store(new_store: Callable[[], Store]) -> Store:
    """An empty store of each kind in turn."""
    return new_store()


@pytest.fixture
def package(tmp_path: Path) -> Package:
    """Makes packages, each with the content that it is given."""
    return partial(make_package, tmp_path)


@pytest.fixture(scope="session")
def built(common: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy of the project that the first process that asks has built: it takes a minute."""
    made = common / "built"
    with locked(common / "built.lock", "another process builds it", FOREVER):
        if not made.exists():
            project = Project(tmp_path_factory.mktemp("making"), "small")
            result = project.doit()
            assert result.returncode == 0, result.stdout + result.stderr
            assert "published small@" in result.stdout
            project.root.rename(made)
    return Project.at(Path(shutil.copytree(made, tmp_path_factory.mktemp("built") / "project")))


@pytest.fixture
def again(built: Project, tmp_path: Path) -> Project:
    """A copy of the built project, to break."""
    return Project.at(Path(shutil.copytree(built.root, tmp_path / "again")))


@pytest.fixture
def builders_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A key as PIPELINE_CACHE_KEY names it."""
    path = tmp_path / "key"
    path.write_bytes(os.urandom(32))
    path.chmod(0o600)
    monkeypatch.setenv("PIPELINE_CACHE_KEY", str(path))
    return path

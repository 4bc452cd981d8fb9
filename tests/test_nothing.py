"""Nothing to do takes no time, and whatever is changed is noticed all the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.layout import LEASES
from tests import servers
from tests.liar import Liar, liar
from tests.project import Project, manifest


@pytest.fixture
def quiet(again: Project) -> Project:
    """A project that found nothing to do, and remembers it."""
    assert again.doit().returncode == 0
    assert "up to date in" in again.doit().stdout
    assert again.layout.snapshot.exists()
    assert imported(again) == set()
    return again


def imported(project: Project) -> set[str]:
    """Which of the slow parts a run of doit imports: none, if its memory holds."""
    done = project.doit("--help")  # the interpreter's own start, checked to work
    assert done.returncode == 0
    run = project.doit(PYTHONVERBOSE="1")
    assert run.returncode == 0
    assert "up to date in" in run.stdout
    return {name for name in ("yaml", "pipeline.plan", "pipeline.progress") if f"import '{name}'" in run.stderr}


def spec(project: Project) -> Path:
    return project.targets / "models" / "small.yaml"


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


CHANGES: dict[str, Callable[[Project], object]] = {
    "a spec": lambda p: grow(spec(p)),
    "a new spec": lambda p: p.add("half"),
    "a removed spec": lambda p: (p.targets / "executables" / "vulkan-any.yaml").unlink(),
    "an output": lambda p: grow(p.layout.verified("small", "desktop") / "module.vmfb"),
    "a lost output": lambda p: (p.layout.package("small") / "manifest.json").unlink(),
    "a lost blob": lambda p: (
        p.layout.store / f"blobs/sha256/{manifest(p).artifacts[0].blob.sha256[:2]}/{manifest(p).artifacts[0].blob.sha256}"
    ).unlink(),
    "doit's database": lambda p: p.layout.database.unlink(),
    "its own memory": lambda p: p.layout.snapshot.write_text('{"count": 3'),
    "dodo.py": lambda p: grow(p.root / "dodo.py"),
    "only a time": lambda p: os.utime(p.layout.imported("small") / "model.mlirbc"),
}


QUICK = ("a spec", "an output", "a lost blob", "doit's database", "its own memory")  # the others take as long each


@pytest.mark.parametrize("what", [name if name in QUICK else pytest.param(name, marks=pytest.mark.thorough) for name in CHANGES])
def test_a_change_is_looked_at_properly(quiet: Project, what: str) -> None:
    CHANGES[what](quiet)
    run = quiet.doit(PYTHONVERBOSE="1")
    assert "import 'pipeline.plan'" in run.stderr
    if what not in ("a removed spec", "an output"):
        assert run.returncode == 0, run.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["version=2.0"],
        ["list", "--all"],
        *(
            pytest.param(words, marks=pytest.mark.thorough)
            for words in (["-a"], ["channel=beta"], ["verify"], ["publish:nothing"])
        ),
    ],
)
def test_another_command_is_another_question(quiet: Project, words: list[str]) -> None:
    run = quiet.doit(*words, PYTHONVERBOSE="1")
    assert "import 'pipeline.plan'" in run.stderr


def test_another_store_is_another_question(quiet: Project, tmp_path: Path) -> None:
    run = quiet.doit(PIPELINE_STORE=str(tmp_path / "other"))
    assert "1 done" in run.stdout


def published(server: Liar) -> set[str]:
    """The keys of what a server has, but for those that each publisher makes up."""
    return {key for key in server.objects if LEASES not in key}


@pytest.mark.thorough
def test_a_bucket_is_asked_whether_the_release_is_there(again: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    with liar() as server, liar() as other:
        servers.use_aws(monkeypatch, server.endpoint)
        store = {"PIPELINE_STORE": "s3://bucket/prefix"}
        assert "1 done" in again.doit(**store).stdout
        assert "up to date in" in again.doit(**store).stdout
        server.requests.clear()
        run = again.doit(**store, PYTHONVERBOSE="1")
        assert "up to date in" in run.stdout
        assert "import 'pipeline.plan'" not in run.stderr
        assert [method for method, _ in server.requests] == ["GET"]
        assert "1 done" in again.doit(**store, AWS_ENDPOINT_URL_S3=other.endpoint).stdout
        assert published(server) == published(other)
        assert again.doit(**store).returncode == 0
        assert "up to date in" in again.doit(**store).stdout
        server.objects.clear()
        said = again.doit("explain", "publish:small", **store).stdout
        assert "manifest.json is not in the store any more" in said
        assert "1 done" in again.doit(**store).stdout
        assert published(server) == published(other)


def test_a_blob_that_was_damaged_in_the_store_is_mended(quiet: Project) -> None:
    blob = next(path for path in (quiet.layout.store / "blobs").rglob("*") if path.is_file())
    right = blob.read_bytes()
    blob.write_bytes(right[::-1])
    assert "1 done" in quiet.doit().stdout
    assert blob.read_bytes() == right


def test_what_was_forgotten_is_done_again(quiet: Project) -> None:
    assert quiet.doit("forget", "package:small").returncode == 0
    assert "done" in quiet.doit().stdout


def test_a_failure_is_never_remembered_as_nothing_to_do(quiet: Project) -> None:
    spec(quiet).write_text(spec(quiet).read_text().replace("about:", "abuot:"))
    assert quiet.doit().returncode == 3
    assert quiet.doit().returncode == 3

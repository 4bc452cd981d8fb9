"""Kills: a step of the pipeline begins, and is killed at any moment, again and again. Then it must go through, and all be right.

A step is a line of `STEPS`: whoever adds a command that writes adds it there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from pipeline.consume.cache import Cache
from pipeline.consume.reference import Reference
from pipeline.consume.resolve import Remote, Resolver
from pipeline.errors import PipelineError
from pipeline.files import locked
from pipeline.layout import release_of
from pipeline.stages import promote, prune, rollback, trust, yank
from pipeline.stages.publish import publish
from pipeline.store import leases
from pipeline.store.base import Store
from pipeline.store.open import open_store, open_to_publish
from pipeline.trust.signed import signing
from tests.bench.chaos import require, silence
from tests.project import Project, leftovers
from tests.publishing import MODEL, assert_whole, make_package, pointed_at
from tests.trusting import begun
from tests.waiting import FOREVER

_LONGEST = 1.5  # times as long as a step takes; then it is killed at the latest
_KILLS = 4  # of a step, at most, before it may end


@dataclass(frozen=True)
class Step:
    """What is killed. `act` and `prepare`, which is not killed, take the folder of a round and the URL of the store."""

    act: Callable[[Path, str], object]
    prepare: Callable[[Path, str], object] = lambda folder, url: None
    check: Callable[[Path, str], None] = lambda folder, url: None


def _package(folder: Path) -> Path:
    return make_package(folder, f"content of {folder.name}")


def _publish(folder: Path, url: str) -> None:
    publish(_package(folder), signing(open_to_publish(url, folder / "uploads.json"), url))


def _promote(folder: Path, url: str) -> None:
    version = _version(folder, url)
    promote.run(url, MODEL, version, "stable", {}, folder / "promoted", channels=("stable",))


def _version(folder: Path, url: str) -> str:
    receipt = publish(_package(folder), signing(open_to_publish(url), url))
    return str(receipt["release"]).partition("@")[2]


def _is_promoted(folder: Path, url: str) -> None:
    require(pointed_at(open_store(url), "stable") == _version(folder, url), "the channel is where it was moved to")


def _rollback(folder: Path, url: str) -> None:
    rollback.run(url, MODEL, "", "latest", {}, folder / "rolled-back")


def _to_roll_back(folder: Path, url: str) -> None:
    """As many releases as may be gone back from: what is killed may have done its work."""
    for number in range(_KILLS + 1):
        publish(make_package(folder / str(number), f"{number} of {folder.name}"), signing(open_to_publish(url), url))


def _yank(folder: Path, url: str) -> None:
    yank.run(url, MODEL, (folder / "version").read_text(), "it was made to be yanked", False, folder / "yanked")


def _to_yank(folder: Path, url: str) -> None:
    """A release that no channel points to, since the next has come."""
    (folder / "version").write_text(_version(folder, url))
    publish(make_package(folder, f"what follows {folder.name}"), signing(open_to_publish(url), url))


def _is_yanked(folder: Path, url: str) -> None:
    with contextlib.suppress(PipelineError):
        Resolver(Remote(url), Cache(folder / "cache")).manifest(Reference(MODEL, version=(folder / "version").read_text()))
        require(False, "a release that was yanked is not resolved")


def _prune(folder: Path, url: str) -> None:
    prune.run(url, 2, MODEL, "", folder / "pins.txt", False, folder / "pruned")


def _refresh(folder: Path, url: str) -> None:
    trust.run("refresh", url, {}, folder / "refreshed")


def _is_resolved(folder: Path, url: str) -> None:
    Resolver(Remote(url), Cache(folder / "resolved")).manifest(Reference(MODEL, channel="latest"))


STEPS: dict[str, Step] = {
    "publish": Step(_publish, check=_is_resolved),
    "promote": Step(_promote, prepare=_version, check=_is_promoted),
    "rollback": Step(_rollback, prepare=_to_roll_back, check=_is_resolved),
    "yank": Step(_yank, prepare=_to_yank, check=_is_yanked),
    "prune": Step(_prune, prepare=_version, check=_is_resolved),
}
SIGNED_STEPS = STEPS | {"trust-refresh": Step(_refresh, prepare=_version, check=_is_resolved)}


@contextlib.contextmanager
def signed_store(folder: Path) -> Iterator[str]:
    """A signed store in a folder, whose keys and signers this process knows."""
    with pytest.MonkeyPatch.context() as patch:
        yield begun(folder, patch).url


def store_is_whole(store: Store) -> int:
    """Every release has all its blobs, to the byte, and every channel points to one; how many releases there are."""
    releases = [found for key in store.keys("releases/") if (found := release_of(key))]
    for model, version in releases:
        if model == MODEL:
            assert_whole(store, version)
    for key in store.keys(f"channels/{MODEL}/"):
        pointed_at(store, key.split("/")[-1].removesuffix(".json"))
    return len(releases)


def _started(act: Callable[[], object]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        silence()
        act()
        code = 0
    finally:
        os._exit(code)


def killed(act: Callable[[], object], after: float) -> bool:
    """Do `act` in a child and kill it after so many seconds; whether it was at work still."""
    child = _started(act)
    end = time.monotonic() + after
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1] != 0


def steps(folder: Path, url: str, rounds: int, seed: int = 0, of: Mapping[str, Step] = STEPS) -> dict[str, int]:
    """Kill each step `rounds` times, a few times a release; how many kills found it at work."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leases, "PATIENCE", 1.0)  # here nobody prunes but who is waited for, and that one is dead
        return _steps(folder, url, rounds, seed, of)


def _steps(folder: Path, url: str, rounds: int, seed: int, of: Mapping[str, Step]) -> dict[str, int]:
    chance, hits, made = random.Random(seed), dict.fromkeys(of, 0), 0
    for name, step in of.items():
        here = folder / name
        took = 0.05
        while hits[name] < rounds:
            here = folder / f"{name}-{made}"
            here.mkdir(parents=True)
            made += 1
            step.prepare(here, url)
            for _ in range(chance.randint(1, _KILLS)):
                hits[name] += killed(partial(step.act, here, url), chance.uniform(0, took * _LONGEST))
                store_is_whole(open_store(url))
                if made > 1:
                    _is_resolved(here, url)  # what consumers read is the old state or the new one
            started = time.monotonic()
            require(not os.waitpid(_started(partial(step.act, here, url)), 0)[1], f"{name} goes through after it was killed")
            took = time.monotonic() - started
            step.check(here, url)
            require(store_is_whole(open_store(url)), "a release is there")
            if "://" not in url:
                left = [p for p in Path(url).rglob(".*") if p.is_file() and p.name != ".lock"]
                require(all(time.time() - p.stat().st_mtime < 3600 for p in left), "what kills leave is new, and hidden")
            shutil.rmtree(here)
    return hits


def builds(folder: Path, rounds: int, seed: int = 0) -> int:
    """Kill doit, which builds and publishes, alone: its tools must end with it. How many kills found it at work."""
    chance, hits, number = random.Random(seed), 0, 0
    took = 10.0
    while hits < rounds:
        project = Project(folder / f"build-{number}", "small")
        number += 1
        for _ in range(chance.randint(2, 5)):
            words = project.command()
            running = subprocess.Popen(
                words, cwd=project.root, env=project.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                running.wait(chance.uniform(0, took))
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()
                hits += 1
            with locked(project.layout.lock, "its tools are at work still", 30):
                store_of(project)
        started = time.monotonic()
        done = project.doit(timeout=FOREVER)
        took = max(time.monotonic() - started, 2.0)
        require(done.returncode == 0, f"a build goes through after it was killed: {done.stdout}{done.stderr}")
        require("up to date" in project.doit().stdout, "and is done then")
        require(not leftovers(project), "nothing is left")
        require(not at_work(project.root), "no process is left")
        shutil.rmtree(project.root)
    return hits


def store_of(project: Project) -> None:
    """The project's store is whole, whatever is in it."""
    from pipeline.manifest.codec import decode
    from pipeline.manifest.types import Manifest

    for path in project.layout.store.glob("releases/*/*/manifest.json"):
        for blob in decode(Manifest, path.read_bytes(), str(path)).blobs():
            data = (project.layout.store / f"blobs/sha256/{blob.sha256[:2]}/{blob.sha256}").read_bytes()
            require((len(data), hashlib.sha256(data).hexdigest()) == (blob.size, blob.sha256), "every blob is right")


def at_work(at: Path) -> list[str]:
    """The processes at work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == at:
                found.append(process.name)
        except OSError:
            pass
    return found

"""Faulty requests, and servers that publishers race on: whatever happens, the store is right, or an error says that it is not."""

from __future__ import annotations

import gc
import logging
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.layout import INDEX_KEY
from pipeline.manifest.codec import decode
from pipeline.manifest.types import Index
from pipeline.stages.publish import publish
from pipeline.store import conditions
from pipeline.store.open import open_store, open_to_publish
from tests import servers
from tests.bench.chaos import descriptors, require
from tests.bench.chaos.kills import store_is_whole
from tests.liar import CHUNK, DAMAGE, HALF, LOST, MADE_UP, NO_ETAG, REFUSAL, TWICE, liar
from tests.publishing import make_package, pointed_at

FAULTS = (MADE_UP, HALF, CHUNK, REFUSAL, NO_ETAG, DAMAGE, TWICE, LOST)
PUBLISHERS = 8


def faulty(folder: Path, wanted: int, part: float = 0.2, seed: int = 0) -> dict[str, int]:
    """Publish to a server of which that part of the requests is faulty until there were `wanted` such; what came of it.

    PUBLISHERS at a time, each to a store of its own: most of the time they wait before they try again.
    """
    chance, counts = random.Random(seed), dict.fromkeys(FAULTS, 0) | {"published": 0, "refused": 0}
    lock, well = threading.Lock(), {f"chaos-{number}" for number in range(PUBLISHERS)}

    def fault(_number: int, _method: str, key: str) -> str:  # called by one at a time
        if key.split("/")[0] in well or chance.random() >= part:
            return ""
        kind = chance.choice(FAULTS)
        counts[kind] += 1
        return kind

    def published(number: int, name: str) -> None:
        url, version = f"s3://{name}", f"1.{number}"
        package = make_package(folder / name, f"content {number}")
        well.discard(name)
        try:
            publish(package, open_store(url), version=version)
            came = "published"
        except PipelineError:
            came = "refused"
        finally:
            well.add(name)
        with lock:
            counts[came] += 1
        store = open_store(url)
        if came == "published":
            require(pointed_at(store) == version, "what counts as published is, to the byte")
        store_is_whole(store)
        publish(package, store, version=version)  # and without faults it goes through
        require(pointed_at(store) == version, "the next run goes on")
        shutil.rmtree(package)

    def publisher(name: str) -> None:
        number = 0
        while sum(counts[kind] for kind in FAULTS) < wanted:
            published(number := number + 1, name)

    with pytest.MonkeyPatch.context() as patch, liar() as server:
        servers.use_aws(patch, server.endpoint)
        server.fault = fault
        before = descriptors()
        with ThreadPoolExecutor(PUBLISHERS) as pool:
            for _ in pool.map(publisher, sorted(well)):
                pass
        gc.collect()
        require(descriptors() <= before + 40, f"{descriptors()} files are open, {before} were")
    return counts


def race(folder: Path, url: str) -> dict[str, int]:
    """PUBLISHERS of one version with other contents: one wins. Then of a version each: all are there, and the index is right."""

    def of(number: int, version: str) -> bool:
        try:
            publish(packages[number], open_to_publish(url), version=version)
        except PipelineError as error:
            require("published already" in str(error), f"the loser is told why: {error}")
            return False
        return True

    packages = [make_package(folder, f"{number} of the race") for number in range(PUBLISHERS)]
    with ThreadPoolExecutor(PUBLISHERS) as pool:
        won = list(pool.map(lambda number: of(number, "1"), range(PUBLISHERS)))
        require(sum(won) == 1, f"one publisher of a version wins, not {sum(won)}")
        require(all(pool.map(lambda number: of(number, f"2.{number}"), range(PUBLISHERS))), "each of another version wins")
    store = open_store(url)
    found = store.get(INDEX_KEY)
    require(found, "there is an index")
    (model,) = decode(Index, found.data if found else b"", INDEX_KEY).models
    require(model.versions == ("1", *(f"2.{number}" for number in range(PUBLISHERS))), "the index has all versions")
    said = {c.channel: c.version for c in model.channels}
    require(said == {"latest": pointed_at(store)}, "the index says what the channel does")
    return {"releases": store_is_whole(store)}


@contextmanager
def moto() -> Iterator[str]:
    """The endpoint of a moto server with a bucket."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it tells of each request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        servers.client_of(endpoint).create_bucket(Bucket=servers.BUCKET)
        yield endpoint
    finally:
        server.stop()


@contextmanager
def s3rver(folder: Path, program: str) -> Iterator[str]:
    """The endpoint of npm's s3rver, which knows no conditions, with a bucket."""
    (port,) = servers.free_ports(1)
    words = [program, "-d", str(folder), "-a", "127.0.0.1", "-p", str(port), "--configure-bucket", servers.BUCKET]
    server = servers.Server(f"http://127.0.0.1:{port}", [servers._start(folder, *words)])
    try:
        servers._wait(server, folder, "s3rver", lambda: servers._answer(server.endpoint)[0] != 0)
        yield server.endpoint
    finally:
        server.kill()


@contextmanager
def ignorant() -> Iterator[str]:
    """The endpoint of a server that ignores both conditions."""
    with liar() as server:
        server.ignores = ("If-None-Match", "If-Match")
        yield server.endpoint


def refused(endpoint: str, credentials: tuple[str, str] = servers.OWNER) -> str:
    """What a publisher is told by a server that ignores conditions."""
    with pytest.MonkeyPatch.context() as patch:
        servers.use_aws(patch, endpoint, credentials)
        patch.setattr(conditions, "_obeyed", set())
        try:
            open_to_publish(f"s3://{servers.BUCKET}")
        except PipelineError as error:
            require("ignores If-None-Match" in str(error), f"it is refused by the name of what it lacks: {error}")
            return error.what
    raise AssertionError("a server that ignores conditions is believed")


def raced_on(folder: Path, endpoint: str) -> dict[str, int]:
    """`race` in a bucket of a server."""
    with pytest.MonkeyPatch.context() as patch:
        servers.use_aws(patch, endpoint)
        return race(folder, f"s3://{servers.BUCKET}/race-{os.getpid()}-{threading.get_ident()}")


def on_every_server(folder: Path, say: Callable[[str], None]) -> None:
    """The race on a folder and on three S3 servers; and those that lie are refused."""
    say(f"a folder: {PUBLISHERS} publishers at once, {race(folder, str(folder / 'store'))}")
    for name, started in (("SeaweedFS", servers.seaweedfs), ("Ceph", servers.ceph)):
        (folder / name).mkdir()
        with started(folder / name) as server:
            endpoint = server.endpoint if isinstance(server, servers.Server) else server.server.endpoint
            say(f"{name}: {PUBLISHERS} publishers at once, {raced_on(folder, endpoint)}")
    with moto() as endpoint:
        say(f"moto: {PUBLISHERS} publishers at once, {raced_on(folder, endpoint)}")
    with ignorant() as endpoint:
        say(f"a server without conditions is refused: {refused(endpoint)}")
    if program := shutil.which("s3rver"):
        (folder / "s3rver").mkdir()
        with s3rver(folder / "s3rver", program) as endpoint:
            say(f"s3rver is refused: {refused(endpoint, ('S3RVER', 'S3RVER'))}")
    else:
        say("s3rver is not here: npm install s3rver@3.7.1, and put node_modules/.bin on PATH")

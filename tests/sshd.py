"""A real sshd on loopback, whose users have the key that it makes, and a client's set-up that knows both."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests import servers
from tests.project import ROOT
from tests.waiting import wait_for

_CONFIG = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
PidFile none
MaxStartups 100
"""
_CLIENT = """
Host *
    IdentityFile {folder}/user
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known
    GlobalKnownHostsFile none
    LogLevel ERROR
"""


@dataclass(frozen=True)
class Sshd:
    """`client`: a folder to put before PATH, whose `ssh` can log in."""

    folder: Path
    port: int
    client: Path

    def witness(self, name: str, *lines: str) -> str:
        """The address of a witness whose `vmfb` is this shell script; `$VMFB` in it is the real one."""
        program = self.folder / name / "vmfb"
        program.parent.mkdir(exist_ok=True)
        real = f"export PYTHONPATH={ROOT}; VMFB='{sys.executable} -m pipeline.cli'"
        program.write_text("\n".join(["#!/bin/sh", real, *lines, ""]))
        program.chmod(0o755)
        return f"ssh://127.0.0.1:{self.port}{program}"


def _listens(port: int) -> bool:
    with socket.socket() as probe, suppress(OSError):
        probe.connect(("127.0.0.1", port))
        return True
    return False


@contextmanager
def sshd(folder: Path) -> Iterator[Sshd]:
    """It listens until the block ends."""
    program, keygen = (servers.command(name, "apt install openssh-server") for name in ("sshd", "ssh-keygen"))
    ssh = servers.command("ssh", "apt install openssh-client")
    for name in ("host", "user"):
        subprocess.run([keygen, "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    port = servers.free_ports(1)[0]
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "config").write_text(_CONFIG.format(port=port, folder=folder))
    (folder / "client").write_text(_CLIENT.format(folder=folder))
    (client := folder / "bin").mkdir()
    (client / "ssh").write_text(f'#!/bin/sh\nexec {ssh} -F {folder}/client "$@"\n')
    (client / "ssh").chmod(0o755)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # Debian's wants it
    process = servers._start(folder, shutil.which(program) or program, "-D", "-e", "-f", str(folder / "config"))
    try:
        wait_for(lambda: process.poll() is not None or _listens(port))
        assert process.poll() is None, (folder / "sshd.log").read_text()
        yield Sshd(folder, port, client)
    finally:
        servers.Server("", [process]).kill()

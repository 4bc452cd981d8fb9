"""`vmfb` as if on Windows: `python -m tests.elsewhere ARGUMENTS`. What it lacks is taken away, what it has besides is played.

Paths and the standard library stay those of this machine, and so do child processes.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import select
import signal
import subprocess
import sys
import tempfile  # noqa: F401  # it and the others ask which system this is when they are imported
import types
import urllib.request  # noqa: F401
import uuid  # noqa: F401
import warnings
import zipfile  # noqa: F401
from typing import Any

import boto3  # noqa: F401

_MODULES = "fcntl grp posix pty pwd resource syslog termios tty".split()
_PRODUCERS = "cache importers spec stages tasks iree.codegen iree.compiler iree.linking iree.toolchain".split()
_OS = """O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_PATH SEEK_DATA SEEK_HOLE chown fork forkpty getegid geteuid getgid getpgid getuid
killpg link mkfifo pidfd_open posix_fadvise posix_fallocate pread preadv pwrite pwritev readv sched_getaffinity
sendfile setsid statvfs sysconf uname writev""".split()
_SIGNALS = "SIGALRM SIGBUS SIGCHLD SIGHUP SIGKILL SIGPIPE SIGQUIT SIGUSR1 SIGUSR2".split()


def _locking(descriptor: int, mode: int, _count: int, flock: Any = fcntl.flock) -> None:
    try:
        flock(descriptor, mode)
    except BlockingIOError as error:
        raise PermissionError(13, "Permission denied") from error


def _no_key(*_: object) -> None:
    raise FileNotFoundError


def _refused(*_: object) -> int:
    return 0


def become_windows() -> None:
    """Take away and play."""
    platform.platform(), platform.processor()  # they are remembered
    played: dict[str, dict[str, Any]] = {
        "msvcrt": {"locking": _locking, "LK_NBLCK": fcntl.LOCK_EX | fcntl.LOCK_NB, "get_osfhandle": int},
        "winreg": {"OpenKey": _no_key, "HKEY_LOCAL_MACHINE": None},
    }
    for name, content in played.items():
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__dict__.update(content)
    kernel32 = types.SimpleNamespace(DeviceIoControl=_refused)
    ctypes.windll = types.SimpleNamespace(kernel32=kernel32)  # type: ignore[attr-defined]
    os.O_BINARY, signal.SIGBREAK = 0, signal.SIGUSR1  # type: ignore[attr-defined]
    for module, names in ((os, _OS), (signal, _SIGNALS), (select, ["poll", "epoll"])):
        for name in names:
            delattr(module, name)
    for name in (*_MODULES, *(f"pipeline.{name}" for name in _PRODUCERS)):
        sys.modules[name] = None  # type: ignore[assignment]
    subprocess.Popen.kill = subprocess.Popen.terminate  # type: ignore[method-assign]
    warnings.filterwarnings("error", category=EncodingWarning, module=r"pipeline\..*")
    sys.platform = "win32"


if __name__ == "__main__":
    become_windows()
    from pipeline import cli

    sys.exit(cli.main(sys.argv[1:]))

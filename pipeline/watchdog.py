"""What ends the processes of a program that was killed, which can do so no more: a shell that waits for the program's end.

Only on Linux, where every process that descends from the program can be told by its environment, whatever group it is in.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import threading
import uuid
from contextlib import suppress

VARIABLE = "VMFB_RUN"  # names, in the environment of each process, the run that it belongs to

# It learns of the end by a pipe, which the kernel closes. A program that ends well says so first.
_WAIT = """trap '' HUP INT TERM; read -r line && exit; exec "$0" -I -S -c "$1" "$2" """
_END = """if True:
    import os, signal, sys, time
    mark = sys.argv[1].encode()

    def tell(number):
        told = 0
        for name in filter(str.isdecimal, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    if mark in file.read().split(b"\\0") and int(name) != os.getpid():
                        os.kill(int(name), number)
                        told += 1
            except OSError:
                pass
        return told

    end = time.monotonic() + 2
    while tell(signal.SIGTERM) and time.monotonic() < end:
        time.sleep(0.1)
    for _ in range(100):
        if not tell(signal.SIGKILL):
            break
        time.sleep(0.05)
"""
_lock = threading.RLock()  # a signal's handler may interrupt its own holder
_watching: dict[int, tuple[str, subprocess.Popen[bytes]] | None] = {}  # by process: a fork has none yet


def mark() -> dict[str, str]:
    """The variable of the environment by which this program's processes are known; from now on they end when it does."""
    if sys.platform != "linux":
        return {}
    with _lock:
        if os.getpid() not in _watching:
            _watching[os.getpid()] = None
            with suppress(OSError):  # a machine without a shell
                _watching[os.getpid()] = _start()
        watching = _watching[os.getpid()]
        return {VARIABLE: watching[0]} if watching else {}


def _start() -> tuple[str, subprocess.Popen[bytes]]:
    name = uuid.uuid4().hex
    environment = {n: v for n, v in os.environ.items() if n != VARIABLE}
    shell = subprocess.Popen(
        ["/bin/sh", "-c", _WAIT, sys.executable, _END, f"{VARIABLE}={name}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=environment,
        start_new_session=True,
    )
    atexit.register(_leave, os.getpid())
    return name, shell


def _leave(number: int) -> None:
    """Let go of a program that ends by itself."""
    if number == os.getpid() and (watching := _watching.pop(number, None)):
        _, shell = watching
        with suppress(OSError):
            if shell.stdin:
                shell.stdin.write(b"\n")
                shell.stdin.close()
        shell.wait()

"""What operating systems do differently, for whoever uses releases: on Linux, macOS and Windows. Nothing else asks which it is.

Releases are made on Linux only, by modules that use what it has.
"""

from __future__ import annotations

import errno
import os
import platform
import signal
import stat
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from pathlib import Path

if sys.platform == "win32":
    import ctypes
    import msvcrt
    import winreg
    from ctypes import wintypes

    ENDING_SIGNALS = (signal.SIGTERM, signal.SIGBREAK)
else:
    import fcntl
    import resource
    import select

    ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)

# Whether a process that has numpy and a runtime loaded can be forked: the frameworks of macOS do not survive it.
FORKS = sys.platform == "linux"
# Whether a file can be removed or replaced while a process has it open or mapped. Where it cannot, nobody else does it either.
OPEN_FILES_CAN_GO = sys.platform != "win32"
# What to give text to programs and pipes in; None: what the user's locale says. The one of Windows lacks most characters.
TEXT_ENCODING = "utf-8" if sys.platform == "win32" else None
# What may stand between the folders of a path.
SEPARATORS = tuple(filter(None, (os.sep, os.altsep)))

_PATIENCE = 2.0  # seconds in which a program that looks at a file in passing (a reader, a virus scanner) closes it
_SET_SPARSE = 0x900C4  # FSCTL_SET_SPARSE
_seeking = threading.Lock()


def terminal_takes_colors() -> bool:
    """Whether a terminal of this machine obeys what gives text a colour: the old console of Windows does not."""
    return sys.platform != "win32" or bool(os.environ.get("WT_SESSION") or os.environ.get("TERM"))


# Files


def lock(descriptor: int, wait: bool) -> bool:
    """Take the exclusive lock on a file, which ends when it is closed. False if another has it; never so if told to `wait`."""
    if sys.platform == "win32":
        while True:
            os.lseek(descriptor, 0, os.SEEK_SET)
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
                return True
            except OSError as error:  # that another has it is EACCES, and 0 in Wine
                if error.errno in (errno.EINVAL, errno.EBADF):
                    raise
                if not wait:
                    return False
                time.sleep(0.05)
    else:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def replace(source: Path, target: Path) -> None:
    """Rename `source` to `target`, which may be there. Windows refuses while it is open: then it is tried for a while."""
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if OPEN_FILES_CAN_GO or time.monotonic() > end:
                raise
            time.sleep(0.02)


def name_anew(source: Path, target: Path) -> None:
    """Give the file `source` the name `target`, in one moment. Raises FileExistsError if that is taken."""
    if sys.platform == "win32":
        source.rename(target)
    else:
        os.link(source, target)


def is_own(state: os.stat_result, to_read: bool = False) -> bool:
    """Whether nobody but this user (and root) may write to a file or folder; `to_read`: nor read it. Always so on Windows."""
    if sys.platform == "win32":
        return True
    return state.st_uid in (0, os.geteuid()) and not state.st_mode & (0o077 if to_read else 0o022)


def open_to_write(path: Path) -> int:
    """The descriptor of a file to read and to write, made if it is not there. A link is not followed, but replaced."""
    if sys.platform == "win32":
        if path.is_symlink():
            path.unlink()
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_BINARY)
    while True:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EMLINK) or not path.is_symlink():
                raise
        path.unlink(missing_ok=True)


def open_to_read(path: Path) -> int:
    """The descriptor of a file to read. Raises OSError for what is no regular file: a pipe would be waited for."""
    if sys.platform == "win32":
        return os.open(path, os.O_RDONLY | os.O_BINARY)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return descriptor


def resize(descriptor: int, size: int) -> None:
    """Make a file `size` bytes long. What is new of it is a hole, where the file system has such."""
    if sys.platform == "win32":
        if size > os.fstat(descriptor).st_size:  # `ftruncate` would write every zero
            handle = wintypes.HANDLE(msvcrt.get_osfhandle(descriptor))
            # A file system that has no holes refuses, and writes the zeros itself.
            ctypes.windll.kernel32.DeviceIoControl(handle, _SET_SPARSE, None, 0, None, 0, ctypes.byref(wintypes.DWORD()), None)
            write_at(descriptor, memoryview(b"\0"), size - 1)
            return
    os.ftruncate(descriptor, size)


def write_at(descriptor: int, data: memoryview, offset: int) -> int:
    """Write the front of `data` at `offset`, from any thread; returns how many bytes."""
    if sys.platform == "win32":
        with _seeking:
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.write(descriptor, data)
    return os.pwrite(descriptor, data, offset)


def read_at(descriptor: int, length: int, offset: int) -> bytes:
    """The `length` bytes at `offset`, from any thread; fewer at the file's end."""
    if sys.platform == "win32":
        with _seeking:
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.read(descriptor, length)
    return os.pread(descriptor, length, offset)


def may_have_data(descriptor: int, offset: int, end: int) -> bool:
    """Whether no hole is between `offset` and `end`; true where the system does not tell."""
    if sys.platform == "win32":
        return True
    try:
        return os.lseek(descriptor, offset, os.SEEK_HOLE) >= end
    except OSError:
        return False


def data_ranges(descriptor: int) -> Iterator[tuple[int, int]]:
    """Where a file has data, from offset to end, in order; all of it where the system does not tell its holes."""
    size, end = os.fstat(descriptor).st_size, 0
    if sys.platform == "win32":
        yield 0, size
        return
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
            end = os.lseek(descriptor, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno != errno.ENXIO:  # which says that the rest is a hole
                yield end, size
            return
        yield start, end


def cache_folder() -> Path:
    """Where programs keep what can be fetched again. Raises RuntimeError for a user without a home."""
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local)
    return Path("~/.cache").expanduser()


def config_folder() -> Path:
    """Where programs keep what their user has decided. Raises RuntimeError for a user without a home."""
    if sys.platform == "win32" and (roaming := os.environ.get("APPDATA")):
        return Path(roaming)
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()


def is_private(descriptor: int) -> bool:
    """Whether nobody but its owner may read an open file. True where a folder's rights decide, as in a home on Windows."""
    return sys.platform == "win32" or not os.fstat(descriptor).st_mode & 0o077


def boot() -> str:
    """What changes when this machine starts again, and is empty where it does not tell.

    Until then, what was written can be read, synced or not.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
    except OSError:
        return ""


# Processes


def end_group(process: subprocess.Popen[bytes], forcibly: bool) -> bool:
    """Tell a process and its children to end; False if nobody is left. On Windows it always dies at once, and alone."""
    if sys.platform == "win32":
        process.kill()
        return True
    try:
        os.killpg(process.pid, signal.SIGKILL if forcibly else signal.SIGTERM)
        return True
    except ProcessLookupError:
        return False


def end_fork(number: int, forcibly: bool) -> None:
    """Tell a fork of this process's child to end."""
    if sys.platform != "win32":
        os.kill(number, signal.SIGKILL if forcibly else signal.SIGTERM)


def fork() -> int:
    """`os.fork`, where this machine FORKS."""
    if sys.platform != "win32":
        return os.fork()
    raise NotImplementedError


def wait(process: subprocess.Popen[bytes], timeout: float) -> int:
    """Wait for a process's end, `timeout` seconds: its return code, or TimeoutError.

    `Popen.wait` with a timeout looks only every 50 ms: long, for tools that take as long.
    """
    if sys.platform == "linux":
        try:
            descriptor = os.pidfd_open(process.pid)
        except OSError:  # ended and waited for, by an interrupt's handler; or the kernel is older than 5.3
            pass
        else:
            try:
                if not becomes_readable(descriptor, timeout):
                    raise TimeoutError
            finally:
                os.close(descriptor)
    try:
        return process.wait(timeout)
    except subprocess.TimeoutExpired:
        raise TimeoutError from None


def becomes_readable(descriptor: int, timeout: float) -> bool:
    """Whether a pipe has something to read, or ends, within `timeout` seconds. For children that FORKS, and their like."""
    if sys.platform != "win32":
        waiter = select.poll()
        waiter.register(descriptor, select.POLLIN)
        return bool(waiter.poll(timeout * 1000))
    raise NotImplementedError


def is_closed_pipe(error: OSError) -> bool:
    """Whether a write failed since nobody reads any more."""
    return isinstance(error, BrokenPipeError) or (sys.platform == "win32" and error.errno == errno.EINVAL)


# The machine


def machine() -> str:
    """The architecture that this process runs on, as `platform.machine` names it. On Windows it may be an emulated one."""
    if sys.platform == "win32":
        return sysconfig.get_platform().removeprefix("win-").upper()
    return platform.machine()


def cpu_name() -> str:
    """The CPU's name for people, or of its architecture where the system does not tell."""
    if sys.platform == "win32":
        found = _registry(r"HARDWARE\DESCRIPTION\System\CentralProcessor\0", ("ProcessorNameString",))
        return found[0] if found else platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    found = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return found[0] if found else platform.machine() or "CPU"


def peak_memory() -> int | None:
    """The most bytes of memory that this process has had; None on Windows, where nothing in Python tells."""
    if sys.platform != "win32":
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    return None


def traits() -> list[str]:
    """What of this machine changes when other devices or drivers are here. Nothing on Linux, whose files tell all."""
    if sys.platform == "linux":
        return []
    found = [platform.platform(), platform.processor()]
    if sys.platform == "win32":
        adapters = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}"
        for number in range(16):
            found += _registry(rf"{adapters}\{number:04}", ("DriverDesc", "DriverVersion"))
    return found


if sys.platform == "win32":

    def _registry(key: str, names: tuple[str, ...]) -> list[str]:
        try:
            with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as opened:
                return [str(winreg.QueryValueEx(opened, name)[0]).strip() for name in names]
        except OSError:
            return []

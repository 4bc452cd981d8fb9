"""A Dask cluster for tests and measurements: a scheduler and workers, as processes that share nothing but the network."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from tests import servers
from tests.project import ROOT
from tests.waiting import wait_for


class Dask:
    """A scheduler, and workers that each have a folder and a cache of their own."""

    def __init__(self, folder: Path, protocol: str = "tcp") -> None:
        if not importlib.util.find_spec("distributed"):
            servers.missing("needs distributed: pip install -e '.[cluster]'")
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        self.port = servers.free_ports(1)[0]
        self._protocol, self.address = protocol, f"{protocol}://127.0.0.1:{self.port}"

    def scheduler(self) -> None:
        """Start it; return when it listens."""
        words = ["scheduler", "--protocol", self._protocol, "--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard"]
        log = self._start("scheduler", {}, *words) / "log"
        wait_for(lambda: "Scheduler at:" in log.read_text())

    def worker(self, name: str, *more: str, **environment: str) -> Path:
        """Start a worker of one thread, with `more` options; its folder, when the scheduler knows it."""
        words = ["worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard", "--name", name, "--host", "127.0.0.1"]
        words += ["--protocol", self._protocol]
        folder = self._start(name, environment, *words, *more, "--local-directory", str(self.folder / name))
        wait_for(lambda: "Registered to:" in (folder / "log").read_text())
        return folder

    def _start(self, name: str, environment: dict[str, str], *words: str) -> Path:
        (folder := self.folder / name).mkdir()
        own = {"PYTHONPATH": str(ROOT), "PIPELINE_CACHE_DIR": str(folder / "cache"), "TMPDIR": str(folder)}
        inherited = {k: v for k, v in os.environ.items() if k not in ("PIPELINE_CACHE", "PIPELINE_SCHEDULER")}
        with (folder / "log").open("wb") as log:
            self.processes.append(
                subprocess.Popen(
                    servers._leashed([sys.executable, "-m", "dask", *words]),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=folder,
                    env={**inherited, **own, **environment},
                    start_new_session=True,
                )
            )
        return folder

    def close(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()

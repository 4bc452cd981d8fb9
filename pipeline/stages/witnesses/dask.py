"""Witnesses that are workers of the Dask cluster, started with `--resources "device=1"`. The job travels as one value."""

from __future__ import annotations

import io
import os
import sys
import tarfile
import tempfile
from pathlib import Path

from pipeline import process
from pipeline.errors import PipelineError
from pipeline.iree.codegen import cluster
from pipeline.stages.witnesses.answers import Heard
from pipeline.stages.witnesses.job import ANSWER_LIMIT, Job, admitted, complaint

RESOURCE = "device"


def attest(packed: bytes, release: str, seconds: float) -> tuple[bytes, str]:
    """On a worker: the document about a release in the store that is packed; or why there is none."""
    with tempfile.TemporaryDirectory(prefix="witness-") as name:
        folder = Path(name)
        store = str(folder / "store")
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(store, filter="data")
        words = [sys.executable, "-m", "pipeline.cli", "attest", release, "--store", store, "--quiet", "-o", "-"]
        answer, log = folder / "answer", folder / "log"
        try:
            environment = {"VMFB_CACHE": str(folder / "cache")}
            ended = process.execute(words, log, timeout=seconds, env=environment, output=answer)
        except PipelineError as error:
            return b"", error.what
        with answer.open("rb") as file:
            return file.read(ANSWER_LIMIT), complaint(process.tail(log)) or ended.ending


def ask(job: Job, seconds: float) -> list[Heard]:
    """Let every such worker attest the job, side by side."""
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.add(job.folder, ".")
        packed = buffer.getvalue()
    address = os.environ.get("PIPELINE_SCHEDULER", "")
    try:
        answers = cluster.each(address, RESOURCE, attest, packed, job.release, seconds, seconds=seconds)
    except PipelineError as error:
        if process.interrupted():
            raise
        return [Heard("dask", problem=f"{error.where}: {error.what}")]
    if not answers:
        return [Heard("dask", problem=f"{address} has no worker that was started with --resources {RESOURCE}=1")]
    return [Heard(name, problem=said) if isinstance(said, str) else admitted(job, name, *said) for name, said in answers]

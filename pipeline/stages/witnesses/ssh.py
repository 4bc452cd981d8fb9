"""A witness that is reached by ssh: one connection, on which the job goes there and the document comes back."""

from __future__ import annotations

import math
import shlex
import shutil
from pathlib import Path

from pipeline import process
from pipeline.errors import PipelineError, disk_errors
from pipeline.stages.witnesses.address import VARIABLE, SshAddress
from pipeline.stages.witnesses.answers import Heard
from pipeline.stages.witnesses.job import ANSWER_LIMIT, Job, admitted, complaint

# There, whatever the user's own shell is. Nothing is left of it: the cache goes with the folder, and what is late is ended,
# which the end of a connection does not do.
_THERE = (
    'd=$(mktemp -d) || exit; trap "rm -rf \\"$d\\"" EXIT; trap "exit 1" HUP INT TERM; '
    't=; ! command -v timeout >/dev/null || t="timeout $3"; '
    'tar -x -f - -C "$d" && VMFB_CACHE="$d/cache" $t "$1" attest "$2" --store "$d" --quiet -o -'
)
# Here. `ulimit` counts in blocks of 512 bytes, some shells in 1024: an answer without end ends there, not at a full disk.
_HERE = 'ulimit -f "$1"; folder=$2; shift 2; tar -c -f - -C "$folder" . | exec "$@"'
# What is there shall not use what is here: no agent, no ports.
_OPTIONS = "-T -a -x -o ClearAllForwardings=yes -o BatchMode=yes -o ConnectTimeout=20 -o ServerAliveInterval=15".split()
_OF_SSH, _NO_COMMAND = 255, 127


def ask(address: SshAddress, job: Job, folder: Path, seconds: float) -> Heard:
    """Let the machine attest the job; its answer as it came and a log go into `folder`, which is made.

    Raises PipelineError only where this run is interrupted, or this machine lacks ssh, or sh or tar, as Windows does.
    """
    if lacking := [program for program in ("ssh", "sh", "tar") if not shutil.which(program)]:
        hint = "apt install openssh-client" if lacking == ["ssh"] else ""
        raise PipelineError(f"witnesses are asked by ssh, and there is no {', '.join(lacking)} here", where=VARIABLE, hint=hint)
    with disk_errors(str(folder)):
        folder.mkdir()
    answer, log = folder / "answer", folder / "log"
    there = shlex.join(["sh", "-c", _THERE, "sh", address.command, job.release, str(math.ceil(seconds))])
    words = ["sh", "-c", _HERE, "sh", str(ANSWER_LIMIT // 512), str(job.folder), "ssh", *_OPTIONS, *address.words, there]
    try:
        result = process.execute(words, log, timeout=seconds, output=answer)
    except process.TimedOutError:
        return Heard(address.name, problem=f"it did not answer within {seconds:.0f} s")
    if process.interrupted():
        process.pause(0)
    said = complaint(process.tail(log))
    if result.returncode == _OF_SSH:
        return Heard(address.name, problem=f"it cannot be reached: {said}")
    if result.returncode == _NO_COMMAND:
        said = f"there is no `{address.command}`: {said}"
    with disk_errors(str(answer)):
        data = answer.read_bytes()
    return admitted(job, address.name, data, said or result.ending)

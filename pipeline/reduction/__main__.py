"""The child process of a search: `python -m pipeline.reduction JOB FOLDER`. Leaves `found.json` and `part.onnx` in FOLDER.

Both are there, whole, as soon as anything is found: who asked may end this process at any time.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType

import onnx

from pipeline import process
from pipeline.files import staged
from pipeline.reduction.job import Found, Job


def _end(_number: int, _frame: FrameType | None) -> None:
    """What this process started ends with it."""
    process.refuse_more()
    process.end_all()
    raise SystemExit(1)


def main(job: Job, folder: Path) -> int:
    """Do the job."""
    from pipeline.importers import weights
    from pipeline.reduction import refusal, wrong
    from pipeline.reduction.subgraph import presentable

    def said(found: Found, model: onnx.ModelProto | None) -> None:
        if model is not None:
            model = presentable(model)
            onnx.checker.check_model(model)
            with staged(folder / "part.onnx") as path:
                path.write_bytes(model.SerializeToString())
        found.write(folder / "found.json")

    with weights.beside(folder / ".weights.part"):
        if job.run is None:
            refusal.smallest(job, folder, said)
        else:
            (wrong.smallest if job.whole else wrong.first)(job, folder, said)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main(Job.read(Path(sys.argv[1])), Path(sys.argv[2])))

"""The tasks of `doit`: everything under `targets/`, built in `out/`, published to PIPELINE_STORE (default: out/store)."""

from pipeline.dodo import DOIT_CONFIG, task_all

__all__ = ["DOIT_CONFIG", "task_all"]

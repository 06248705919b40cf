"""Training: the core trainer and the tasks of a run.yaml. Loads torch and mace when a run starts, not before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlpath_core.lazy import loader

if TYPE_CHECKING:
    from rlpath_core.training.tasks import TrainResult, run, train

__all__ = ["TrainResult", "run", "train"]

__getattr__ = loader(__name__, {"TrainResult": "tasks", "run": "tasks", "train": "tasks"})

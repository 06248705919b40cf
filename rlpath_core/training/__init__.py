"""Training: the core trainer and the tasks of a run.yaml. Loads torch and mace when a run starts, not before."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlpath_core.training.tasks import TrainResult, run, train

__all__ = ["TrainResult", "run", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from rlpath_core.training import tasks

        return getattr(tasks, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The tasks of a run.yaml, whichever backend: to MACE's core trainer, or to FairChem's own in its environment."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from rlpath_core.backends.environments import is_installed
from rlpath_core.backends.registry import backend_of
from rlpath_core.errors import InputError
from rlpath_core.progress import Progress
from rlpath_core.registry import import_name
from rlpath_core.training.options import TRAINING, RunSpec
from rlpath_core.training.result import TrainResult, finished_result

__all__ = ["TrainResult", "finished_result", "run", "train"]


def train(spec: RunSpec, *, progress: Progress | None = None, resume_if_possible: bool = True) -> TrainResult:
    """Train from scratch, fine-tune or resume into ``spec.run_dir``.

    EquiformerV2 and GemNet-OC are trained by FairChem in a subprocess of its environment.

    Parameters
    ----------
    spec
        A checked run.yaml; ``spec.task`` is train, finetune or resume. The task ``resume`` requires a checkpoint in its
        ``run_dir``.
    progress
        Called with each line of the run's log.
    resume_if_possible
        Continue a run that ``run_dir`` already contains, or return its result if it has finished.

    Raises
    ------
    InputError
        The input is wrong, or ``run_dir`` contains another run.
    """
    if spec.task not in TRAINING:
        raise InputError(f"task {spec.task} does not train", key="task")
    return trainer_of(spec.backend)(spec, progress, resume_if_possible)


def trainer_of(name: str) -> Callable[[RunSpec, Progress | None, bool], TrainResult]:
    """The trainer of a backend.

    Raises
    ------
    InputError
        If the backend has none, or has to be installed here and is not.
    """
    backend = backend_of(name)
    if backend.trainer is None:
        raise InputError(f"models of backend {name} cannot be trained, only evaluated", key="backend")
    if backend.trains_here and not is_installed(name):
        environment = backend.environment
        raise InputError(
            f"{name} is trained by this program in its own environment, and {sys.executable} has no "
            f"{environment.distribution}: start it with a Python that has it ({environment.how_to_fix})",
            key="backend",
        )
    trainer: Callable[[RunSpec, Progress | None, bool], TrainResult] = import_name(backend.trainer, "trainer")
    return trainer


def run(spec: RunSpec, *, progress: Progress | None = None) -> Any:
    """What ``spec.task`` says: a TrainResult, metrics, or the path of the predictions."""
    if spec.task in TRAINING:
        return trainer_of(spec.backend)(spec, progress, True)
    from rlpath_core.training.export import export
    from rlpath_core.training.predicting import run_evaluate, run_infer

    tasks: dict[str, Callable[[RunSpec], Any]] = {"export": export, "evaluate": run_evaluate, "infer": run_infer}
    return tasks[spec.task](spec)

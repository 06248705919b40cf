"""Training or fine-tuning from a run.yaml: ``python -m flows.train --config run.yaml [--run NAME]``."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from prefect import flow

from flows.cli import Command, Given, execute, show
from flows.run import RunFlags
from rlpath_core.errors import InputError
from rlpath_core.training.options import TRAINING, RunSpec, read_run
from tasks.models import train as train_task
from tasks.models import trained_model_is_there
from tasks.policy import call_cached


def read_training(config: str, run: str | None, params: dict[str, Any] | None) -> RunSpec:
    spec = read_run(config, run, params)
    if spec.task not in TRAINING:
        raise InputError(f"{spec.task} is no training: one of {', '.join(TRAINING)}, or use flows.run", config, "task")
    return spec


@flow(name="train")
def train(config: str, run: str | None = None, params: dict[str, Any] | None = None) -> dict[str, Any]:
    """Train, fine-tune or resume, as ``config`` describes; ``params`` lie on top."""
    spec = read_training(config, run, params)
    return call_cached(train_task, trained_model_is_there, spec)


def act(given: Given) -> None:
    flags = given.checked(RunFlags, params=False)
    spec = read_training(str(flags.config), flags.run, given.params)
    here = partial(call_cached, train_task, trained_model_is_there, spec)
    show(execute(train, here, config=str(flags.config), run=flags.run, params=given.params))


main = Command("train", "Train, fine-tune or resume as a run.yaml describes.", act, own=RunFlags, overrides=True)


if __name__ == "__main__":
    sys.exit(main())

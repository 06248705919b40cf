"""Errors of a model on a labelled set: ``python -m flows.evaluate --manifest manifest.json --data set.xyz``."""

from __future__ import annotations

import sys
from typing import Any

from prefect import flow

from flows.cli import Command, Given, absolute, execute, show
from rlpath_core.config import is_path
from rlpath_core.evaluation.options import EvaluateSpec
from tasks.models import evaluate as evaluate_task
from tasks.policy import call


@flow(name="evaluate")
def evaluate(
    manifest: str,
    data: str,
    weights: str | None = None,
    device: str = "auto",
    head: str | None = None,
    batch_size: int = 32,
    energy_key: str | None = None,
    forces_key: str | None = None,
    energy_only: bool = False,
) -> dict[str, Any]:
    """Metrics of the model ``manifest`` on ``data``: LMDBs, or what ASE reads with energy and forces."""
    names = (energy_key, forces_key)
    return call(evaluate_task, manifest, data, weights, device, head, batch_size, *names, energy_only)


def act(given: Given) -> None:
    spec = given.checked(EvaluateSpec)
    for key in ("manifest", "data", "weights"):
        if (path := getattr(spec, key)) is not None and is_path(path):
            absolute(path, must_exist=key)
    show(execute(evaluate, **spec.model_dump(mode="json")))


main = Command("evaluate", "Errors of a model on a labelled set.", act, params=EvaluateSpec)


if __name__ == "__main__":
    sys.exit(main())

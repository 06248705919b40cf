"""Errors of a model on a labelled set: ``python -m flows.evaluate --manifest manifest.json --data set.xyz``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from prefect import flow

from flows.cli import absolute, execute, params_of, parser, run_command, show
from rlpath_core.config import check, is_path, located, parse_params
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
) -> dict[str, Any]:
    """Metrics of the model ``manifest`` on ``data``: LMDBs, or what ASE reads with energy and forces."""
    return call(evaluate_task, manifest, data, weights, device, head, batch_size)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser("evaluate", "Errors of a model on a labelled set.")
    arguments.add_argument("--manifest", help="manifest.json of the model")
    arguments.add_argument("--data", help="labelled structures: extxyz, LMDB or a folder of LMDBs")
    arguments.add_argument("--weights", help="a state_dict in place of the manifest's weights")
    arguments.add_argument("--device", choices=["cuda", "cpu", "auto"])
    arguments.add_argument("--head", help="head of a model with several")
    arguments.add_argument("--batch_size", type=int)
    given = arguments.parse_args(argv)

    def command() -> None:
        params, source = parse_params(params_of(given), EvaluateSpec)
        flags = {key: value for key, value in vars(given).items() if key != "params" and value is not None}
        spec = check(EvaluateSpec, params | located(flags, EvaluateSpec), source or "--params")
        for key in ("manifest", "data", "weights"):
            if (path := getattr(spec, key)) is not None and is_path(path):
                absolute(path, must_exist=key)
        show(execute(evaluate, **spec.model_dump(mode="json")))

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())

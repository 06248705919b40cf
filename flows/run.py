"""Any task of a run.yaml: ``python -m flows.run --config run.yaml [--run NAME] [--params KEY=VALUE ...]``.

Data parallel training: ``torchrun --nproc-per-node N -m -- flows.run --config run.yaml``; without ``--``, torchrun
takes ``--run`` for an option of its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from prefect import flow

from flows.cli import absolute, execute, params_of, parser, run_command, show
from rlpath_core.config import parse_params
from rlpath_core.training.options import read_run
from tasks.models import run as run_task
from tasks.policy import call


@flow(name="run")
def run(config: str, run: str | None = None, params: dict[str, Any] | None = None) -> dict[str, Any]:
    """Train, fine-tune, resume, evaluate, infer or export, as the file ``config`` says; ``params`` lie on top."""
    return call(run_task, read_run(config, run, params).model_dump(mode="json"))


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser("run", "Run one task of a run.yaml.")
    arguments.add_argument("--config", required=True, help="run.yaml")
    arguments.add_argument("--run", help="name of the run, where the file has several")
    given = arguments.parse_args(argv)

    def command() -> None:
        params, _ = parse_params(params_of(given))
        read_run(given.config, given.run, params)  # what is wrong is said before Prefect is asked
        asked = {"config": absolute(given.config), "run": given.run, "params": params}
        if "TORCHELASTIC_RUN_ID" in os.environ:  # several processes are one run: none of them is a flow run
            result = run.fn(**asked)
            if os.environ.get("RANK") == "0":
                show(result)
        else:
            show(execute(run, **asked))

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())

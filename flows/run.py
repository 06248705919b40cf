"""Any task of a run.yaml: ``python -m flows.run --config run.yaml [--run NAME] [--params KEY=VALUE ...]``.

Data parallel training: ``torchrun --nproc-per-node N -m -- flows.run --config run.yaml``; without ``--``, torchrun
takes ``--run`` as its own option.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from prefect import flow

from flows.cli import Command, Given, execute, show
from rlpath_core.config import Section
from rlpath_core.training.options import read_run
from tasks.models import run as run_task
from tasks.policy import call


@flow(name="run")
def run(config: str, run: str | None = None, params: dict[str, Any] | None = None) -> dict[str, Any]:
    """Train, fine-tune, resume, evaluate, infer or export, as ``config`` describes; ``params`` lie on top."""
    return call(run_task, read_run(config, run, params))


class RunFlags(Section):
    """Which run of which file."""

    config: Path
    """The run.yaml."""
    run: str | None = None
    """The name of the run, for a file with several."""


def act(given: Given) -> None:
    flags = given.checked(RunFlags, params=False)
    spec = read_run(flags.config, flags.run, given.params)  # bad input is reported before Prefect is asked
    if "TORCHELASTIC_RUN_ID" in os.environ:  # several processes are one run: none of them is a flow run
        result = call(run_task, spec)
        if os.environ.get("RANK") == "0":
            show(result)
    else:
        asked: dict[str, Any] = {"config": str(flags.config), "run": flags.run, "params": given.params}
        show(execute(run, lambda: call(run_task, spec), **asked))


main = Command("run", "Run one task of a run.yaml.", act, own=RunFlags, overrides=True)


if __name__ == "__main__":
    sys.exit(main())

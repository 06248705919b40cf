"""The outbox of a sampling run: ``python -m flows.outbox --run_dir runs/sample [--round K]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from prefect import flow

from flows.cli import absolute, execute, only, params_of, parser, run_command, section, show
from rlpath_core.config import check, parse_params
from rlpath_core.errors import InputError
from rlpath_core.outbox.options import OutboxConfig, OutboxSpec
from rlpath_core.store import find_store
from tasks.labels import outbox as outbox_task
from tasks.policy import call

KEYS = tuple(OutboxSpec.model_fields)


@flow(name="outbox")
def outbox(run_dir: str, config: dict[str, Any] | None = None, round: int | None = None) -> dict[str, Any]:
    """Take the candidates that the run in ``run_dir`` has queued, drop near-duplicates, select within the budget."""
    return call(outbox_task, str(find_store(run_dir)), absolute(run_dir), config or {}, round)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser("outbox", "Choose what is worth a label.")
    arguments.add_argument("--run_dir", help="output folder of a sampling run")
    arguments.add_argument("--config", help="YAML of the outbox (configs/outbox.yaml)")
    arguments.add_argument("--round", type=int, help="the campaign's round that the choice belongs to")
    given = arguments.parse_args(argv)

    def command() -> None:
        params, source = parse_params(params_of(given), OutboxSpec)
        params |= {key: value for key in KEYS if (value := getattr(given, key, None)) is not None}
        only(params, KEYS, source)
        if "run_dir" not in params:
            raise InputError("--run_dir is required", source or "--params", "run_dir")
        config = section(params, "outbox", params.get("config"))
        check(OutboxConfig, config, params.get("config") or source or "--params")
        find_store(params["run_dir"])
        show(execute(outbox, run_dir=absolute(params["run_dir"]), config=config, round=params.get("round")))

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())

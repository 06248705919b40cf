"""The outbox of a sampling run: ``python -m flows.outbox --run_dir runs/sample [--round K]``."""

from __future__ import annotations

import sys
from typing import Any

from prefect import flow

from flows.cli import Command, Given, absolute, execute, layered, show
from rlpath_core.config import check
from rlpath_core.outbox.options import OutboxConfig, OutboxSpec
from rlpath_core.outbox.select import check_selection
from rlpath_core.store import find_store
from tasks.labels import outbox as outbox_task
from tasks.policy import call


@flow(name="outbox")
def outbox(run_dir: str, config: dict[str, Any] | None = None, round: int | None = None) -> dict[str, Any]:
    """Take the candidates that the run in ``run_dir`` has queued, drop near-duplicates, select within the budget."""
    checked = check(OutboxConfig, config or {}, "config")
    return call(outbox_task, str(find_store(run_dir)), absolute(run_dir), checked, round)


def act(given: Given) -> None:
    spec = given.checked(OutboxSpec)
    config = layered(OutboxConfig, "outbox", spec.config, spec.outbox)
    check_selection(check(OutboxConfig, config, "outbox"), spec.config or "--params")
    find_store(spec.run_dir)
    show(execute(outbox, run_dir=str(spec.run_dir), config=config, round=spec.round))


main = Command(
    "outbox", "Drop near-duplicates of a sampling run, choose what is worth a label.", act, params=OutboxSpec
)


if __name__ == "__main__":
    sys.exit(main())

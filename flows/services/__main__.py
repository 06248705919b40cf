"""The local Prefect server and workers: ``rlpath services up``, ``down`` or ``status``."""

from __future__ import annotations

import sys
from typing import Literal

from flows.cli import Command, Given
from rlpath_core.config import Section


class Flags(Section):
    """What to do with the services of this folder."""

    action: Literal["up", "down", "status"]
    """up: start those that do not run, and register the deployments. down: end them with all that they run."""


def act(given: Given) -> None:
    from flows.services import local, processes

    action = given.checked(Flags).action
    if action == "up":
        url = local.up().removesuffix("/api")
        print(f"Prefect: {url} (logs in {processes.STATE / 'logs'}; `rlpath services down` ends it)")
    else:
        {"down": local.down, "status": local.status}[action]()


main = Command(
    "services", "The local Prefect server and a worker per pool, of this folder.", act, own=Flags, positional="action"
)


if __name__ == "__main__":
    sys.exit(main())

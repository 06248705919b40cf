"""The local Prefect server and workers: ``rlpath services up``, ``down`` or ``status``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from flows.cli import parser, run_command


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser("services", "The local Prefect server and a worker for each pool, in this folder.", params=False)
    arguments.add_argument("action", choices=["up", "down", "status"])
    action = arguments.parse_args(argv).action

    def command() -> None:
        from flows.services import local, processes

        if action == "up":
            url = local.up().removesuffix("/api")
            print(f"Prefect: {url} (logs in {processes.STATE / 'logs'}; `rlpath services down` ends it)")
        else:
            {"down": local.down, "status": local.status}[action]()

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())

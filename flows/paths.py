"""Reaction paths from the command line or a deployment: ``python -m flows.paths --params configs/paths.yaml``."""

from __future__ import annotations

import sys
from typing import Any

from prefect import flow

from flows.cli import Command, Given, execute, show
from rlpath_core.kinetics.files import TABLE
from rlpath_core.paths.command import PathsSpec, resolve_paths
from tasks.paths import paths as paths_task
from tasks.policy import call


@flow(name="paths")
def paths(params: dict[str, Any]) -> dict[str, Any]:
    """Find saddles and the steps over them with a model; ``params`` as configs/paths.yaml has them."""
    return call(paths_task, resolve_paths(params))


def act(given: Given) -> None:
    spec = resolve_paths(given.of(PathsSpec), given.source)
    show(execute(paths, lambda: call(paths_task, spec), params=spec.model_dump(mode="json")))
    print((spec.run_dir / TABLE).read_text(encoding="utf-8"), end="")


main = Command("paths", "Find saddles, barriers and rates: verified elementary steps.", act, params=PathsSpec)


if __name__ == "__main__":
    sys.exit(main())

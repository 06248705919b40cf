"""Pictures and films: ``python -m flows.visualize`` with ``--run_dir``, ``--campaign`` or ``--network``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from prefect import flow

from flows.cli import Command, Given, execute, show
from rlpath_core.config import check
from rlpath_core.viz.options import VisualizeSpec
from tasks.policy import call
from tasks.visualize import basin_graph, contact_sheet, film, network_pictures


@flow(name="visualize")
def visualize(params: dict[str, Any]) -> dict[str, Any]:
    """A run's film, a campaign's basins, a network of saddles. ``params`` as the flags."""
    return draw(check(VisualizeSpec, params, "params"))


def draw(spec: VisualizeSpec) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if spec.campaign is not None:
        result["basin_graph"] = call(basin_graph, spec)
        result["contact_sheet"] = call(contact_sheet, spec)
    if spec.network is not None:
        result["network"] = {Path(path).name: path for path in call(network_pictures, spec)}
    if spec.run_dir is not None:
        result["film"] = call(film, spec)
    return result


def act(given: Given) -> None:
    spec = given.checked(VisualizeSpec)
    from rlpath_core.viz.film import ready  # slow to import: after bad flags are reported

    ready(spec)
    for part, result in execute(visualize, lambda: draw(spec), params=spec.model_dump(mode="json")).items():
        show({part: result} if isinstance(result, str) else {f"{part}.{k}": v for k, v in result.items()})


main = Command(
    "visualize", "A film of trajectories; pictures of basins and of networks of saddles.", act, params=VisualizeSpec
)


if __name__ == "__main__":
    sys.exit(main())

"""Pictures of a run as tasks. Finished frames carry a key of their own, so nothing is cached here."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from rlpath_core.viz.options import VisualizeSpec
from tasks.policy import RETRIES
from tasks.progress import Progress


@task(name="film", cache_policy=NO_CACHE, **RETRIES)
def film(spec: VisualizeSpec) -> dict[str, Any]:
    """The trajectories of a run as frames and a movie; only what is missing is drawn."""
    from rlpath_core.viz.film import film as render

    with Progress("film") as progress:
        return asdict(render(spec, progress))


@task(name="contact-sheet", cache_policy=NO_CACHE, **RETRIES)
def contact_sheet(spec: VisualizeSpec) -> dict[str, Any]:
    """All basins of a campaign by energy, one picture."""
    from rlpath_core.viz import contact_sheet as render

    with Progress("contact sheet") as progress:
        return asdict(render(spec, progress))


@task(name="basin-graph", cache_policy=NO_CACHE, **RETRIES)
def basin_graph(spec: VisualizeSpec) -> str:
    """Basins and the actions that lead from one to another, one picture."""
    from rlpath_core.viz import basin_graph as draw

    return str(draw(spec))


@task(name="network-pictures", cache_policy=NO_CACHE, **RETRIES)
def network_pictures(spec: VisualizeSpec) -> list[str]:
    """Minima, saddles and the steps between them, and the energies along the ways."""
    from rlpath_core.viz import network_pictures as draw

    return [str(path) for path in draw(spec)]

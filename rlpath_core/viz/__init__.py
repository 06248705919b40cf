"""Pictures and films of what was sampled. Neither OVITO nor Blender is imported here: both run as programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlpath_core.lazy import loader

if TYPE_CHECKING:
    from rlpath_core.viz.basins import contact_sheet
    from rlpath_core.viz.graph import basin_graph
    from rlpath_core.viz.saddle_network import draw_network, network_pictures

__all__ = ["basin_graph", "contact_sheet", "draw_network", "network_pictures"]

__getattr__ = loader(
    __name__,
    {
        "basin_graph": "graph",
        "contact_sheet": "basins",
        "draw_network": "saddle_network",
        "network_pictures": "saddle_network",
    },
)

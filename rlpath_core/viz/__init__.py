"""Pictures and films of what was sampled. Neither OVITO nor Blender is imported here: both run as programs."""

from rlpath_core.viz.basins import contact_sheet
from rlpath_core.viz.film import film, ready
from rlpath_core.viz.graph import basin_graph

__all__ = ["basin_graph", "contact_sheet", "film", "ready"]

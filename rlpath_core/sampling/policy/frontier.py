"""``frontier``: attempts start from the basins that were tried least."""

from __future__ import annotations

from rlpath_core.sampling.attempt import WalkState
from rlpath_core.sampling.policy.adaptive import AdaptivePolicy
from rlpath_core.sampling.policy.base import POLICIES, PlanContext


@POLICIES.register("frontier")
class Frontier(AdaptivePolicy):
    """The basin with the fewest visits and departures within ``energy_range`` of its origin's lowest.

    Ties go to the lower energy, then to the older basin. Before any basin is known it is the relaxed given structure.
    """

    def start(self, n: int, walker: int, context: PlanContext) -> WalkState:
        origin = (n - 1) % len(self.relaxed_starts)
        basins = [basin for basin in context.basins if basin.minimum.origin == origin]
        if not basins:
            return self.relaxed_starts[origin]
        highest = min(basin.energy for basin in basins) + self.options.energy_range
        within = (basin for basin in basins if basin.energy <= highest)
        return min(within, key=lambda basin: (basin.visits + basin.departures, basin.energy)).minimum

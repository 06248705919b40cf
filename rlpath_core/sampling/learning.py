"""What a run learns of its actions: how far they have to reach, which find new basins, and what is worth a quench.

An attempt that falls back into the basin that it left was too timid: all actions reach further, as in minima hopping
(doi:10.1063/1.1724816). One that dies at the model's gate was too bold: its own action reaches less far. Being refused
costs one force call and falling back a whole quench, so the first counts four times the second.

A quench costs some twenty times what a look at the forces does, and the less force a displaced structure meets, the
nearer it is to a minimum: on the starter system three in five of the calmest sixth ended in a new basin, of the others
two in five. So only the calmest share of them is relaxed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlpath_core.sampling.options import WalkOptions

PRIOR_CALLS = 60.0
"""Every action begins as if it had found one basin in so many force calls."""
EXPLORE = 0.1
"""This share of the draws does not mind what was found: what was useless so far may not stay so."""
GENTLY = 0.25
"""Power of ``growth`` by which amplitudes shrink."""

RECENT = 32
"""Displaced structures that the next one is measured against."""
FEW = 4
"""With fewer than these, every one is relaxed."""

End = Literal["new", "back", "refused", "other"]


class Learned:
    """``weights`` [n_actions] are the configured ones, and sum to 1; ``kept`` is what a checkpoint brought back.

    ``costs`` [n_actions]: force calls that the actions themselves make.
    """

    def __init__(
        self,
        names: Sequence[str],
        weights: NDArray[np.float64],
        options: WalkOptions,
        kept: dict[str, Any] | None = None,
        costs: NDArray[np.float64] | float = 0.0,
    ) -> None:
        self.names, self.weights, self.costs, self.options = list(names), weights, costs, options
        kept = kept or {}
        self.reach: float = kept.get("reach", 1.0)
        """Times the configured magnitudes, for all actions."""
        zeros = [0.0] * len(self.names)
        self.caution = np.array(kept.get("caution", [1.0] * len(self.names)))
        """[n_actions], 1 at most: what of the reach an action may use."""
        self.found = np.array(kept.get("found", zeros))
        self.calls = np.array(kept.get("calls", zeros))
        self.forces: list[float] = list(kept.get("forces", []))
        """eV/Å: the largest on each of the last structures that passed the gate."""

    def note(self, name: str, end: End, force_calls: int) -> None:
        """An attempt has ended: in a new basin, back where it came from, at the model's gate, or anyhow else."""
        if name not in self.names:
            return
        at = self.names.index(name)
        self.found[at] += end == "new"
        self.calls[at] += force_calls
        growth, shrink = self.options.growth, self.options.growth**-GENTLY
        if end == "refused":
            self.caution[at] *= shrink
        elif end == "back":
            self.reach *= growth
            self.caution[at] = min(self.caution[at] * growth, 1.0)
        elif end == "new":
            self.reach *= shrink
        self.reach = float(np.clip(self.reach, 1.0, self.options.max_scale))

    def note_force(self, max_force: float) -> None:
        self.forces = [*self.forces, max_force][-RECENT:]

    def calm(self) -> float | None:
        """Structures with a force above this (eV/Å) are not relaxed; None: all are."""
        if self.options.relax_share == 1 or len(self.forces) < FEW:
            return None
        return float(np.quantile(self.forces, self.options.relax_share))

    def chances(self) -> NDArray[np.float64]:
        """[n_actions]: the weights times the square of the new basins per force call, these smoothed by their prior.

        Squared, so that a few hundred calls are enough to leave an action that finds nothing. Actions that ask the
        model themselves are drawn as much less as they cost more than a look at a displaced structure.
        """
        if not self.options.learn:
            return self.weights
        plain = self.weights / (1.0 + self.costs)
        rated = plain * ((self.found + 1.0) / (self.calls + PRIOR_CALLS)) ** 2
        chances: NDArray[np.float64] = EXPLORE * plain / plain.sum() + (1 - EXPLORE) * rated / rated.sum()
        return chances

    def scales(self) -> NDArray[np.float64]:
        """[n_actions], 1 or more: how many times its configured magnitudes an action uses."""
        return np.maximum(self.reach * self.caution, 1.0)

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        arrays = {name: getattr(self, name).tolist() for name in ("caution", "found", "calls")}
        return {"reach": self.reach, "forces": self.forces} | arrays

"""What a run learns of its actions: how far they have to reach, which find new basins, and what is worth relaxing.

An attempt that falls back into the basin that it left was too timid: all actions reach further, as in minima hopping
(doi:10.1063/1.1724816). One that the model's gate rejects was too bold: its own action reaches less far. A rejection
costs one force call and falling back a whole relaxation, so the first counts four times the second.

A relaxation costs about twenty times as much as one prediction, and the smaller the forces on a displaced structure,
the nearer it is to a minimum: on the starter system three in five of the sixth with the smallest forces ended in a new
basin, two in five of the others. So only the share with the smallest forces is relaxed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rlpath_core.sampling.options import WalkOptions

PRIOR_CALLS = 60.0
"""Every action begins as if it had found one basin in this many force calls."""
EXPLORE = 0.1
"""Fraction of the draws from the configured weights: an action that found nothing so far may find something later."""
GENTLY = 0.25
"""Power of ``growth`` by which step scales shrink."""
RECENT = 32
"""Number of the latest trials whose forces give the threshold for the next one."""
FEW = 4
"""With fewer than these, every trial is relaxed."""

Outcome = Literal["new", "back", "rejected", "other"]
"""An attempt found a new basin, fell back into its own, was rejected by its prediction, or ended otherwise."""


class ActionStatistics:
    """Statistics of every action, and what they mean for the next draw.

    Parameters
    ----------
    names, weights
        [n_actions]: the actions, and their configured weights, which sum to 1.
    options
        The ``walk`` block of the config.
    costs
        [n_actions]: force calls that the actions themselves make.
    """

    def __init__(
        self,
        names: Sequence[str],
        weights: NDArray[np.float64],
        options: WalkOptions,
        costs: NDArray[np.float64] | float = 0.0,
    ) -> None:
        self.names, self.weights, self.costs, self.options = list(names), weights, costs, options
        self.global_scale = 1.0
        """Factor on the configured magnitudes of all actions, 1 or more."""
        self.action_scale = np.ones(len(self.names))
        """[n_actions] in (0, 1]: per-action factor on ``global_scale``."""
        self.found = np.zeros(len(self.names))
        self.calls = np.zeros(len(self.names))
        self.forces: list[float] = []
        """The largest force on each of the latest trials that passed all validators, eV/Å."""

    def record(self, name: str, outcome: Outcome, force_calls: int) -> None:
        """An attempt by the action ``name`` has ended."""
        if name not in self.names:
            return
        k = self.names.index(name)
        self.found[k] += outcome == "new"
        self.calls[k] += force_calls
        growth, shrink = self.options.growth, self.options.growth**-GENTLY
        if outcome == "rejected":
            self.action_scale[k] *= shrink
        elif outcome == "back":
            self.global_scale *= growth
            self.action_scale[k] = min(self.action_scale[k] * growth, 1.0)
        elif outcome == "new":
            self.global_scale *= shrink
        self.global_scale = float(np.clip(self.global_scale, 1.0, self.options.max_scale))

    def record_force(self, max_force: float) -> None:
        """The largest force on a trial that passed all validators, eV/Å."""
        self.forces = [*self.forces, max_force][-RECENT:]

    def relax_threshold(self) -> float | None:
        """Trials with a larger force than this (eV/Å) are not relaxed; None: all are."""
        if self.options.relax_share == 1 or len(self.forces) < FEW:
            return None
        return float(np.quantile(self.forces, self.options.relax_share))

    def probabilities(self) -> NDArray[np.float64]:
        """[n_actions]: the weights times the square of the new basins per force call, smoothed by a prior.

        Squared, so that a few hundred calls are enough to leave an action that finds nothing. Actions that ask the
        model themselves are drawn less, by what they cost beside the one prediction of a displaced structure.
        """
        if not self.options.learn:
            return self.weights
        plain = self.weights / (1.0 + self.costs)
        rated = plain * ((self.found + 1.0) / (self.calls + PRIOR_CALLS)) ** 2
        mixed: NDArray[np.float64] = EXPLORE * plain / plain.sum() + (1 - EXPLORE) * rated / rated.sum()
        return mixed

    def step_scales(self) -> NDArray[np.float64]:
        """[n_actions], 1 or more: the factor on each action's configured magnitudes."""
        return np.maximum(self.global_scale * self.action_scale, 1.0)

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        arrays = {name: getattr(self, name).tolist() for name in ("action_scale", "found", "calls")}
        return {"global_scale": self.global_scale, "forces": self.forces} | arrays

    def load(self, state: dict[str, Any]) -> None:
        """Continue from ``state()``."""
        self.global_scale, self.forces = state["global_scale"], list(state["forces"])
        for name in ("action_scale", "found", "calls"):
            setattr(self, name, np.array(state[name]))

"""``accept`` and ``metropolis``: each walker walks through the basins separately."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlpath_core.sampling.attempt import Attempt, WalkState
from rlpath_core.sampling.policy.adaptive import AdaptivePolicy
from rlpath_core.sampling.policy.base import POLICIES, PlanContext


@POLICIES.register("accept")
class Accept(AdaptivePolicy):
    """Each walker continues from where its last attempt ended."""

    def begin(self, starts: Sequence[WalkState], relaxed_starts: Sequence[WalkState]) -> None:
        super().begin(starts, relaxed_starts)
        self.current = [relaxed_starts[w % len(relaxed_starts)] for w in range(self.setup.n_walkers)]

    def start(self, n: int, walker: int, context: PlanContext) -> WalkState:
        return self.current[walker]

    def arrive(self, attempt: Attempt, end: WalkState, rng: np.random.Generator) -> None:
        self.current[attempt.plan.walker] = end

    def state(self) -> dict[str, Any]:
        return super().state() | {"current": list(self.current)}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        self.current = state["current"]


@POLICIES.register("metropolis")
class Metropolis(Accept):
    """As ``accept``, but a move uphill is taken with probability exp(-dE / kT) (doi:10.1063/1.1699114)."""

    def arrive(self, attempt: Attempt, end: WalkState, rng: np.random.Generator) -> None:
        before = attempt.start.energy
        rise = 0.0 if before is None or end.energy is None else end.energy - before
        if rise <= 0 or rng.random() < np.exp(-rise / self.options.kT):
            super().arrive(attempt, end, rng)

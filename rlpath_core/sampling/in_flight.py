"""Attempts that a checkpoint meets half done: kept as their plans and the model's predictions so far.

How they arrive at the same point after a resume is told in ``lockstep.replay``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlpath_core.lockstep.relax import Quenched
from rlpath_core.lockstep.replay import Journal, packed, unpacked
from rlpath_core.sampling.attempt import Plan
from rlpath_core.sampling.known_basins import Identification, Identify


@dataclass
class InFlightAttempt:
    """One attempt between its plan and its result.

    Attributes
    ----------
    plan
        What the policy decided.
    draw
        Which of its draws the attempt continued with; None as long as that is open.
    journal
        The model's predictions so far.
    n_unknown
        How many times ``identify`` has found no known basin.
    """

    plan: Plan
    draw: int | None = None
    journal: Journal = field(default_factory=Journal)
    n_unknown: int = 0

    def repeating(self, identify: Identify) -> Identify:
        """``identify`` that first finds nothing as often as it did before: more basins may be known by now."""
        earlier, calls = self.n_unknown, 0

        def again(plan: Plan, relaxed: Quenched, may_be_new: bool) -> Identification | None:
            nonlocal calls
            calls += 1
            if calls <= earlier:
                return None
            identification = identify(plan, relaxed, may_be_new)
            self.n_unknown += identification is None
            return identification

        return again

    def state(self) -> dict[str, Any]:
        """For the checkpoint."""
        plan = self.plan
        return {
            "n": plan.n,
            "walker": plan.walker,
            "start": plan.start,
            "probabilities": None if plan.probabilities is None else plan.probabilities.tolist(),
            "step_scales": None if plan.step_scales is None else plan.step_scales.tolist(),
            "relax_threshold": plan.relax_threshold,
            "memo": plan.memo,
            "draw": self.draw,
            "n_unknown": self.n_unknown,
            "predictions": packed(self.journal.predictions),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> InFlightAttempt:
        """The attempt that ``state`` described."""
        plan = {name: state[name] for name in ("n", "walker", "start", "relax_threshold", "memo")}
        for name in ("probabilities", "step_scales"):
            plan[name] = None if state[name] is None else np.array(state[name])
        return cls(Plan(**plan), state["draw"], Journal(unpacked(state["predictions"])), state["n_unknown"])

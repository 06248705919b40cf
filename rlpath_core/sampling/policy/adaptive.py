"""Policies that adapt to what the run finds: which action is drawn, how far it reaches, and what is relaxed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from rlpath_core.sampling.attempt import Attempt, Plan, Trial, WalkState
from rlpath_core.sampling.options import WalkOptions
from rlpath_core.sampling.policy.action_statistics import ActionStatistics, Outcome
from rlpath_core.sampling.policy.base import PlanContext, Policy, WalkSetup
from rlpath_core.sampling.policy.tabu import TabuMemory


class AdaptivePolicy(Policy):
    """Action statistics and a tabu memory; subclasses decide where an attempt starts.

    A draw that leads near an earlier trial or basin is drawn again, each time further from the start. Drawing costs no
    force call, unless the action itself asks the model: what such an action leads to is kept.
    """

    def __init__(self, options: WalkOptions, setup: WalkSetup) -> None:
        super().__init__(options, setup)
        self.statistics = ActionStatistics(setup.actions, setup.weights, options, setup.costs)
        self.tabu = [TabuMemory(setup.basin, roles) for roles in setup.roles] if options.max_draws > 1 else []
        """One for each given structure; none without redraws."""

    @abstractmethod
    def start(self, n: int, walker: int, context: PlanContext) -> WalkState:
        """Where attempt ``n`` starts."""

    def arrive(self, attempt: Attempt, end: WalkState, rng: np.random.Generator) -> None:
        """An attempt whose trial passed all validators has ended somewhere that a walk can continue from."""
        return

    def plan(self, n: int, walker: int, context: PlanContext) -> Plan:
        return Plan(
            n,
            walker,
            self.start(n, walker, context),
            self.statistics.probabilities(),
            self.statistics.step_scales(),
            self.statistics.relax_threshold() if self.setup.relaxes else None,
        )

    def choose_draw(self, plan: Plan, propose: Callable[[int], Trial]) -> int:
        trial = propose(0)
        if not self.tabu or trial.structure is None:
            return 0
        memory, min_distance = self.tabu[plan.start.origin], self.options.min_distance
        trials: list[Trial] = []
        distances: list[float] = []
        while True:
            trials.append(trial)
            if trial.force_calls:
                return len(trials) - 1
            blocked = trial.structure is None or trial.rejection is not None
            distances.append(-1.0 if blocked else memory.distance(trial.structure, min_distance))
            if distances[-1] >= min_distance or len(trials) == self.options.max_draws:
                break
            trial = propose(len(trials))
        draw = int(np.argmax(distances))
        chosen = trials[draw]
        if chosen.structure is not None and chosen.rejection is None:
            memory.add(chosen.structure)
        return draw

    def observe(self, attempt: Attempt, rng: np.random.Generator) -> None:
        trial, result = attempt.trial, attempt.result
        if self.tabu and result.new_basin and result.relaxed is not None:
            self.tabu[attempt.start.origin].add(result.relaxed.structure)
        if attempt.n < 1:
            return
        self.statistics.record(trial.action, _outcome(attempt), result.force_calls)
        if not attempt.accepted:
            return
        if trial.max_force is not None:
            self.statistics.record_force(trial.max_force)
        if result.end is not None:
            self.arrive(attempt, result.end, rng)

    def state(self) -> dict[str, Any]:
        return {"statistics": self.statistics.state(), "tabu": [memory.state() for memory in self.tabu]}

    def load(self, state: dict[str, Any]) -> None:
        self.statistics.load(state["statistics"])
        for memory, saved in zip(self.tabu, state["tabu"], strict=True):
            memory.load(saved)


def _outcome(attempt: Attempt) -> Outcome:
    if attempt.result.new_basin:
        return "new"
    if attempt.result.basin is not None and attempt.result.basin == attempt.start.basin:
        return "back"
    # by the model: a trial that the geometry forbids costs no force call, and tells little
    return "rejected" if attempt.trial.rejection is not None and attempt.trial.max_force is not None else "other"

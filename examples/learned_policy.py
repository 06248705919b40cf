"""A learned policy in one class: which action, and how far, by linear Thompson sampling (doi:10.48550/arXiv.1209.3352).

    python -m flows.sample --params configs/sample.yaml \\
        --params sampling.walk.policy=examples.learned_policy:LinearBandit

An arm is an action with a step scale. Its expected reward is linear in features of the basin that the attempt starts
from: energy, how often it was tried, and a projection of the model's embeddings. Where attempts start, which draws are
taken again and what is relaxed are inherited from ``frontier``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlpath_core.config.load import Section
from rlpath_core.sampling.attempt import Attempt, Plan
from rlpath_core.sampling.options import WalkOptions
from rlpath_core.sampling.policy import Frontier, PlanContext, WalkSetup

N_PROJECTED = 4
"""Numbers that are left of an embedding."""
N_FEATURES = 4 + N_PROJECTED
FALLBACK = 1e-9
"""Probability of the other actions: one of them is drawn if the chosen action does not apply."""


class LinearBandit(Frontier):
    """The reward of an attempt is 1 for a new basin, minus its force calls times the run's new basins per call."""

    embeddings = True

    class Options(Section):
        """``scales``: step scales to choose from. ``exploration``: width of the prior, in units of the reward."""

        scales: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
        exploration: float = 0.3

    def __init__(self, options: WalkOptions, setup: WalkSetup) -> None:
        super().__init__(options, setup)
        n_arms = len(setup.actions) * len(self.own_options.scales)
        self.precision = np.tile(np.eye(N_FEATURES), (n_arms, 1, 1))
        """[n_arms, n_features, n_features], of the linear model's posterior."""
        self.response = np.zeros((n_arms, N_FEATURES))
        """[n_arms, n_features]: features times rewards, summed."""
        self.projected = np.zeros((0, N_PROJECTED))
        """[n_basins, n_projected]: of the basins' embeddings."""
        self.found, self.calls = 1.0, 60.0
        """New basins and force calls so far, with a prior."""

    def plan(self, n: int, walker: int, context: PlanContext) -> Plan:
        plan = super().plan(n, walker, context)
        x = self._features(plan, context)
        covariance = np.linalg.inv(self.precision)
        mean = np.einsum("kij,kj->ki", covariance, self.response) @ x
        width = self.own_options.exploration * np.sqrt(np.einsum("i,kij,j->k", x, covariance, x))
        arm = int(np.argmax(context.rng.normal(mean, width)))
        action, scale = divmod(arm, len(self.own_options.scales))
        probabilities = FALLBACK * self.setup.weights
        probabilities[action] = 1.0
        scales = np.full(len(probabilities), self.own_options.scales[scale])
        return replace(plan, probabilities=probabilities, step_scales=scales, memo={"scale": scale, "features": x})

    def observe(self, attempt: Attempt, rng: np.random.Generator) -> None:
        super().observe(attempt, rng)
        result = attempt.result
        if result.new_basin and result.basin is not None:
            missing = max(0, result.basin + 1 - len(self.projected))
            self.projected = np.pad(self.projected, ((0, missing), (0, 0)))
            if result.prediction is not None and result.prediction.node_embedding is not None:
                active = self.setup.roles[attempt.start.origin].active
                pooled = result.prediction.node_embedding[active].mean(axis=0)
                mixing = np.random.default_rng(0).normal(0.0, len(pooled) ** -0.5, (len(pooled), N_PROJECTED))
                self.projected[result.basin] = pooled @ mixing
        if attempt.n < 1 or attempt.trial.action not in self.setup.actions:
            return
        reward = result.new_basin - result.force_calls * self.found / self.calls
        self.found, self.calls = self.found + result.new_basin, self.calls + result.force_calls
        action, x = self.setup.actions.index(attempt.trial.action), attempt.plan.memo["features"]
        arm = action * len(self.own_options.scales) + attempt.plan.memo["scale"]
        self.precision[arm] += np.outer(x, x)
        self.response[arm] += reward * x

    def _features(self, plan: Plan, context: PlanContext) -> NDArray[np.float64]:
        """[n_features]: of the basin that the attempt starts from, each about 1 or less."""
        k = plan.start.basin
        if k is None:
            return np.eye(N_FEATURES)[0]
        basin, lowest = context.basins[k], min(basin.energy for basin in context.basins)
        tried = (np.log1p(basin.visits), np.log1p(basin.departures))
        shift = self.projected[k] - self.projected[0] if k < len(self.projected) else np.zeros(N_PROJECTED)
        return np.array([1.0, basin.energy - lowest, *tried, *np.tanh(shift)])

    def state(self) -> dict[str, Any]:
        learned = {name: getattr(self, name) for name in ("precision", "response", "projected", "found", "calls")}
        return super().state() | {"bandit": learned}

    def load(self, state: dict[str, Any]) -> None:
        super().load(state)
        vars(self).update(state["bandit"])

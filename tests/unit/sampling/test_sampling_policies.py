"""Every policy by its conformance suite."""

from __future__ import annotations

import numpy as np
import pytest

from rlpath_core.sampling.attempt import Plan, WalkState
from rlpath_core.sampling.known_basins import KnownBasin
from rlpath_core.sampling.options import WalkOptions
from rlpath_core.sampling.policy import POLICIES, PlanContext, Policy
from rlpath_core.structure import Structure
from rlpath_core.testing.policy import PolicySuite, finished, setup_of


@pytest.mark.parametrize("name", list(POLICIES))
class TestPolicies(PolicySuite):
    @pytest.fixture
    def kind(self, name: str) -> type[Policy]:
        return POLICIES[name]


def begun(name: str, start: WalkState, **options) -> Policy:
    policy = POLICIES[name](WalkOptions(**options), setup_of(start.structure, 1))
    policy.begin([start], [start])
    return policy


def test_metropolis_takes_uphill_moves_as_often_as_boltzmann_says(copper: Structure):
    low, high = WalkState(copper, 0, 0.0, 0), WalkState(copper.moved(copper.positions + 0.1), 0, 0.1, 1)
    rng = np.random.default_rng(0)
    basins = [KnownBasin(low, 0.0, 0), KnownBasin(high, 0.1, 1)]
    policy, taken = begun("metropolis", low, kT=0.1), 0
    for n in range(1, 4001):
        policy.begin([low], [low])
        policy.observe(finished(Plan(n, 0, low), "rotate", high.structure, high), rng)
        taken += policy.plan(n + 1, 0, PlanContext(basins, rng)).start is high
    assert taken / 4000 == pytest.approx(np.exp(-1), abs=0.03)
    policy = begun("metropolis", high, kT=0.1)
    policy.observe(finished(Plan(1, 0, high), "rotate", low.structure, low), rng)
    assert policy.plan(2, 0, PlanContext(basins, rng)).start is low


def test_frontier_goes_where_it_has_been_least_within_the_energy_range(copper: Structure):
    states = [WalkState(copper.moved(copper.positions + 0.1 * k), 0, e, k) for k, e in enumerate((0.0, 1.0, 5.0))]
    basins = [KnownBasin(s, s.energy, 0, visits=v) for s, v in zip(states, (4, 2, 1), strict=True)]
    policy = begun("frontier", states[0], energy_range=2.0)
    context = PlanContext(basins, np.random.default_rng(0))
    assert policy.plan(1, 0, context).start is states[1]
    basins[1].departures = 3
    assert policy.plan(2, 0, context).start is states[0]


def test_origin_draws_by_the_configured_weights_and_relaxes_everything(copper: Structure):
    policy = begun("origin", WalkState(copper, 0))
    for n in range(1, 4):
        policy.observe(finished(Plan(n, 0, WalkState(copper, 0)), "rotate", copper, None), np.random.default_rng(n))
    plan = policy.plan(4, 0, PlanContext([], np.random.default_rng(0)))
    assert plan.probabilities is None
    assert plan.step_scales is None
    assert plan.relax_threshold is None

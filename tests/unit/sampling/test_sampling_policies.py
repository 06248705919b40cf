"""Every walk policy by its conformance suite."""

from __future__ import annotations

import numpy as np
import pytest

from rlpath_core.sampling.options import WalkOptions
from rlpath_core.sampling.policies import POLICIES, KnownBasin, Policy, Site
from rlpath_core.structure import Structure
from rlpath_core.testing.policy import PolicySuite


@pytest.mark.parametrize("name", list(POLICIES))
class TestPolicies(PolicySuite):
    @pytest.fixture
    def kind(self, name: str) -> type[Policy]:
        return POLICIES[name]


def test_metropolis_takes_uphill_moves_as_often_as_boltzmann_says(copper: Structure):
    low, high = Site(copper, 0, 0.0, 0), Site(copper.moved(copper.positions + 0.1), 0, 0.1, 1)
    rng = np.random.default_rng(0)
    taken = 0
    for _ in range(4000):
        policy = POLICIES["metropolis"](WalkOptions(kT=0.1), [low], 1)
        policy.finish(0, low, high, rng)
        taken += policy.here[0] is high
    assert taken / 4000 == pytest.approx(np.exp(-1), abs=0.03)
    policy = POLICIES["metropolis"](WalkOptions(kT=0.1), [high], 1)
    policy.finish(0, high, low, rng)
    assert policy.here[0] is low


def test_frontier_goes_where_it_has_been_least_within_the_energy_range(copper: Structure):
    sites = [Site(copper.moved(copper.positions + 0.1 * k), 0, e, k) for k, e in enumerate((0.0, 1.0, 5.0))]
    basins = [KnownBasin(s, s.energy, 0, visits=v) for s, v in zip(sites, (4, 2, 1), strict=True)]
    policy = POLICIES["frontier"](WalkOptions(energy_range=2.0), [sites[0]], 1)
    assert policy.start(1, 0, basins) is sites[1]
    basins[1].departures = 3
    assert policy.start(2, 0, basins) is sites[0]

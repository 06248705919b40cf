"""What every walk policy must do. Subclass, override ``kind``, and run it under pytest."""

from __future__ import annotations

import numpy as np
import pytest

from rlpath_core.sampling.options import WalkOptions
from rlpath_core.sampling.policies import KnownBasin, Policy, Site
from rlpath_core.structure import Structure
from rlpath_core.testing.systems import SYSTEMS


class PolicySuite:
    """Contract of ``Policy``: a place to start from for every attempt, decided by nothing but what it is told."""

    walkers = 3
    attempts = 60

    @pytest.fixture
    def kind(self) -> type[Policy]:
        raise NotImplementedError("override the fixture `kind`")

    @pytest.fixture(params=list(SYSTEMS))
    def system(self, request: pytest.FixtureRequest) -> Structure:
        return SYSTEMS[request.param]()

    def walk(self, kind: type[Policy], system: Structure, seed: int) -> tuple[list[Site], list[KnownBasin]]:
        """The starts of a walk over made-up basins: each attempt ends in an old one, in a new one, or nowhere."""
        rng = np.random.default_rng(seed)
        origin = Site(system, 0, 0.0, 0)
        basins = [KnownBasin(origin, 0.0, 0)]
        policy = kind(WalkOptions(), [origin], self.walkers)
        starts = []
        for n in range(1, self.attempts + 1):
            walker = n % self.walkers
            start = policy.start(n, walker, basins)
            starts.append(start)
            if start.basin is not None:
                basins[start.basin].departures += 1
            drawn = rng.random()
            if drawn < 0.3:
                positions = system.positions + rng.normal(0, 0.1, system.positions.shape)
                energy = float(rng.normal(0.5, 0.5))
                end = Site(system.moved(positions), 0, energy, len(basins))
                basins.append(KnownBasin(end, energy, n))
            elif drawn < 0.8:
                known = basins[int(rng.integers(len(basins)))]
                known.visits += 1
                end = known.site
            else:
                continue
            policy.finish(walker, start, end, np.random.default_rng([seed, n]))
        return starts, basins

    def test_every_start_is_a_place_that_is_known(self, kind: type[Policy], system: Structure) -> None:
        starts, basins = self.walk(kind, system, 0)
        known = {basin.site.structure.id for basin in basins}
        assert {start.structure.id for start in starts} <= known
        assert starts[0].structure.id == system.id, "the first attempt has only the given structure"

    def test_the_same_story_gives_the_same_starts(self, kind: type[Policy], system: Structure) -> None:
        first, second = (self.walk(kind, system, 1)[0] for _ in range(2))
        assert [s.structure.id for s in first] == [s.structure.id for s in second]

    def test_before_any_basin_is_known_it_begins_at_the_given_structures(
        self, kind: type[Policy], system: Structure
    ) -> None:
        other = Site(system.moved(system.positions + 0.01), 1)
        policy = kind(WalkOptions(), [Site(system, 0), other], 2)
        assert {policy.start(n, n - 1, []).origin for n in (1, 2)} == {0, 1}

    def test_places_can_be_put_back(self, kind: type[Policy], system: Structure) -> None:
        """A resume sets ``here``: from then on it must be as if the walk had come there."""
        origin, there = Site(system, 0, 0.0, 0), Site(system.moved(system.positions + 0.01), 0, 0.1, 1)
        basins = [KnownBasin(origin, 0.0, 0), KnownBasin(there, 0.1, 1)]
        walked, resumed = (kind(WalkOptions(), [origin], 1) for _ in range(2))
        walked.finish(0, origin, there, np.random.default_rng(0))
        resumed.here = list(walked.here)
        assert walked.start(2, 0, basins).structure.id == resumed.start(2, 0, basins).structure.id

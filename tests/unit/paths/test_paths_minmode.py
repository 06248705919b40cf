"""Our own search: the contract of searches, and saddles that are known otherwise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from rlpath_core.lockstep.hessian import numerical_hessian
from rlpath_core.lockstep.hub import Evaluator
from rlpath_core.paths.lowest_mode import rigid
from rlpath_core.paths.options import MinModeOptions
from rlpath_core.paths.searches import Guess, MinMode, Search
from rlpath_core.testing.potentials import LennardJonesModel, MuellerBrownModel, lj_cluster, mueller_brown
from rlpath_core.testing.search import SearchSuite


class TestMinMode(SearchSuite):
    @pytest.fixture
    def search(self) -> Callable[..., Search]:
        return lambda **options: MinMode(MinModeOptions(**options))


@pytest.mark.parametrize(("x", "y", "energy"), [(-0.822, 0.624, -40.6648), (0.212, 0.293, -72.2489)])
def test_both_saddles_of_mueller_and_brown(x: float, y: float, energy: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(4):
        dx, dy = rng.uniform(-0.1, 0.1, 2)
        found, calls = SearchSuite.solve(
            MinMode(MinModeOptions(fmax=0.01)), Guess(mueller_brown(x + dx, y + dy)), MuellerBrownModel()
        )
        assert found.converged
        assert found.prediction.energy == pytest.approx(energy, abs=1e-3)
        assert calls < 40


def test_a_cluster_of_seven_from_random_starts() -> None:
    model, minimum = LennardJonesModel(), lj_cluster(7)
    everything = np.ones(7, bool)
    for seed in range(4):
        positions = minimum.positions + 0.05 * np.random.default_rng(seed).normal(size=(7, 3))
        found, calls = SearchSuite.solve(MinMode(MinModeOptions(fmax=1e-3)), Guess(minimum.moved(positions)), model)
        assert found.converged
        assert calls < 60
        hessian = numerical_hessian(
            found.structure, everything, Evaluator(lambda request: model.predict(request.structures)), 1e-4
        )
        still = rigid(found.structure, everything)
        values = np.linalg.eigvalsh(hessian + 1e3 * still @ still.T)
        assert values[0] < -0.5 < 0.1 < values[1]

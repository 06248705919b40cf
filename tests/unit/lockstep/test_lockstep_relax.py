"""Every quench method by its conformance suite, and against ASE alone."""

from __future__ import annotations

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.optimize import BFGS, FIRE, LBFGS
from ase.optimize.sciopt import SciPyFminCG

from rlpath_core.lockstep.options import QuenchOptions
from rlpath_core.lockstep.relax import EXPLODED
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.quench import QuenchSuite

METHODS = {"fire": FIRE, "cg": SciPyFminCG, "bfgs": BFGS, "lbfgs": LBFGS}


@pytest.mark.parametrize("method", ["none", *METHODS])
class TestQuench(QuenchSuite):
    @pytest.fixture
    def options(self, method: str) -> QuenchOptions:
        return QuenchOptions(method=method, fmax=0.5, steps=20)


@pytest.mark.parametrize("method", list(METHODS))
def test_the_way_is_ases_own(copper: Structure, method: str):
    start = QuenchSuite().shaken(copper, 5)
    options = QuenchOptions(method=method, fmax=0.4, steps=15, max_step=0.1, hessian="unit")
    (found,), _ = QuenchSuite().relax([start], EMTModel(), options)
    atoms = start.to_ase()
    atoms.calc = EMT()
    extra = {} if method == "cg" else {"maxstep": 0.1}
    METHODS[method](atoms, logfile=None, **extra).run(fmax=0.4, steps=15)
    np.testing.assert_allclose(found.structure.positions, atoms.positions, atol=1e-6)


def test_an_exploding_quench_ends_early(copper: Structure):
    positions = copper.positions.copy()
    positions[12] = positions[13] + [0.0, 0.0, 0.15]
    start = copper.moved(positions)
    assert np.abs(EMTModel().predict([start])[0].forces).max() > EXPLODED
    (found,), _ = QuenchSuite().relax([start], EMTModel(), QuenchOptions(steps=50))
    assert not found.converged
    assert found.steps == 0

"""Verification of a saddle whose mode nobody knows, of a cluster whose first steps down can be far too long."""

from __future__ import annotations

import numpy as np
import pytest

from rlpath_core.geometry.slab import infer_roles
from rlpath_core.lockstep.hessian import numerical_hessian
from rlpath_core.lockstep.hub import Evaluator, Hub
from rlpath_core.paths.options import SellaOptions, VerifyOptions
from rlpath_core.paths.searches import SEARCHES, Found, Guess, Surface
from rlpath_core.paths.verdict import State, Verdict
from rlpath_core.paths.verification import verify
from rlpath_core.testing.potentials import LennardJonesModel, lj_cluster

pytest.importorskip("sella")


def test_true_saddles_of_a_cluster_are_kept_and_its_minimum_is_not() -> None:
    """The judge is the whole Hessian, of which rigid motions are the six values nearest to zero."""
    minimum = lj_cluster(13)
    roles = infer_roles(minimum)
    by = np.random.default_rng(2).normal(0, 0.15, minimum.positions.shape)
    verdicts: list[Verdict] = []

    def script(evaluate: Evaluator) -> None:
        surface = Surface(evaluate, roles.movable, roles, np.random.default_rng(0))
        start = minimum.moved(minimum.positions + by)
        found = SEARCHES["sella"](SellaOptions(fmax=0.001, max_calls=400)).run(Guess(start), surface)
        assert found.converged
        values = np.linalg.eigvalsh(numerical_hessian(found.structure, roles.movable, evaluate))
        assert (values < -0.05).sum() == 1
        for structure in (found.structure, minimum):
            verdicts.append(verify(Found(structure, evaluate(structure), True), surface, VerifyOptions(max_barrier=20)))

    Hub(LennardJonesModel()).run([script])
    saddle, bottom = verdicts
    assert (saddle.state, saddle.rejection) == (State.CONNECTED, None)
    assert bottom.rejection == "minimum"

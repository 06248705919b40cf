"""Descents from saddles by springs that learn, against SciPy's L-BFGS from the same place."""

from __future__ import annotations

import numpy as np
import pytest

from rlpath_core.backends.base import Prediction
from rlpath_core.lockstep.hub import Hub
from rlpath_core.lockstep.relax import Quenched, StopQuench
from rlpath_core.paths.descent import descend
from rlpath_core.paths.pair_hessian import PairHessian
from rlpath_core.structure import Structure
from rlpath_core.testing.potentials import LennardJonesModel, lj_cluster, relaxed
from rlpath_core.testing.stationary import lj7

FMAX = 1e-3


def descents(starts: list[Structure], callback=lambda *at: None) -> list[tuple[Quenched, int]]:
    """Where each ends, and the structures that it cost."""
    found: list[tuple[Quenched, int]] = []
    movable = np.ones(7, bool)
    for start in starts:

        def script(evaluate, start=start):
            springs = PairHessian(start, movable)
            end = descend(start, evaluate(start), movable, evaluate, springs, FMAX, 200, 0.1, callback)
            found.append((end, evaluate.calls))

        Hub(LennardJonesModel()).run([script])
    return found


def beside_saddles() -> list[Structure]:
    """Either side of the saddles of LJ7 that six random starts lead to, at a tenth of the atoms' radius."""
    out = []
    for saddle in lj7(1, 6):
        push = np.random.default_rng(len(out)).normal(size=(7, 3))
        push *= 0.1 / np.linalg.norm(push)
        out += [saddle.moved(saddle.positions + push), saddle.moved(saddle.positions - push)]
    return out


def test_every_descent_ends_in_a_minimum_that_is_one_to_scipy_as_well():
    model = LennardJonesModel()
    for end, _ in descents(beside_saddles()):
        assert end.converged
        assert end.fmax < FMAX
        (settled,) = model.predict([relaxed(model, end.structure)])
        assert end.energy == pytest.approx(settled.energy, abs=1e-5)


def test_energies_fall_at_every_step_that_is_kept():
    energies: list[float] = []

    def look(step: int, structure: Structure, prediction: Prediction) -> None:
        energies.append(prediction.energy)

    descents(beside_saddles()[:1], look)
    assert len(energies) > 5
    assert np.diff(energies).max() < 1e-3


def test_a_callback_ends_it():
    def look(step: int, structure: Structure, prediction: Prediction) -> None:
        if step == 2:
            raise StopQuench

    ((end, calls),) = descents(beside_saddles()[:1], look)
    assert not end.converged
    assert calls <= 3


def test_a_minimum_costs_nothing_more():
    ((end, calls),) = descents([lj_cluster(7)])
    assert (end.converged, end.steps, calls) == (True, 0, 1)

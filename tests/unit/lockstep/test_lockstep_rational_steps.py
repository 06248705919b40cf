"""Rational-function steps: against ASE's own RFO, and where that one has no answer."""

from __future__ import annotations

import numpy as np
import pytest
from ase.optimize.rfo import RFO

from rlpath_core.geometry.slab import infer_roles
from rlpath_core.lockstep.ase import MovableAtoms
from rlpath_core.lockstep.hessian import model_hessian
from rlpath_core.lockstep.hub import Evaluator, Hub
from rlpath_core.lockstep.relax import RationalBFGS
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.quench import QuenchSuite


def path(kind: type, start: Structure, steps: int = 6, **options) -> list[np.ndarray]:
    """The first places of a relaxation by ``kind`` that begins with the model Hessian."""
    movable, places = infer_roles(start).movable, []

    def walk(evaluate: Evaluator) -> None:
        place = MovableAtoms(start, movable, evaluate, evaluate(start))
        optimizer = kind(place, logfile=None, maxstep=0.3, **options)
        optimizer.H0 = model_hessian(start, movable)
        if kind is RFO:
            optimizer.v0 = np.eye(len(optimizer.H0) + 1)[-1]
        optimizer.attach(lambda: places.append(place.get_x().copy()))
        optimizer.run(fmax=1e-6, steps=steps)

    Hub(EMTModel()).run([walk])
    return places


def test_the_steps_are_those_of_ase(copper: Structure):
    start = QuenchSuite().shaken(copper, 0)
    ours, theirs = path(RationalBFGS, start), path(RFO, start, damping=RationalBFGS.DAMPING)
    assert len(ours) == len(theirs) == 7
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_downhill_direction_without_a_part_in_the_gradient_is_left_alone(copper: Structure):
    """By symmetry a ridge may have no slope along its falling side: the step is then along the gradient alone."""
    steps = []

    def walk(evaluate: Evaluator) -> None:
        place = MovableAtoms(copper, infer_roles(copper).movable, evaluate, evaluate(copper))
        optimizer = RationalBFGS(place, logfile=None, maxstep=0.3)
        n = optimizer.optimizable.ndofs()
        optimizer.H0 = np.diag([-1.0] + [2.0] * (n - 1))
        gradient = np.zeros(n)
        gradient[1] = 0.1
        steps.append(optimizer.prepare_step(place.get_x(), gradient)[0])

    Hub(EMTModel()).run([walk])
    (step,) = steps
    assert step[1] == pytest.approx(-0.05, abs=5e-3)
    np.testing.assert_allclose(np.delete(step, 1), 0.0, atol=1e-6)

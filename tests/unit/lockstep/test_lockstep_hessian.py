"""The model Hessian against second derivatives by finite differences, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest

from rlpath_core.geometry.neighbours import neighbours
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.lockstep.hessian import ALPHA, LENGTH, REACH, SOFT, STIFF, STRETCH, model_hessian
from rlpath_core.lockstep.options import QuenchOptions
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.quench import QuenchSuite


def springs(structure: Structure, displaced: np.ndarray) -> float:
    """Energy of Lindh's stretches, each at rest in ``structure``, in plain loops over neighbours."""
    i, j, d, vector = neighbours(structure, "ijdD", REACH)
    total = 0.0
    for a, b, length, v in zip(i, j, d, vector, strict=True):
        if a == b:
            continue
        rows = [0 if z <= 2 else 1 if z <= 10 else 2 for z in structure.numbers[[a, b]]]
        k = min(STRETCH * np.exp(ALPHA[*rows] * (LENGTH[*rows] ** 2 - length**2)), STIFF)
        total += 0.25 * k * (np.linalg.norm(v + displaced[b] - displaced[a]) - length) ** 2  # each pair is met twice
    return total


def test_it_is_the_second_derivative_of_the_springs(system: Structure):
    movable = infer_roles(system).movable
    hessian = model_hessian(system, movable)
    n = 3 * int(movable.sum())
    assert hessian.shape == (n, n)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-12)
    assert np.linalg.eigvalsh(hessian).min() >= SOFT - 1e-9

    def energy(*steps: tuple[int, float]) -> float:
        moved = np.zeros(n)
        for at, by in steps:
            moved[at] += by
        displaced = np.zeros((len(system), 3))
        displaced[movable] = moved.reshape(-1, 3)
        return springs(system, displaced)

    h, rng = 1e-3, np.random.default_rng(0)
    for a, b in [*rng.integers(0, n, (3, 2)).tolist(), (0, 0), (n - 1, 2)]:
        found = sum(p * q * energy((a, p * h), (b, q * h)) for p in (1, -1) for q in (1, -1)) / (4 * h * h)
        assert hessian[a, b] - SOFT * (a == b) == pytest.approx(found, abs=2e-2)


@pytest.mark.slow
def test_a_relaxation_that_begins_with_it_needs_fewer_steps(copper: Structure):
    """Copper and CO, shaken: BFGS with the model Hessian against ASE's own single curvature."""
    suite = QuenchSuite()
    starts = [suite.shaken(copper, seed) for seed in range(6)]
    steps = {}
    for hessian in ("lindh", "unit"):
        options = QuenchOptions(method="bfgs", fmax=0.02, steps=200, max_step=0.2, hessian=hessian)
        found, _ = suite.relax(starts, EMTModel(), options)
        assert all(one.converged for one in found)
        steps[hessian] = sum(one.steps for one in found)
    assert steps["lindh"] < steps["unit"]

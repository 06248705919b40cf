"""The ladder of verification on saddles that are known from elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixedLine
from ase.optimize import BFGS

from rlpath_core.backends.base import Model
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.lockstep.hessian import force_derivatives, numerical_hessian
from rlpath_core.lockstep.hub import Hub
from rlpath_core.lockstep.options import QuenchOptions
from rlpath_core.lockstep.vibrations import vibrations
from rlpath_core.paths.options import LimitsOptions, VerifyOptions
from rlpath_core.paths.searches import Found, Surface
from rlpath_core.paths.verdict import State, Verdict
from rlpath_core.paths.verification import verify
from rlpath_core.paths.watch import Watch
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.hops import gold_on_aluminium
from rlpath_core.testing.models import SwirlingModel
from rlpath_core.testing.potentials import MuellerBrownModel, mueller_brown


def verdict_of(model: Model, structure: Structure, options: VerifyOptions | None = None, **found: object) -> Verdict:
    """Of a search that is said to have converged at ``structure``."""
    verdicts: list[Verdict] = []
    roles = infer_roles(structure)

    def script(evaluate):
        prediction = evaluate(structure)
        watch = Watch(roles, structure, prediction.energy, LimitsOptions(max_drop=None))
        surface = Surface(evaluate, roles.movable, roles, np.random.default_rng(0), watch, model.conservative)
        verdicts.append(verify(Found(structure, prediction, True, **found), surface, options or VerifyOptions()))

    Hub(model).run([script])
    return verdicts[0]


def bridge() -> Structure:
    """Gold half way between two hollows, where symmetry keeps it: relaxed by ASE with its height alone free."""
    start, end = gold_on_aluminium()
    atoms = start.to_ase()
    atoms.positions[-1] = (start.positions[-1] + end.positions[-1]) / 2 + [0, 0, 0.3]
    atoms.set_constraint([FixAtoms(mask=start.fixed), FixedLine(len(atoms) - 1, [0, 0, 1])])
    atoms.calc = EMT()
    assert BFGS(atoms, logfile=None).run(fmax=0.002, steps=100)
    return start.moved(atoms.positions)


@pytest.mark.parametrize("hessian", ["connected", "all"])
def test_the_hop_of_gold_on_aluminium(hessian: str):
    saddle = bridge()
    start, end = gold_on_aluminium()
    (bottom,) = EMTModel().predict([start])
    verdict = verdict_of(EMTModel(), saddle, VerifyOptions(hessian=hessian))
    assert (verdict.state, verdict.rejection) == (State.CONNECTED, None)
    assert verdict.energy - bottom.energy == pytest.approx(0.3745, abs=1e-3)
    assert verdict.ends is not None
    assert [one.energy for one in verdict.ends] == pytest.approx([bottom.energy] * 2, abs=1e-3)
    gold = sorted(one.structure.positions[-1, 0] for one in verdict.ends)
    assert gold == pytest.approx(sorted([start.positions[-1, 0], end.positions[-1, 0]]), abs=0.05)
    assert verdict.mode is not None
    assert np.linalg.norm(verdict.mode) == pytest.approx(1.0)
    along = verdict.ends[1].structure.positions - verdict.ends[0].structure.positions
    assert (along * verdict.mode).sum() > 0.8 * np.linalg.norm(along)
    assert verdict.sides is not None
    assert np.linalg.norm(verdict.sides[1].positions - saddle.positions) == pytest.approx(0.05, abs=0.02)
    assert verdict.asymmetry is not None
    assert verdict.asymmetry < 1e-3


def test_its_frequencies_give_the_published_prefactor():
    """5.42e12 per second by Vineyard's formula, but for what the softest mode (19 per cm) owes to convergence."""
    speed = 2.99792458e10
    verdict = verdict_of(EMTModel(), bridge(), VerifyOptions(hessian="all"))
    assert verdict.hessian is not None
    saddle = vibrations(verdict.structure, ~verdict.structure.fixed, verdict.hessian).frequencies
    start = gold_on_aluminium()[0]
    hessians: list[np.ndarray] = []
    Hub(EMTModel()).run([lambda evaluate: hessians.append(numerical_hessian(start, ~start.fixed, evaluate))])
    minimum = vibrations(start, ~start.fixed, hessians[0]).frequencies
    assert (saddle < 0).sum() == 1
    assert minimum.min() > 0
    prefactor = speed * np.exp(np.log(minimum).sum() - np.log(saddle[1:]).sum())
    assert prefactor == pytest.approx(5.42e12, rel=0.02)


@pytest.mark.parametrize(
    ("place", "energy"), [((-0.8220, 0.6243), -40.6648), ((0.2125, 0.2930), -72.2489)], ids=["high", "low"]
)
def test_saddles_of_mueller_and_brown(place: tuple[float, float], energy: float):
    scale = 0.01
    verdict = verdict_of(MuellerBrownModel(scale=scale), mueller_brown(*place))
    assert (verdict.state, verdict.rejection) == (State.CONNECTED, None)
    assert verdict.energy == pytest.approx(scale * energy, abs=1e-5)
    assert verdict.ends is not None
    known = np.array([[-0.5582, 1.4417], [-0.0500, 0.4667], [0.6235, 0.0280]])
    ends = [one.structure.positions[0, :2] for one in verdict.ends]
    reached = [int(np.linalg.norm(known - end, axis=1).argmin()) for end in ends]
    assert sorted(reached) == ([0, 1] if place[0] < 0 else [1, 2])
    assert max(np.linalg.norm(known[k] - end) for k, end in zip(reached, ends, strict=True)) < 0.02


def test_a_saddle_whose_force_is_a_little_too_large_is_refined():
    saddle = bridge()
    shaken = saddle.positions.copy()
    shaken[~saddle.fixed] += np.random.default_rng(1).normal(scale=0.01, size=(5, 3))
    verdict = verdict_of(EMTModel(), saddle.moved(shaken))
    assert (verdict.state, verdict.rejection) == (State.CONNECTED, None)
    assert verdict.fmax < 0.01
    np.testing.assert_allclose(verdict.structure.positions, saddle.positions, atol=0.02)


def test_the_same_again_to_the_last_bit():
    first, second = (verdict_of(EMTModel(), bridge()) for _ in range(2))
    assert first.ends is not None
    assert second.ends is not None
    assert first.curvatures == second.curvatures
    np.testing.assert_array_equal(first.hessian, second.hessian)
    for one, other in zip(first.ends, second.ends, strict=True):
        np.testing.assert_array_equal(one.structure.positions, other.structure.positions)


FIRE = QuenchOptions(method="fire", fmax=0.01, steps=600)


def driven(swirl: float, tilt: float = 0.0, **options: object) -> Verdict:
    """On the gold at its bridge, of forces that are no gradient, and of energies that they know little of."""
    saddle = bridge()
    model = SwirlingModel(swirl, saddle.positions[-1, 0], tilt)
    return verdict_of(model, saddle, VerifyOptions(hessian="all", quench=FIRE, **options))


def test_forces_decide_where_they_are_no_gradient():
    """The saddle is where it was; what a verdict says of the derivatives is what the driven model says of itself."""
    swirl, saddle = 0.1, bridge()
    movable = ~saddle.fixed
    found: list[np.ndarray] = []
    Hub(EMTModel()).run([lambda evaluate: found.append(force_derivatives(saddle, movable, evaluate))])
    verdict = driven(swirl)
    assert (verdict.state, verdict.rejection) == (State.CONNECTED, None)
    derivatives = found[0]
    derivatives[-3, -2] -= swirl
    symmetric = (derivatives + derivatives.T) / 2
    assert verdict.asymmetry == pytest.approx(swirl / np.sqrt(2) / np.linalg.norm(symmetric), rel=1e-3)
    assert verdict.prefactor == pytest.approx(
        np.sqrt(abs(np.linalg.det(derivatives) / np.linalg.det(symmetric))), rel=1e-3
    )
    assert verdict.ends is not None
    falls = [verdict.energy - end.energy for end in verdict.ends]
    assert falls == pytest.approx([0.3745] * 2, abs=0.03)
    assert verdict.disagreement is not None
    assert 0 < verdict.disagreement < 0.05


@pytest.mark.parametrize(
    ("tilt", "limit", "rejection"), [(0.08, 0.2, None), (0.35, 0.2, "inconsistent"), (0.35, 0.8, None)]
)
def test_an_energy_that_forces_know_nothing_of(tilt: float, limit: float, rejection: str | None):
    """Gold goes half a constant of the surface, 1.43 Å, to both sides; 0.35 eV/Å lift both ends over the saddle."""
    lifted = tilt * 4.05 / np.sqrt(8)
    verdict = driven(0.02, tilt, disagreement=limit)
    assert verdict.rejection == rejection
    assert verdict.disagreement == pytest.approx(lifted, abs=0.02)
    assert verdict.ends is not None
    assert [verdict.energy - end.energy for end in verdict.ends] == pytest.approx([0.3745 - lifted] * 2, abs=0.02)
    if rejection:
        assert verdict.state == State.FIRST_ORDER
        assert (verdict.figure, verdict.limit) == (verdict.disagreement, limit)
    else:
        assert verdict.state == State.CONNECTED
        assert (verdict.hessian is None) == (lifted > 0.3745), "no rate without a barrier"

"""What verification keeps and what it rejects, on stationary points found by code of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.mep import NEB
from ase.optimize import BFGS

from rlpath_core.geometry.slab import infer_roles
from rlpath_core.lockstep.hub import Hub
from rlpath_core.lockstep.options import QuenchOptions
from rlpath_core.paths.options import LimitsOptions, VerifyOptions
from rlpath_core.paths.searches import Found, Surface
from rlpath_core.paths.verdict import State, Verdict
from rlpath_core.paths.verification import verify
from rlpath_core.paths.watch import Watch
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.potentials import LennardJonesModel
from rlpath_core.testing.stationary import Case, lj7, nitrogen, traps, true_saddles


def judged(cases: Iterator[Case]) -> list[tuple[Case, Verdict]]:
    """The verdict on each case, from an exact structure, without a mode from a search."""
    out: list[tuple[Case, Verdict]] = []
    for case in cases:
        roles = infer_roles(case.structure)

        def script(evaluate, case=case, roles=roles):
            prediction = evaluate(case.structure)
            watch = Watch(roles, case.structure, prediction.energy, LimitsOptions(max_energy=None))
            surface = Surface(evaluate, roles.movable, roles, np.random.default_rng(0), watch)
            out.append((case, verify(Found(case.structure, prediction, True), surface, case.options)))

        Hub(case.model).run([script])
    return out


def told(found: list[tuple[Case, Verdict]]) -> dict[str, str | None]:
    return {case.name: verdict.rejection for case, verdict in found}


def test_true_saddles_are_kept():
    found = judged(true_saddles(lj_starts=8, metals=False))
    assert len(found) >= 6
    assert set(told(found).values()) == {None}
    for _, verdict in found:
        assert verdict.state == State.CONNECTED
        assert verdict.hessian is not None
        assert verdict.curvatures is not None
        assert verdict.curvatures[0] < -0.05 < verdict.curvatures[1]
        assert verdict.ends is not None
        assert max(end.energy for end in verdict.ends) < verdict.energy


def test_traps_are_rejected_for_what_they_are():
    found = judged(traps(lj_starts=8))
    assert told(found) == {case.name: case.rejection for case, _ in found}
    reasons = Counter(case.rejection for case, _ in found)
    assert set(reasons) == {"second_order", "minimum", "disconnected", "desorbed", "barrier", "not_converged"}
    for _, verdict in found:
        assert verdict.state in (State.GUESS, State.CONVERGED, State.FIRST_ORDER)
        assert verdict.figure is not None
        assert verdict.limit is not None


def test_a_climbing_image_falls_into_the_trap_and_verification_does_not():
    """Two nitrogen atoms go from fcc to hcp hollows at once: ASE's band converges, on two negative curvatures."""
    start, end = nitrogen([0.0, 0.0]), nitrogen([1.0, 1.0])
    images = []
    for structure in (start, start, start, start, end):
        atoms = structure.to_ase()
        atoms.calc = EMT()
        images.append(atoms)
    for atoms in (images[0], images[-1]):
        BFGS(atoms, logfile=None).run(fmax=0.01)
    band = NEB(images, climb=True, method="improvedtangent")
    band.interpolate()
    assert BFGS(band, logfile=None).run(fmax=0.01, steps=50)
    top = max(images, key=lambda atoms: atoms.get_potential_energy())
    (case, verdict), *_ = judged(iter([Case("band", EMTModel(), Structure.from_ase(top), "second_order")]))
    assert verdict.rejection == case.rejection
    assert verdict.curvatures is not None
    assert max(verdict.curvatures) < -0.2


class Swirling(LennardJonesModel):
    """Forces with a part that is the gradient of nothing: ``strength`` eV/Å² times (-y, x, 0) from the centre."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.strength = strength

    def predict(self, structures, **kwargs):
        predictions = super().predict(structures, **kwargs)
        for structure, prediction in zip(structures, predictions, strict=True):
            x, y, _ = (structure.positions - structure.positions.mean(axis=0)).T
            prediction.forces[:] += self.strength * np.stack((-y, x, 0 * x), axis=1)
        return predictions


def test_forces_that_are_no_gradient_are_said_to_be_so():
    """The saddle of LJ7 is one as before; its verdict tells how far the derivatives are from symmetric."""
    saddle = lj7(1, 4)[0]
    quench = QuenchOptions(fmax=0.05, steps=300, max_step=0.1)
    loose = VerifyOptions(fmax=0.05, hessian="all", hessian_step=1e-4, quench=quench)
    cases = [Case(f"{strength}", Swirling(strength), saddle, options=loose) for strength in (0.0, 0.01)]
    (_, straight), (_, swirling) = judged(iter(cases))
    assert straight.state == swirling.state == State.CONNECTED
    assert straight.asymmetry is not None
    assert swirling.asymmetry is not None
    assert swirling.curvatures == pytest.approx(straight.curvatures, rel=1e-2)
    assert straight.hessian is not None
    expected = 0.01 * np.sqrt(2 * 6) / np.linalg.norm(straight.hessian)  # of seven atoms less their centre
    assert straight.asymmetry < 0.01 * expected
    assert swirling.asymmetry == pytest.approx(expected, rel=0.01)


def test_an_energy_that_does_not_fall_is_no_saddle():
    class Upside(LennardJonesModel):
        """The forces of LJ7, and the negative energy."""

        def predict(self, structures, **kwargs):
            predictions = super().predict(structures, **kwargs)
            return [type(one)(-one.energy, one.forces) for one in predictions]

    ((_, verdict),) = judged(iter([Case("upside", Upside(), lj7(1, 4)[0])]))
    assert verdict.rejection in ("uphill", "end_not_converged")
    assert verdict.state == State.FIRST_ORDER


@pytest.mark.nightly
def test_ninety_nine_of_a_hundred_true_saddles_are_kept_and_no_trap():
    kept = [verdict.rejection is None for _, verdict in judged(true_saddles(lj_starts=150))]
    assert len(kept) >= 15
    assert np.mean(kept) >= 0.99
    found = judged(traps(lj_starts=150))
    assert told(found) == {case.name: case.rejection for case, _ in found}

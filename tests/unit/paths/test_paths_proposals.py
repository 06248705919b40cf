"""Every proposal by the conformance suite, and what each promises besides."""

from __future__ import annotations

import numpy as np
import pytest
from ase.calculators.emt import EMT

from rlpath_core.geometry.cell import displacements
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.lockstep.hub import Evaluator, Hub
from rlpath_core.paths.proposals import (
    BondChanges,
    Displacements,
    KnownMinimum,
    Landscape,
    Pairs,
    Proposal,
    SaddleImages,
    SoftModes,
)
from rlpath_core.paths.proposals.soft_modes import soft_modes
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.potentials import pt_heptamer
from rlpath_core.testing.proposal import ProposalSuite, known
from rlpath_core.testing.systems import SYSTEMS, orthogonal, oxide


class TestDisplacements(ProposalSuite):
    always_applies = True

    @pytest.fixture
    def proposal(self) -> Proposal:
        return Displacements(Displacements.Options())


class TestSoftModes(ProposalSuite):
    always_applies = True

    @pytest.fixture(params=["orthogonal", "cluster"])
    def system(self, request: pytest.FixtureRequest) -> Structure:
        return SYSTEMS[request.param]()

    @pytest.fixture
    def proposal(self) -> Proposal:
        return SoftModes(SoftModes.Options(vectors=6, modes=4))


class TestBonds(ProposalSuite):
    @pytest.fixture(params=["triclinic", "free_molecule", "thin"])
    def system(self, request: pytest.FixtureRequest) -> Structure:
        return SYSTEMS[request.param]()

    @pytest.fixture
    def proposal(self) -> Proposal:
        return BondChanges(BondChanges.Options())


class TestPairs(ProposalSuite):
    always_applies = True

    @pytest.fixture(params=["triclinic", "cluster"])
    def system(self, request: pytest.FixtureRequest) -> Structure:
        return SYSTEMS[request.param]()

    @pytest.fixture
    def proposal(self) -> Proposal:
        return Pairs(Pairs.Options())


class TestImages(ProposalSuite):
    @pytest.fixture(params=["orthogonal", "cluster"])
    def system(self, request: pytest.FixtureRequest) -> Structure:
        return SYSTEMS[request.param]()

    @pytest.fixture
    def proposal(self) -> Proposal:
        return SaddleImages(SaddleImages.Options())


def test_displacements_learn_their_law_and_place() -> None:
    """One law finds saddles around one atom: both are drawn more often afterwards."""
    system = orthogonal()
    landscape = known(system)
    proposal, rng = Displacements(Displacements.Options()), np.random.default_rng(0)
    laws, places = [], []
    for _ in range(300):
        guess = proposal.propose(landscape, rng)
        assert guess is not None
        law, atom = guess.parameters["law"], guess.parameters["atom"]
        good = law == "turn 90" and atom == 13
        proposal.observe(guess, "TS001" if good else None, 1.0 if good else 0.0, 150)
        laws.append(law == "turn 90")
        places.append(atom == 13)
    assert np.mean(laws[150:]) > 0.4 > np.mean(laws[:30])
    assert np.mean(places[150:]) > 0.7


def test_a_shift_is_along_the_surface_and_keeps_the_molecule() -> None:
    system = oxide()
    landscape = known(system)
    proposal, rng = (
        Displacements(Displacements.Options(shifts=[1.5], turns=[], steps=[], sigmas=[0.1])),
        np.random.default_rng(1),
    )
    roles = landscape.roles
    found = [guess for guess in (proposal.propose(landscape, rng) for _ in range(60)) if guess is not None]
    shifts = [guess for guess in found if guess.parameters["law"] == "shift 1.5" and guess.start == "B001"]
    assert shifts
    for guess in shifts:
        moved = displacements(guess.structure, system)[roles.adsorbate]
        np.testing.assert_allclose(moved, moved[:1].repeat(len(moved), axis=0), atol=1e-9)
        assert np.hypot(*moved[0, :2]) == pytest.approx(1.5)


def test_a_shear_slides_one_part_of_an_island_along_the_other() -> None:
    """Two parts of an island move apart along the surface, and its centre stays where it is."""
    system = pt_heptamer()
    roles = infer_roles(system)
    landscape = Landscape(roles, [KnownMinimum("B001", system, 0.0)])
    options = Displacements.Options(shears=[1.0], shifts=[], turns=[], steps=[], sigmas=[])
    proposal, rng = Displacements(options), np.random.default_rng(2)
    slid = []
    for _ in range(20):
        guess = proposal.propose(landscape, rng)
        assert guess is not None
        moved = displacements(guess.structure, system)[roles.adsorbate]
        assert np.linalg.norm(moved.mean(axis=0)) < 0.15
        if len(moved) > len(far := moved[moved @ moved[0] < 0]) > 0:
            slid.append(np.linalg.norm(moved[0] - far.mean(axis=0)))
            assert np.abs(moved[:, 2]).max() < 0.25
    assert np.mean(slid) == pytest.approx(1.0, abs=0.15)


def test_soft_modes_are_those_of_ase() -> None:
    """With as many vectors as coordinates their curvatures are the eigenvalues of these atoms' Hessian."""
    system = orthogonal()
    roles = infer_roles(system)
    found: list[np.ndarray] = []

    def script(evaluate: Evaluator) -> None:
        found.append(soft_modes(system, roles.adsorbate, evaluate, 6)[1])
        assert evaluate.calls == 7

    Hub(EMTModel()).run([script])
    atoms = system.to_ase()
    atoms.calc = EMT()
    rows = np.flatnonzero(roles.adsorbate)
    hessian = np.zeros((6, 6))
    for k, (atom, axis) in enumerate((a, x) for a in rows for x in range(3)):
        pair = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.calc = EMT()
            moved.positions[atom, axis] += sign * 1e-3
            pair.append(moved.get_forces()[rows].ravel())
        hessian[k] = (pair[1] - pair[0]) / 2e-3
    hessian = (hessian + hessian.T) / 2
    modes = found[0][:, rows].reshape(6, 6)
    curvatures = np.einsum("ki,ij,kj->k", modes, hessian, modes)
    np.testing.assert_allclose(curvatures, np.linalg.eigvalsh(hessian), rtol=0.02, atol=0.05)
    np.testing.assert_allclose(modes @ modes.T, np.eye(6), atol=1e-9)


def test_soft_modes_are_computed_once() -> None:
    system = orthogonal()
    landscape = known(system)
    proposal = SoftModes(SoftModes.Options(vectors=6, modes=4, mixtures=[]))
    calls: list[int] = []

    def script(evaluate: Evaluator) -> None:
        rng = np.random.default_rng(0)
        while proposal.applies(landscape):
            guess = proposal.propose(landscape, rng)
            assert guess is not None
            guess = proposal.refine(guess, evaluate, rng)
            proposal.observe(guess, None, 0.0, 100)
            calls.append(evaluate.calls)

    Hub(EMTModel()).run([script])
    assert calls[-1] == 2 * 7, "seven structures for each of the two minima"
    assert len(calls) == 2 * 4 * 2 * 3, "every mode, sign and amplitude of both, and none twice"

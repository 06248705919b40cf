"""Lowest modes against the eigenvectors of the whole Hessian."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import add_adsorbate, fcc100, molecule
from ase.calculators.lj import LennardJones
from ase.cluster import Octahedron

from rlpath_core.backends.base import Prediction
from rlpath_core.lockstep.hessian import numerical_hessian
from rlpath_core.lockstep.hub import Evaluator
from rlpath_core.lockstep.vibrations import rigid_motions
from rlpath_core.paths.lowest_mode import lowest_mode, lowest_modes
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel


def emt() -> Evaluator:
    model = EMTModel()
    return Evaluator(lambda request: model.predict(request.structures))


def lennard_jones() -> Evaluator:
    def predict(structure: Structure) -> Prediction:
        atoms = structure.to_ase()
        atoms.calc = LennardJones(sigma=2.6, epsilon=0.2, rc=20.0)
        return Prediction(float(atoms.get_potential_energy()), np.array(atoms.get_forces()))

    return Evaluator(lambda request: [predict(one) for one in request.structures])


def hop() -> Structure:
    """Gold between two hollows of Al(100), a little off."""
    atoms = fcc100("Al", (2, 2, 3), vacuum=10.0)
    add_adsorbate(atoms, "Au", 2.0, "bridge")
    atoms.rattle(0.02, seed=3)
    fixed = atoms.get_tags() > 1
    return Structure(
        numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell.array, pbc=[True, True, False], fixed=fixed
    )


def cluster(seed: int) -> Structure:
    atoms = Octahedron("Cu", 3, 1)
    atoms.rattle(0.03, seed=seed)
    return Structure(numbers=atoms.numbers, positions=atoms.positions)


def test_finds_the_lowest_mode_of_a_surface() -> None:
    structure, evaluate = hop(), emt()
    movable = ~structure.fixed
    values, vectors = np.linalg.eigh(numerical_hessian(structure, movable, evaluate))
    evaluate.calls = 0
    prediction = evaluate(structure)
    found = lowest_mode(structure, movable, evaluate, prediction, tolerance=0.05)
    assert abs(found.mode[movable].ravel() @ vectors[:, 0]) > 0.98
    assert found.curvature == pytest.approx(values[0], abs=0.05)
    assert found.calls == evaluate.calls - 1 < len(values) / 2
    assert not found.mode[~movable].any()
    assert np.linalg.norm(found.mode) == pytest.approx(1)
    again = lowest_mode(structure, movable, evaluate, prediction, found.mode, tolerance=0.05)
    assert again.calls < found.calls


@pytest.mark.parametrize("seed", [0, 1])
def test_two_modes_of_a_free_cluster_leave_its_rigid_motions_out(seed: int) -> None:
    structure, evaluate = cluster(seed), lennard_jones()
    movable = np.ones(len(structure), bool)
    rigid = rigid_motions(structure, movable).T
    assert rigid.shape[1] == 6
    hessian = numerical_hessian(structure, movable, evaluate)
    values = np.linalg.eigvalsh(hessian + 1e4 * rigid @ rigid.T)
    evaluate.calls = 0
    found = lowest_modes(structure, movable, evaluate, evaluate(structure), count=2, tolerance=0.03)
    assert found.converged
    assert found.calls == evaluate.calls - 1 < 15
    np.testing.assert_allclose(found.curvatures, values[:2], atol=0.02)
    assert np.abs(found.modes.reshape(2, -1) @ rigid).max() < 1e-6


def test_a_small_molecule_is_solved_whole() -> None:
    atoms = molecule("H2O", vacuum=5.0)
    atoms.rattle(0.05, seed=1)
    structure, evaluate = Structure(numbers=atoms.numbers, positions=atoms.positions), emt()
    movable = np.ones(3, bool)
    rigid = rigid_motions(structure, movable).T
    hessian = numerical_hessian(structure, movable, evaluate, 0.002)
    outside = np.eye(9) - rigid @ rigid.T
    values = np.linalg.eigvalsh(outside @ hessian @ outside + 1e6 * rigid @ rigid.T)
    found = lowest_modes(structure, movable, evaluate, evaluate(structure), count=3, tolerance=1e-9, step=1e-4)
    assert found.calls == 3
    assert found.converged
    np.testing.assert_allclose(found.curvatures, values[:3], rtol=2e-3, atol=0.02)

"""Frequencies and normal modes against ASE's."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from ase import units
from ase.calculators.emt import EMT
from ase.vibrations import Vibrations as AseVibrations
from ase.vibrations import VibrationsData

from rlpath_core.lockstep.hessian import asymmetry, force_derivatives, numerical_hessian
from rlpath_core.lockstep.hub import Evaluator, Hub
from rlpath_core.lockstep.vibrations import rigid_motions, vibrations
from rlpath_core.structure import Structure
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.hops import gold_on_aluminium
from rlpath_core.testing.potentials import LennardJonesModel, lj_cluster


def hessian_of(structure: Structure, model: EMTModel | LennardJonesModel) -> np.ndarray:
    found: list[np.ndarray] = []
    movable = ~structure.fixed
    Hub(model).run([lambda evaluate: found.append(numerical_hessian(structure, movable, evaluate))])
    return found[0]


def test_frequencies_and_modes_are_those_of_ase(tmp_path: Path):
    """The gold atom and the upper layer of aluminium: ASE's own displacements, differences and masses."""
    structure = gold_on_aluminium()[0]
    found = vibrations(structure, ~structure.fixed, hessian_of(structure, EMTModel()))
    atoms = structure.to_ase()
    atoms.calc = EMT()
    theirs = AseVibrations(atoms, indices=np.flatnonzero(~structure.fixed), name=str(tmp_path / "vib"))
    theirs.run()
    frequencies = theirs.get_frequencies()
    assert len(found.frequencies) == len(frequencies) == 15
    np.testing.assert_allclose(found.frequencies, frequencies.real, atol=0.05)
    data = theirs.get_vibrations()
    modes = data.get_modes(all_atoms=True)
    assert found.modes.shape == modes.shape
    roots = np.sqrt(structure.to_ase().get_masses())[:, None]
    overlap = np.einsum("kax,kax->k", found.modes * roots, modes * roots)
    norm = np.linalg.norm((modes * roots).reshape(15, -1), axis=1)
    distinct = np.diff(found.frequencies, prepend=-1e3, append=1e3)
    alone = np.minimum(distinct[1:], distinct[:-1]) > 1.0
    assert alone.sum() >= 3
    np.testing.assert_allclose(np.abs(overlap / norm)[alone], 1.0, atol=1e-3)
    assert not found.modes[:, structure.fixed].any()


def test_an_imaginary_frequency_is_negative():
    structure = Structure([1, 1], [[0, 0, 0], [3, 0, 0]], fixed=[False, True])
    hessian = np.diag([-2.0, 1.0, 3.0])
    theirs = VibrationsData.from_2d(structure.to_ase(), hessian, indices=[0]).get_frequencies()
    found = vibrations(structure, ~structure.fixed, hessian).frequencies
    np.testing.assert_allclose(found, [-theirs[0].imag, *theirs[1:].real])


def test_a_free_cluster_has_no_frequency_of_a_rigid_motion():
    """ASE has 21 frequencies. Six are nothing but for errors of the differences, and the others are ours."""
    cluster, hessian = lj_cluster(7), hessian_of(lj_cluster(7), LennardJonesModel())
    found = vibrations(cluster, np.ones(7, bool), hessian).frequencies
    theirs = VibrationsData.from_2d(cluster.to_ase(), hessian).get_frequencies()
    theirs = np.sort(theirs[np.abs(theirs) > 30.0].real)
    assert len(found) == len(theirs) == 15
    np.testing.assert_allclose(found, theirs, rtol=1e-5)


def test_a_diatomic_has_one():
    """A spring of k between masses m: the wavenumber is known in closed form."""
    k, structure = 30.0, Structure([7, 7], [[0, 0, 0], [0, 0, 1.1]])
    block = np.zeros((3, 3))
    block[2, 2] = k
    hessian = np.block([[block, -block], [-block, block]])
    found = vibrations(structure, np.ones(2, bool), hessian).frequencies
    omega = np.sqrt(2 * k * units._e * 1e20 / (14.007 * units._amu))
    assert found == pytest.approx([omega / (2 * np.pi * units._c * 100)], rel=1e-6)


@pytest.mark.parametrize(
    ("pbc", "count"),
    [((False, False, False), 6), ((True, False, False), 4), ((True, True, False), 3), ((True, True, True), 3)],
)
def test_rigid_motions(pbc: tuple[bool, bool, bool], count: int):
    """Orthonormal, and no distance within the structure changes along them."""
    cluster = lj_cluster(7)
    structure = Structure(cluster.numbers, cluster.positions, cell=np.eye(3) * 20, pbc=pbc)
    rigid = rigid_motions(structure, np.ones(7, bool))
    assert rigid.shape == (count, 21)
    np.testing.assert_allclose(rigid @ rigid.T, np.eye(count), atol=1e-12)
    i, j = np.triu_indices(7, 1)
    arms = structure.positions[i] - structure.positions[j]
    for motion in rigid.reshape(count, 7, 3):
        assert np.abs(((motion[i] - motion[j]) * arms).sum(axis=1)).max() < 1e-9
    assert len(rigid_motions(structure, np.arange(7) > 0)) == 0


def test_derivatives_of_forces_that_are_no_gradient_are_not_symmetric():
    class Swirling(LennardJonesModel):
        """Forces with a part that is the curl of something: 0.5 eV/Å² times (-y, x, 0)."""

        def predict(self, structures, **kwargs):
            predictions = super().predict(structures, **kwargs)
            for structure, prediction in zip(structures, predictions, strict=True):
                x, y, _ = structure.positions.T
                prediction.forces[:] += 0.5 * np.stack((-y, x, 0 * x), axis=1)
            return predictions

    cluster, movable, found = lj_cluster(7), np.ones(7, bool), {}

    def differentiate(name: str, evaluate: Evaluator) -> None:
        found[name] = force_derivatives(cluster, movable, evaluate, step=1e-3)

    Hub(LennardJonesModel()).run([partial(differentiate, "straight")])
    Hub(Swirling()).run([partial(differentiate, "swirling")])
    straight, swirling = found["straight"], found["swirling"]
    np.testing.assert_allclose((swirling + swirling.T) / 2, (straight + straight.T) / 2, atol=1e-6)
    assert asymmetry(straight) < 1e-5
    antisymmetric = 0.5 * np.sqrt(2 * 7)
    assert asymmetry(swirling) == pytest.approx(antisymmetric / np.linalg.norm(straight), rel=1e-3)

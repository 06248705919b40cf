"""The pair potentials and the Müller-Brown surface: published energies, finite differences, batches."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase.calculators.lj import LennardJones
from ase.calculators.morse import MorsePotential

from rlpath_core.backends.base import Model
from rlpath_core.errors import InputError
from rlpath_core.structure import Structure
from rlpath_core.testing.potentials import (
    LennardJonesModel,
    MorseModel,
    MuellerBrownModel,
    lj_cluster,
    mueller_brown,
    pt_heptamer,
)


def crystal(rng: np.random.Generator, skew: float = 0.0, fixed: int = 0, n: int = 30) -> Structure:
    """Atoms at random in a cell of 10 Å, the first ``fixed`` of every second one held."""
    cell = np.diag([10.0, 11.0, 12.0]) + skew * np.array([[0, 0, 0], [1, 0, 0], [0.5, 1, 0]])
    grid = np.stack(np.meshgrid(*[np.arange(4) / 4] * 3), axis=-1).reshape(-1, 3)[:n]
    positions = (grid + rng.normal(0, 0.03, grid.shape)) @ cell + rng.integers(-1, 2, grid.shape) @ cell
    held = np.zeros(n, bool)
    held[: 2 * fixed : 2] = True
    return Structure(numbers=np.full(n, 78), positions=positions, cell=cell, pbc=np.ones(3, bool), fixed=held)


def numerical_forces(model: Model, structure: Structure, rows: list[int], step: float = 1e-4) -> np.ndarray:
    moved = []
    for row in rows:
        for axis in range(3):
            for sign in (1, -1):
                positions = structure.positions.copy()
                positions[row, axis] += sign * step
                moved.append(structure.moved(positions))
    energies = np.array([one.energy for one in model.predict(moved)])
    return -(energies[::2] - energies[1::2]).reshape(-1, 3) / (2 * step)


def test_the_heptamer_has_optbenchs_energy() -> None:
    island = pt_heptamer()
    (prediction,) = MorseModel().predict([island])
    assert len(island) == 343
    assert (~island.fixed).sum() == 175
    assert prediction.energy == pytest.approx(-1775.7911495593, abs=1e-7)
    assert np.abs(prediction.forces[~island.fixed]).max() < 1e-5
    (hcp,) = MorseModel().predict([pt_heptamer("hcp")])
    assert hcp.energy - prediction.energy == pytest.approx(0.0124, abs=1e-4)


@pytest.mark.parametrize(("n", "energy"), [(7, -16.505384), (13, -44.326801), (38, -173.928427)])
def test_clusters_are_the_global_minima(n: int, energy: float) -> None:
    """Energies of the Cambridge Cluster Database."""
    (prediction,) = LennardJonesModel().predict([lj_cluster(n)])
    assert prediction.energy == pytest.approx(energy, abs=1e-6)
    assert np.abs(prediction.forces).max() < 1e-5


@pytest.mark.parametrize(("x", "y", "energy"), [(-0.8220, 0.6243, -40.6648), (0.2125, 0.2930, -72.2489)])
def test_saddles_of_mueller_and_brown(x: float, y: float, energy: float) -> None:
    (prediction,) = MuellerBrownModel().predict([mueller_brown(x, y)])
    assert prediction.energy == pytest.approx(energy, abs=1e-4)
    assert np.abs(prediction.forces).max() < 0.05
    (scaled,) = MuellerBrownModel(scale=0.01).predict([mueller_brown(x, y)])
    assert scaled.energy == pytest.approx(energy / 100, abs=1e-6)


@pytest.mark.parametrize("skew", [0.0, 2.0], ids=["orthogonal", "skew"])
def test_energies_and_forces_are_those_of_ase(skew: float, rng: np.random.Generator) -> None:
    structure = crystal(rng, skew)
    # ASE's Morse potential is cut smoothly: without a cell and a cutoff both are the plain sum
    plain = replace(structure, pbc=np.zeros(3, bool))
    atoms = plain.to_ase()
    atoms.calc = MorsePotential(epsilon=0.7102, rho0=1.6047 * 2.8970, r0=2.8970, rcut1=900, rcut2=1000)
    (ours,) = MorseModel(cutoff=1000.0).predict([plain])
    assert ours.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
    assert ours.forces == pytest.approx(atoms.get_forces(), abs=1e-8)
    atoms = structure.to_ase()
    atoms.calc = LennardJones(sigma=2.5, epsilon=0.3, rc=4.5)
    (ours,) = LennardJonesModel(epsilon=0.3, sigma=2.5, cutoff=4.5).predict([structure])
    assert ours.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-8)
    assert ours.forces == pytest.approx(atoms.get_forces(), abs=1e-8)


@pytest.mark.parametrize("model", [MorseModel(cutoff=4.5), LennardJonesModel(0.3, 2.5, 4.5), MuellerBrownModel(0.01)])
def test_forces_are_the_gradient_also_on_held_atoms(model: Model, rng: np.random.Generator) -> None:
    structure = crystal(rng, 1.0, fixed=5)
    if model.backend == "mueller-brown":
        structure = structure.moved(rng.normal(0, 0.5, (30, 3)))
    rows = [0, 1, 2, 29]
    (prediction,) = model.predict([structure])
    assert prediction.forces is not None
    assert prediction.forces[rows] == pytest.approx(numerical_forces(model, structure, rows), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("model", [MorseModel(cutoff=4.5), LennardJonesModel(0.3, 2.5, 4.5), MuellerBrownModel(0.01)])
def test_a_batch_is_each_on_its_own(model: Model, rng: np.random.Generator) -> None:
    """Structures of different size, cell and held atoms in one batch: the same to the last bit."""
    batch = [crystal(rng, s, fixed, n) for s, fixed, n in [(0.0, 0, 30), (2.0, 4, 20), (0.0, 6, 12), (0.0, 0, 1)]]
    for one, together in zip(batch, model.predict(batch), strict=True):
        (alone,) = model.predict([one])
        assert alone.energy == together.energy
        assert np.array_equal(alone.forces, together.forces)
    assert model.predict([]) == []


def test_held_atoms_count_as_if_they_were_free(rng: np.random.Generator) -> None:
    structure = crystal(rng, 2.0, fixed=8)
    model = MorseModel(cutoff=4.5)
    held, free = model.predict([structure, replace(structure, fixed=None)])
    assert held.energy == pytest.approx(free.energy, abs=1e-10)
    assert held.forces == pytest.approx(free.forces, abs=1e-10)


def test_a_narrow_cell_is_refused(rng: np.random.Generator) -> None:
    with pytest.raises(InputError, match="needs more than nearest images within"):
        MorseModel().predict([crystal(rng)])

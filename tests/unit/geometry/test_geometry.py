"""Periodic geometry against brute force and ASE."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from ase.build import fcc111, molecule
from ase.data import covalent_radii
from ase.geometry import find_mic
from ase.neighborlist import neighbor_list

from rlpath_core.geometry.bonds import bonds
from rlpath_core.geometry.cell import displacements
from rlpath_core.geometry.fragments import fragments, unwrap
from rlpath_core.geometry.neighbours import neighbours
from rlpath_core.geometry.roles import choose_fragment
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.structure import Structure


def brute_force(structure: Structure, cutoff: float) -> list[float]:
    """All distances up to the cutoff over enough images in every periodic direction."""
    reach = [range(-9, 10) if periodic else range(1) for periodic in structure.pbc]
    shifts = np.array(list(product(*reach))) @ structure.cell
    vectors = structure.positions[None, :, None] + shifts[None, None] - structure.positions[:, None, None]
    d = np.linalg.norm(vectors, axis=-1).ravel()
    return sorted(d[(d > 1e-9) & (d < cutoff)])


def test_neighbours_equal_brute_force(system: Structure):
    for cutoff in (2.3, 5.9):
        (d,) = neighbours(system, "d", cutoff)
        np.testing.assert_allclose(np.sort(d), brute_force(system, cutoff), atol=1e-9)


def test_bonds_equal_ase(system: Structure):
    found = bonds(system)
    i, j = neighbor_list("ij", system.to_ase(), 1.25 * covalent_radii[system.numbers], self_interaction=False)
    different = i != j
    assert sorted(zip(found.i, found.j, strict=True)) == sorted(zip(i[different], j[different], strict=True))


def test_a_fragment_across_the_boundary_is_unwrapped(rng: np.random.Generator):
    ethanol = molecule("CH3CH2OH", vacuum=4.0)
    whole = ethanol.get_all_distances()
    ethanol.set_cell([[8, 0, 0], [3, 9, 0], [-2, 1, 10]])
    ethanol.pbc = True
    ethanol.positions += rng.uniform(-20, 20, 3)
    ethanol.wrap()
    wrapped = Structure.from_ase(ethanol)
    bonded = bonds(wrapped)
    pieces = fragments(wrapped, np.ones(len(wrapped), bool), bonded)
    assert [len(piece) for piece in pieces] == [9]
    fragment = unwrap(wrapped, pieces[0], bonded)
    assert not fragment.endless
    p = fragment.positions
    np.testing.assert_allclose(np.linalg.norm(p[:, None] - p[None], axis=-1), whole, atol=1e-9)


def test_a_chain_bonded_to_its_own_image_is_endless():
    polyyne = Structure([6, 6], [[0, 5, 5], [1.3, 5, 5]], cell=np.diag([2.6, 10, 10]), pbc=[True] * 3)
    bonded = bonds(polyyne)
    assert unwrap(polyyne, np.array([0, 1]), bonded).endless


@pytest.mark.parametrize("longest", [0.3, 1.0, 1.6, 4.0])
def test_short_displacements_are_taken_as_they_are_only_where_ase_does(longest: float, rng: np.random.Generator):
    cell = np.array([[3.0, 0.0, 0.0], [1.4, 2.7, 0.0], [0.3, -0.4, 15.0]])
    start = Structure(np.full(6, 29), rng.uniform(0, 3, (6, 3)), cell, [True, True, False])
    moved = rng.normal(size=(6, 3))
    moved *= longest / np.linalg.norm(moved, axis=1)[:, None]
    wanted = find_mic(moved, cell, start.pbc)[0]
    np.testing.assert_allclose(displacements(start.moved(start.positions + moved), start), wanted, atol=1e-9)


def test_displacements_are_the_nearest_images(copper: Structure, rng: np.random.Generator):
    moved = rng.normal(0, 0.3, copper.positions.shape)
    shifts = rng.integers(-2, 3, copper.positions.shape) @ copper.cell
    np.testing.assert_allclose(displacements(copper.moved(copper.positions + moved + shifts), copper), moved, atol=1e-9)


def test_roles_are_inferred_from_layers():
    slab = fcc111("Cu", (2, 2, 4), vacuum=7)
    slab += molecule("CO", positions=[[1, 1, 15.6], [1, 1, 14.4]])
    slab.set_tags(0)
    for shift in (0.0, 5.0, -9.0):  # also when the cell's boundary cuts the slab in two
        moved = slab.copy()
        moved.pbc = True
        moved.positions[:, 2] += shift
        moved.wrap()
        roles = infer_roles(Structure.from_ase(moved))
        assert np.flatnonzero(roles.adsorbate).tolist() == [16, 17]
        assert np.flatnonzero(~roles.movable).tolist() == list(range(8))
        assert roles.normal == pytest.approx([0, 0, 1])


def test_given_tags_and_fixed_atoms_are_believed(copper: Structure):
    roles = infer_roles(copper)
    assert (roles.movable == ~copper.fixed).all()
    assert (roles.adsorbate == (copper.tags == 2)).all()


def test_everything_of_a_molecule_moves_and_a_piece_of_it_is_chosen(rng: np.random.Generator):
    ethanol = Structure.from_ase(molecule("CH3CH2OH"))
    roles = infer_roles(ethanol)
    assert roles.movable.all()
    assert roles.normal is None
    found = [choose_fragment(ethanol, roles, rng) for _ in range(50)]
    sizes = {len(fragment.atoms) for fragment in found if fragment is not None}
    assert max(sizes) < len(ethanol)
    assert len(sizes) > 1
    larger = [choose_fragment(ethanol, roles, rng, at_least=2) for _ in range(20)]
    assert min(len(fragment.atoms) for fragment in larger if fragment is not None) >= 2


def test_a_bulk_crystal_has_no_surface():
    from ase.build import bulk

    roles = infer_roles(Structure.from_ase(bulk("Cu", cubic=True) * (2, 2, 2)))
    assert roles.normal is None
    assert roles.movable.all()


def test_layers_that_ase_numbered_are_no_adsorbate():
    slab = fcc111("Cu", (2, 2, 4), vacuum=7)
    slab.pbc = True
    assert set(slab.get_tags()) == {1, 2, 3, 4}
    assert not infer_roles(Structure.from_ase(slab)).adsorbate.any()

"""Which bonds part a structure in two, against cutting each one and looking."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import molecule
from scipy.sparse.csgraph import connected_components

from rlpath_core.geometry.bonds import Bonds, bonds
from rlpath_core.geometry.fragments import bond_sides
from rlpath_core.geometry.slab import infer_roles
from rlpath_core.structure import Structure


def cut_and_look(structure: Structure, bonded: Bonds, i: int, j: int) -> np.ndarray | None:
    cut = ~(((bonded.i == i) & (bonded.j == j)) | ((bonded.i == j) & (bonded.j == i)))
    rest = Bonds(bonded.i[cut], bonded.j[cut], bonded.vector[cut])
    label = connected_components(rest.graph(len(structure)), directed=False)[1]
    return None if label[i] == label[j] else np.flatnonzero(label == label[j])


def compare(structure: Structure) -> int:
    for mask in (np.ones(len(structure), bool), infer_roles(structure).active):
        bonded = bonds(structure).within(mask)
        every = {(i, j): cut_and_look(structure, bonded, i, j) for i, j in zip(bonded.i, bonded.j, strict=True)}
        expected = {bond: side for bond, side in every.items() if side is not None}
        found = bond_sides(structure, bonded)
        assert found.keys() == expected.keys()
        for bond in found:
            np.testing.assert_array_equal(found[bond], expected[bond])
    return len(found)


def test_sides_on_every_system(system: Structure, rng: np.random.Generator):
    compare(system)
    compare(system.moved(system.positions + rng.normal(0, 0.3, system.positions.shape)))


@pytest.mark.parametrize(("name", "cuttable"), [("C6H6", 6), ("isobutane", 13), ("CH3CH2OH", 8), ("C60", 0)])
def test_sides_of_molecules(name: str, cuttable: int):
    assert compare(Structure.from_ase(molecule(name))) == 2 * cuttable


def test_sides_of_pieces_that_are_apart_and_of_a_lone_atom():
    assert compare(Structure([29, 29, 8], [[0, 0, 0], [9, 0, 0], [0, 0, 1.5]])) == 2
    assert compare(Structure([8], [[0, 0, 0]])) == 0

"""Symmetry operations against spglib, against brute force, and against what crystallography counts."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bcc110, bulk, fcc100, fcc111, hcp0001, molecule
from ase.constraints import FixAtoms
from ase.geometry import find_mic
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpath_core.geometry.symmetry import Symmetry, isometries, lattice_rotations, symmetry_operations
from rlpath_core.structure import Structure


def hexagonal(c: float) -> list[list[float]]:
    return [[3, 0, 0], [-1.5, 1.5 * 3**0.5, 0], [0, 0, c]]


LATTICES = {
    "cubic": (np.eye(3) * 4, 48),
    "body-centred cubic": (2 * (np.ones((3, 3)) - 2 * np.eye(3)), 48),
    "face-centred cubic": (2 * (np.ones((3, 3)) - np.eye(3)), 48),
    "hexagonal": (hexagonal(5), 24),
    "tetragonal": (np.diag([4, 4, 5]), 16),
    "rhombohedral": (np.eye(3) * 3 + 0.5, 12),
    "orthorhombic": (np.diag([3, 4, 5]), 8),
    "monoclinic": ([[3, 0, 0], [0.7, 4, 0], [0, 0, 5]], 4),
    "triclinic": ([[3, 0, 0], [0.7, 4, 0], [0.4, 0.9, 5]], 2),
    "almost cubic": (np.diag([4, 4, 4.05]), 16),
    "cubic but for rounding": (np.diag([4, 4, 4.001]), 48),
}


@pytest.mark.parametrize("name", LATTICES)
@pytest.mark.parametrize("steps", [np.eye(3, dtype=int), np.array([[1, 0, 0], [2, 1, 0], [-1, 3, 1]])])
def test_the_point_groups_of_the_lattices(name: str, steps: np.ndarray) -> None:
    """Whichever vectors of the lattice are given."""
    cell, order = LATTICES[name]
    found = lattice_rotations(steps @ np.array(cell, float), np.ones(3, bool))
    assert len(found) == order
    np.testing.assert_allclose(found @ found.swapaxes(1, 2), np.broadcast_to(np.eye(3), found.shape), atol=1e-12)
    np.testing.assert_allclose(found[0], np.eye(3), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "order"), [("tetragonal", 16), ("hexagonal", 24), ("orthorhombic", 8), ("monoclinic", 4)]
)
def test_the_point_groups_of_layers(name: str, order: int) -> None:
    """Those of the lattice in the plane, each also turned over; the vector along the open direction does not matter."""
    cell = np.array(LATTICES[name][0], float)
    for third in ([0, 0, 0], [0, 0, 7], [0, 0, -7], [1.3, 0.4, 6]):
        cell[2] = third
        found = lattice_rotations(cell, np.array([True, True, False]))
        assert len(found) == order
        assert (np.abs(np.abs(found[:, 2, 2]) - 1) < 1e-12).all()


def nickel_oxide(antiferromagnetic: bool) -> Structure:
    atoms = bulk("NiO", "rocksalt", a=4.17, cubic=True) * (2, 2, 2)
    planes = np.round(atoms.get_scaled_positions().sum(axis=1) * 4).astype(int) // 2
    moments = np.where(atoms.numbers == 28, np.where(planes % 2, 1.7, -1.7) if antiferromagnetic else 1.7, 0.0)
    atoms.set_initial_magnetic_moments(moments)
    return Structure.from_ase(atoms)


def slab(build, size: tuple[int, int, int], element: str, orthogonal: bool = False) -> Structure:
    """Two lower layers fixed, with CO somewhere on top."""
    atoms = build(element, size, vacuum=8, **({"orthogonal": True} if orthogonal else {}))
    atoms.pbc = True
    atoms.set_constraint(FixAtoms(mask=atoms.get_tags() > size[2] - 2))
    add_adsorbate(atoms, molecule("CO"), 2.0, (0.7, 1.1))
    return Structure.from_ase(atoms)


CRYSTALS = {
    "fcc111": lambda: slab(fcc111, (3, 3, 4), "Cu"),
    "fcc111, right angles": lambda: slab(fcc111, (3, 4, 3), "Cu", True),
    "fcc100": lambda: slab(fcc100, (2, 2, 3), "Pt"),
    "fcc100, 2 x 3": lambda: slab(fcc100, (2, 3, 3), "Pt"),
    "bcc110": lambda: slab(bcc110, (2, 2, 3), "Fe"),
    "hcp0001": lambda: slab(hcp0001, (2, 2, 4), "Ru"),
    "rock salt": lambda: Structure.from_ase(bulk("NaCl", "rocksalt", a=5.6, cubic=True)),
    "diamond": lambda: Structure.from_ase(bulk("Si", "diamond", a=5.4) * (2, 1, 1)),
    "wurtzite": lambda: Structure.from_ase(bulk("ZnO", "wurtzite", a=3.25, c=5.2)),
    "nickel oxide": lambda: nickel_oxide(False),
}


@pytest.mark.parametrize("name", CRYSTALS)
def test_the_operations_are_those_of_spglib(name: str) -> None:
    spglib = pytest.importorskip("spglib")
    structure = CRYSTALS[name]()
    atoms = structure.fixed if structure.fixed.any() else np.ones(len(structure), bool)
    scaled = structure.positions[atoms] @ np.linalg.inv(structure.cell)
    expected = spglib.get_symmetry((structure.cell, scaled, structure.numbers[atoms]), symprec=0.01)
    found = symmetry_operations(structure)
    assert len(found) == len(expected["rotations"])
    basis, back = structure.cell.T, np.linalg.inv(structure.cell.T)
    keys = set()
    for rotation, shift in zip(found.rotations, found.translations @ back.T, strict=True):
        whole = np.round(back @ rotation @ basis).astype(int)
        np.testing.assert_allclose(back @ rotation @ basis, whole, atol=1e-6)
        keys.add((whole.tobytes(), tuple(np.round(shift % 1.0, 3) % 1.0)))
    wanted = zip(expected["rotations"], expected["translations"], strict=True)
    assert keys == {(np.array(r, int).tobytes(), tuple(np.round(t % 1.0, 3) % 1.0)) for r, t in wanted}


def test_moments_lower_the_symmetry() -> None:
    """Antiferromagnetic NiO (planes along [111]): a quarter of the directions, and half of the translations."""
    assert len(symmetry_operations(nickel_oxide(False))) == 4 * 8 * 48
    assert len(symmetry_operations(nickel_oxide(True))) == 4 * 8 * 48 // 8


def check(structure: Structure, atoms: np.ndarray, found: Symmetry) -> None:
    """Each operation brings each atom onto the one it names; operations and their products are a group."""
    positions = structure.positions[atoms]
    for image, onto in zip(found.images(positions), found.permutations, strict=True):
        _, missed = find_mic(image - positions[onto], structure.cell, structure.pbc)
        assert missed.max() <= found.deviation + 1e-9
        np.testing.assert_array_equal(structure.numbers[atoms][onto], structure.numbers[atoms])
    known = {tuple(onto) for onto in found.permutations.tolist()}
    for one, other in product(found.permutations[:: max(1, len(found) // 12)], repeat=2):
        assert tuple(one[other].tolist()) in known


@pytest.mark.parametrize("name", CRYSTALS)
def test_operations_map_atoms_onto_atoms(name: str) -> None:
    structure = CRYSTALS[name]()
    atoms = structure.fixed if structure.fixed.any() else np.ones(len(structure), bool)
    found = symmetry_operations(structure)
    check(structure, atoms, found)
    assert found.permutations[0].tolist() == list(range(int(atoms.sum())))
    assert found.deviation < 1e-9


def brute_force(positions: np.ndarray, numbers: np.ndarray, cell: np.ndarray, tolerance: float) -> set[tuple]:
    """Integer matrices that keep the metric, times every shift of the first atom onto another: the permutations.

    Along c only turning over is tried: for layers and slabs.
    """
    found = set()
    for a, b, c, d, sign in product(range(-2, 3), range(-2, 3), range(-2, 3), range(-2, 3), (1, -1)):
        whole = np.array([[a, b, 0], [c, d, 0], [0, 0, sign]])
        if np.abs(whole @ cell @ (whole @ cell).T - cell @ cell.T).max() > 1e-6:
            continue
        image = positions @ np.linalg.inv(cell) @ whole @ cell
        for target in range(len(positions)):
            moved = image + positions[target] - image[0]
            off = (moved[:, None] - positions) @ np.linalg.inv(cell)
            off = np.linalg.norm((off - np.round(off)) @ cell, axis=2) + 99.0 * (numbers[:, None] != numbers)
            if off.min(axis=1).max() <= tolerance and len(set(off.argmin(axis=1))) == len(positions):
                found.add((whole.tobytes(), *off.argmin(axis=1).tolist()))
    return found


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["tetragonal", "hexagonal", "orthorhombic", "monoclinic"]),
    st.tuples(st.integers(1, 3), st.integers(1, 2)),
    st.lists(st.tuples(*[st.sampled_from([0, 1 / 4, 1 / 3, 1 / 2, 0.6]) for _ in range(2)]), min_size=1, max_size=3),
    st.lists(st.integers(0, 1), min_size=3, max_size=3),
    st.sampled_from([0, 0.5, 1]),
    st.booleans(),
)
def test_operations_of_random_layers_are_those_of_brute_force(name, size, sites, kinds, height, is_open) -> None:
    cell = np.array(LATTICES[name][0], float)
    places = np.array([[*site, 0.2 + 0.15 * height * k] for k, site in enumerate(dict.fromkeys(sites))])
    numbers = np.array([12, 8])[kinds[: len(places)]]
    atoms = Atoms(numbers, scaled_positions=places, cell=cell, pbc=True) * (*size, 1)
    vectors = atoms.cell.array
    vectors[2] = [0, 0, 14]
    structure = Structure(atoms.numbers, atoms.positions, vectors, [True, True, not is_open])
    found = symmetry_operations(structure)
    expected = brute_force(structure.positions, structure.numbers, vectors, 1e-3)
    rotations = np.round(vectors @ found.rotations.swapaxes(1, 2) @ np.linalg.inv(vectors)).astype(int)
    got = [(r.tobytes(), *onto.tolist()) for r, onto in zip(rotations, found.permutations, strict=True)]
    assert set(got) == expected
    assert len(got) == len(expected)


def test_atoms_off_their_places_count_up_to_the_tolerance(rng: np.random.Generator) -> None:
    structure = slab(fcc100, (2, 2, 3), "Pt")
    directions = rng.normal(size=structure.positions.shape)
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    for off, order in ((0.02, 64), (0.2, 1)):
        moved = structure.moved(structure.positions + off * directions)
        found = symmetry_operations(moved, tolerance=0.05)
        assert len(found) == order
        assert found.deviation <= 0.05
    assert symmetry_operations(structure.moved(structure.positions + 0.02 * directions)).deviation > 0.005


def test_one_arrangement_onto_another(rng: np.random.Generator) -> None:
    """A slab and its mirror image, shifted, its atoms in another order: as many ways as the slab has operations."""
    structure = slab(hcp0001, (2, 2, 3), "Ru")
    atoms = structure.fixed
    order = rng.permutation(int(atoms.sum()))
    target = structure.positions[atoms]
    source = (target * [1, 1, -1] + [0.3, 1.7, 0.4])[order]
    kinds = np.zeros(len(order), np.int64)
    found = isometries(source, target, kinds, structure.cell, structure.pbc)
    assert len(found) == len(symmetry_operations(structure))
    for image, onto in zip(found.images(source), found.permutations, strict=True):
        assert find_mic(image - target[onto], structure.cell, structure.pbc)[1].max() < 1e-9
    source[0, 2] += 0.5
    assert len(isometries(source, target, kinds, structure.cell, structure.pbc)) == 0


def test_molecules_and_wires_have_the_identity_alone() -> None:
    assert len(symmetry_operations(Structure.from_ase(molecule("CH4")))) == 1
    wire = Structure([6, 1], [[0, 0, 0], [0, 1, 0]], np.diag([0, 0, 3.0]), [False, False, True])
    assert len(symmetry_operations(wire)) == 1


def test_images_of_many_structures_at_once(rng: np.random.Generator) -> None:
    found = symmetry_operations(slab(fcc100, (2, 2, 2), "Pt"))
    many = rng.normal(size=(4, 5, 3))
    images = found.images(many)
    assert images.shape == (len(found), 4, 5, 3)
    for k in range(4):
        np.testing.assert_allclose(images[:, k], found.images(many[k]), atol=1e-12)
    np.testing.assert_allclose(images[7, 2, 3], found.rotations[7] @ many[2, 3] + found.translations[7], atol=1e-12)

"""Symmetry copies are duplicates: all that brute force finds, and nothing else."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc100, fcc111, hcp0001, molecule
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.geometry import find_mic
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpath_core.outbox import Match, Memory
from rlpath_core.outbox.canonicalize import canonicalize
from rlpath_core.outbox.copies import SlabCopies
from rlpath_core.structure import Structure

THRESHOLD = 0.18
TOLERANCE = 0.05


def admitted(structures: list[Structure], symmetric: bool = True, threshold: float = THRESHOLD) -> list[Match | None]:
    memory = Memory(threshold, TOLERANCE if symmetric else None)
    return memory.admit([canonicalize(structure, symmetry=symmetric) for structure in structures])


def kept(structures: list[Structure], symmetric: bool = True, threshold: float = THRESHOLD) -> list[int]:
    return [k for k, match in enumerate(admitted(structures, symmetric, threshold)) if match is None]


def with_water(slab: Atoms, layers: int, pbc: object = True) -> Structure:
    """The slab's lowest layers fixed, with water at no site of symmetry on top."""
    slab.pbc = pbc
    fixed = slab.get_tags() > slab.get_tags().max() - layers
    add_adsorbate(slab, molecule("H2O"), 2.2, (0.7, 1.1), mol_index=0)
    slab.positions[-2:] += [[0.1, 0.3, 0.2], [-0.2, 0.1, -0.1]]
    slab.set_constraint(FixAtoms(mask=np.append(fixed, [False] * 3)))
    return Structure.from_ase(slab)


SLABS = {
    "fcc100": lambda: with_water(fcc100("Cu", (2, 2, 2), vacuum=6), 1),
    "fcc100, 2 x 1": lambda: with_water(fcc100("Cu", (2, 1, 2), vacuum=6), 1),
    "fcc111": lambda: with_water(fcc111("Cu", (2, 2, 3), vacuum=6), 2),
    "fcc111, right angles": lambda: with_water(fcc111("Cu", (2, 2, 2), vacuum=6, orthogonal=True), 1),
    "hcp0001, open": lambda: with_water(hcp0001("Ru", (2, 2, 2), vacuum=6), 1, (True, True, False)),
    "all of the slab fixed": lambda: with_water(fcc100("Cu", (2, 2, 2), vacuum=6), 2),
}
ORDERS = {  # operations of the fixed atoms: point group of the layer(s) times the translations of the supercell
    "fcc100": 16 * 4,
    "fcc100, 2 x 1": 8 * 2,
    "fcc111": 12 * 4,
    "fcc111, right angles": 8 * 4,
    "hcp0001, open": 24 * 4,
    "all of the slab fixed": 16 * 4,
}


def all_images(structure: Structure) -> list[Structure]:
    """Under every matrix of small integers that keeps the cell's metric, times every shift of fixed atom onto atom.

    Vectors of the plane stay in it, and c is kept or turned over.
    """
    cell, fixed = np.array(structure.cell), np.flatnonzero(structure.fixed)
    if not structure.pbc[2]:
        cell[2] = [0, 0, 1]
    inverse = np.linalg.inv(cell)
    out = []
    for a, b, c, d, sign in product((-1, 0, 1), (-1, 0, 1), (-1, 0, 1), (-1, 0, 1), (1, -1)):
        whole = np.array([[a, b, 0], [c, d, 0], [0, 0, sign]])
        if np.abs(whole @ cell @ (whole @ cell).T - cell @ cell.T).max() > 1e-6:
            continue
        image = structure.positions @ inverse @ whole @ cell
        for target in fixed:
            moved = image + structure.positions[target] - image[fixed[0]]
            off = (moved[fixed][:, None] - structure.positions[fixed]) @ inverse
            off -= np.round(off) * structure.pbc
            if np.linalg.norm(off @ cell, axis=2).min(axis=1).max() < 1e-6:
                out.append(structure.moved(moved))
    return out


def noisy(structure: Structure, distance: float, rng: np.random.Generator) -> Structure:
    """Movable atoms displaced, with an RMS of ``distance``."""
    free = ~structure.fixed
    noise = rng.normal(size=(int(free.sum()), 3))
    noise *= distance / np.sqrt((noise**2).sum(axis=1).mean())
    positions = structure.positions.copy()
    positions[free] += noise
    return structure.moved(positions)


def shuffled(structure: Structure, rng: np.random.Generator) -> Structure:
    """Atoms of one element and one mobility exchanged, and each in some cell."""
    positions = structure.positions.copy()
    for z, fixed in product(np.unique(structure.numbers), (True, False)):
        same = np.flatnonzero((structure.numbers == z) & (structure.fixed == fixed))
        positions[same] = positions[rng.permutation(same)]
    return structure.moved(positions + rng.integers(-2, 3, positions.shape) * structure.pbc @ structure.cell)


@pytest.mark.parametrize("name", SLABS)
def test_all_images_of_a_slab_are_one_label(name: str, rng: np.random.Generator) -> None:
    structure = SLABS[name]()
    images = all_images(structure)
    assert len(images) == ORDERS[name]
    assert kept([structure, *[shuffled(image, rng) for image in images]]) == [0]
    near = [shuffled(noisy(image, 0.99 * THRESHOLD, rng), rng) for image in images]
    assert kept([structure, *near]) == [0]
    assert len(kept([structure, *images], symmetric=False)) > len(images) // 3


@pytest.mark.parametrize("name", SLABS)
def test_copies_have_the_same_energy(name: str) -> None:
    """Of a potential that knows nothing of the operations: ASE's Lennard-Jones."""
    structure = SLABS[name]()
    energies = []
    for image in all_images(structure):
        atoms = image.to_ase()
        atoms.calc = LennardJones(sigma=1.2, epsilon=0.1, rc=6.0, smooth=True)
        energies.append(atoms.get_potential_energy())
    np.testing.assert_allclose(energies, energies[0], rtol=1e-10)


def distance(one: Structure, images: list[Structure]) -> float:
    """The smallest RMSD to one of the images, over every assignment of movable atoms, with ASE's shortest images."""
    free = np.flatnonzero(~one.fixed)
    blocks = [free[one.numbers[free] == z] for z in np.unique(one.numbers[free])]
    others = np.stack([image.positions for image in images])
    total = np.zeros(len(images))
    for block in blocks:
        off = one.positions[block][None, :, None] - others[:, None, block]
        cost = find_mic(off.reshape(-1, 3), one.cell, one.pbc)[1].reshape(off.shape[:3]) ** 2
        rows = np.arange(len(block))
        total += np.min([cost[:, rows, list(order)].sum(axis=1) for order in permutations(rows)], axis=0)
    return float(np.sqrt(total.min() / len(free)))


def small(cell: int, moves: np.ndarray, is_open: bool) -> Structure:
    """A fixed layer of two kinds with three or four movable atoms above, on one of three lattices."""
    a, b, angle = [(3.0, 3.0, 90), (3.0, 3.0, 120), (3.0, 4.2, 90), (3.0, 3.3, 75)][cell]
    plane = np.array([[a, 0, 0], [b * np.cos(np.radians(angle)), b * np.sin(np.radians(angle)), 0], [0, 0, 11]])
    layer = Atoms("MgO", scaled_positions=[(0, 0, 0.2), (1 / 2, 1 / 2, 0.2)], cell=plane, pbc=True) * (2, 1, 1)
    numbers = [*layer.numbers, 8, 1, 1, 8][: len(layer) + len(moves)]
    start = np.array([[1.0, 0.8, 4.5], [1.5, 1.6, 4.8], [0.3, 1.4, 4.9], [3.6, 1.0, 4.4]])[: len(moves)]
    positions = np.concatenate((layer.positions, start + moves))
    fixed = np.arange(len(numbers)) < len(layer)
    return Structure(numbers, positions, layer.cell.array, [True, True, not is_open], fixed=fixed)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 3),
    st.integers(3, 4),
    st.booleans(),
    st.floats(0.05, 0.5),
    st.integers(0, 2**32 - 1),
)
def test_decisions_are_those_of_brute_force(cell, count, is_open, threshold, seed) -> None:
    """Structures, noisy images of them, and images of these; some of them known before."""
    rng = np.random.default_rng(seed)
    structures = []
    for _ in range(3):
        first = small(cell, rng.normal(0, 0.5, (count, 3)), is_open)
        structures.append(first)
        for _ in range(3):
            images = all_images(structures[rng.integers(len(structures))])
            image = images[rng.integers(len(images))]
            structures.append(shuffled(noisy(image, rng.uniform(0, 2 * threshold), rng), rng))
    distances = np.zeros((len(structures), len(structures)))
    for j, other in enumerate(structures):
        images = all_images(other)
        for i in range(j + 1, len(structures)):
            distances[i, j] = distance(structures[i], images)
    if (np.abs(distances - threshold) < 1e-6).any():
        return  # rounding decides
    for known in (0, 4):
        memory = Memory(threshold, TOLERANCE)
        forms = [canonicalize(structure, symmetry=True) for structure in structures]
        memory.add(forms[:known])
        matches = memory.admit(forms[known:])
        expected = list(range(known))
        for i in range(known, len(structures)):
            if not (distances[i, expected] <= threshold).any():
                expected.append(i)
        assert [*range(known), *[i + known for i, match in enumerate(matches) if match is None]] == expected
        places = {structure.id: k for k, structure in enumerate(structures)}
        for i, match in enumerate(matches, start=known):
            if match is not None:
                assert distances[i, places[match.id]] - 1e-6 <= match.rmsd <= threshold


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 3), st.booleans(), st.floats(0.05, 0.5), st.integers(0, 2**32 - 1))
def test_what_is_a_duplicate_as_it_is_stays_one(cell, is_open, threshold, seed) -> None:
    """With and without symmetry, as long as everything is compared with the same structure."""
    rng = np.random.default_rng(seed)
    first = small(cell, rng.normal(0, 0.5, (4, 3)), is_open)
    for _ in range(8):
        other = shuffled(noisy(first, rng.uniform(0, 1.5 * threshold), rng), rng)
        straight, symmetric = (admitted([first, other], s, threshold)[1] for s in (False, True))
        if straight is not None:
            assert symmetric is not None
            assert not symmetric.by_symmetry
            assert symmetric.rmsd == pytest.approx(straight.rmsd, abs=1e-6)


def test_a_match_says_whether_only_symmetry_finds_it() -> None:
    structure = SLABS["fcc100"]()
    copy = structure.moved(structure.positions @ [[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    first, near, image = admitted([structure, noisy(structure, 0.05, np.random.default_rng(0)), copy])
    assert first is None
    assert near is not None
    assert not near.by_symmetry
    assert image == Match(structure.id, pytest.approx(0, abs=1e-6), by_symmetry=True)


def test_atoms_that_are_not_fixed_need_no_symmetry() -> None:
    """An upper layer that is relaxed far off its sites, with the lower one as it was."""
    rng = np.random.default_rng(1)
    structure = noisy(SLABS["fcc100"](), 0.6, rng)
    assert kept([structure, *all_images(structure)]) == [0]


def test_fixed_atoms_without_symmetry_leave_all_images_apart() -> None:
    structure = SLABS["fcc100"]()
    rng = np.random.default_rng(2)
    off = rng.normal(0, 0.25, structure.positions.shape) * structure.fixed[:, None]
    uneven = structure.moved(structure.positions + off)
    fixed = structure.fixed[:, None]
    images = [uneven.moved(np.where(fixed, uneven.positions, image.positions)) for image in all_images(structure)]
    assert len(kept([uneven, *images])) == len(images)  # the identity is one of them


def test_fixed_atoms_of_another_element_in_another_place() -> None:
    """A dopant that is fixed: everything that moves is the same, and yet the energy is not."""
    structure = SLABS["fcc111"]()
    fixed = np.flatnonzero(structure.fixed)
    doped = []
    for place in (fixed[0], fixed[-1]):  # in the lowest layer, and in the one above it
        numbers = structure.numbers.copy()
        numbers[place] = 79
        doped.append(Structure(numbers, structure.positions, structure.cell, structure.pbc, fixed=structure.fixed))
    for symmetric in (False, True):
        assert kept(doped, symmetric) == [0, 1]
    assert kept([doped[0], *[doped[0].moved(image.positions) for image in all_images(structure)]]) == [0]


def test_a_slab_that_is_given_as_its_mirror_image(rng: np.random.Generator) -> None:
    """fcc111, mirrored, has its layers at other sites: another slab in the same cell, with the same energy."""
    structure = SLABS["fcc111"]()
    mirrored = [shuffled(structure.moved(image.positions * [-1, 1, 1]), rng) for image in all_images(structure)]
    near = [noisy(image, 0.1, rng) for image in mirrored]
    assert kept([structure, *near, *mirrored]) == [0]
    left_handed = Structure(
        structure.numbers,
        structure.positions * [1, 1, -1],
        structure.cell * [1, 1, -1],
        structure.pbc,
        fixed=structure.fixed,
    )
    assert kept([structure, left_handed]) == [0]
    assert kept([structure, left_handed], symmetric=False) == [0, 1]


def test_mirror_images_of_molecules() -> None:
    """Hydrogen peroxide, turned by its dihedral angle to either side."""
    atoms = molecule("H2O2")
    turned = atoms.copy()
    turned.positions[:, 2] *= -1
    turned.rotate(50, (1, 2, 3))
    structures = [Structure.from_ase(atoms), Structure.from_ase(turned)]
    assert kept(structures, symmetric=False) == [0, 1]
    (_, match) = admitted(structures)
    assert match is not None
    assert match.by_symmetry


def with_moments(structure: Structure, moments: np.ndarray) -> Structure:
    names = ("numbers", "positions", "cell", "pbc", "tags", "fixed")
    return Structure(**{name: getattr(structure, name) for name in names}, magmoms=moments)


@pytest.mark.parametrize("symmetric", [True, False])
def test_other_moments_are_another_structure(symmetric: bool) -> None:
    structure = SLABS["fcc100"]()
    up = np.where(structure.numbers == 29, 1.0, 0.0)
    rows = np.where((np.arange(len(up)) // 2) % 2 == 0, up, -up)
    same = noisy(with_moments(structure, rows + 1e-5), 0.05, np.random.default_rng(0))
    states = [structure, with_moments(structure, up), with_moments(structure, rows), same]
    assert kept(states, symmetric) == [0, 1, 2]


def test_operations_carry_moments_along() -> None:
    """Rows of moments up and down: images under which they lie on rows again are copies, columns are not."""
    structure = SLABS["fcc100"]()
    up = np.where(structure.numbers == 29, 1.0, 0.0)
    rows = with_moments(structure, np.where((np.arange(len(up)) // 2) % 2 == 0, up, -up))
    images = [rows.moved(image.positions) for image in all_images(structure)]  # moments go with their atoms
    assert kept([rows, *images]) == [0]
    straight = [with_moments(image, rows.magmoms) for image in all_images(structure)]
    places = [np.round(s.positions[s.fixed & (s.magmoms > 0)] @ np.linalg.inv(s.cell), 6) % 1.0 for s in straight]
    assert len({tuple(sorted(map(tuple, np.round(p[:, :2], 3) % 1.0))) for p in places}) > 2
    columns = with_moments(structure, np.where(np.arange(len(up)) % 2 == 0, up, -up))
    here = structure.moved(structure.positions @ [[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    assert kept([rows, columns]) == [0, 1]
    assert kept([rows, with_moments(here, rows.magmoms)]) == [0]


def vacancy(place: int, seed: int) -> Structure:
    atoms = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    del atoms[place]
    return shuffled(Structure.from_ase(atoms), np.random.default_rng(seed))


def test_crystals_in_which_nothing_is_fixed(rng: np.random.Generator) -> None:
    """A vacancy at every site of one element is one structure, shifted and turned however; of the other it is not."""
    cations = [vacancy(place, place) for place in (0, 2, 4, 6)]
    anions = [vacancy(place, place) for place in (1, 3, 5, 7)]
    structures = [noisy(s, 0.15, rng).moved(s.positions + rng.uniform(-3, 3, 3)) for s in [*cations, *anions]]
    assert kept(structures) == [0, 4]


@pytest.mark.slow
@pytest.mark.parametrize("build", ["crystal", "skewed", "slab"])
def test_thermal_motion_in_any_orientation(build: str, rng: np.random.Generator) -> None:
    """Snapshots without any symmetry, and their images under the lattice's point group with any shift and order."""
    atoms = {
        "crystal": lambda: bulk("NaCl", "rocksalt", a=5.6, cubic=True),
        "skewed": lambda: bulk("Cu", "fcc", a=3.6) * (2, 2, 2),
        "slab": lambda: fcc111("Cu", (2, 2, 2), vacuum=6),
    }[build]()
    atoms.pbc = (True, True, build != "slab")
    lattice = np.array(atoms.cell.array)
    if build == "slab":
        lattice[2] = [0, 0, 1]
    wholes = [np.array(w).reshape(3, 3) for w in product((-1, 0, 1), repeat=9)]
    group = [w for w in wholes if np.abs(w @ lattice @ (w @ lattice).T - lattice @ lattice.T).max() < 1e-6]
    assert len(group) == {"crystal": 48, "skewed": 48, "slab": 24}[build]
    snapshots = [noisy(Structure.from_ase(atoms), 0.4, np.random.default_rng(seed)) for seed in range(8)]
    assert kept(snapshots) == list(range(8))
    images = []
    for snapshot in snapshots:
        for k in rng.permutation(len(group))[:6]:
            turned = snapshot.positions @ np.linalg.inv(lattice) @ group[k] @ lattice
            image = snapshot.moved(turned + rng.uniform(-4, 4, 3))
            images.append(noisy(shuffled(image, rng), 0.9 * THRESHOLD, rng))
    matches = admitted([*snapshots, *images])
    ids = [None if match is None else match.id for match in matches]
    assert ids == [*[None] * 8, *np.repeat([s.id for s in snapshots], 6).tolist()]


def test_one_atom_that_moved_far_does_not_hide_a_crystal() -> None:
    """All of a difference within the threshold on one atom, whichever it is."""
    structure = noisy(Structure.from_ase(bulk("NaCl", "rocksalt", a=5.6, cubic=True)), 0.2, np.random.default_rng(0))
    for k in range(len(structure)):
        positions = structure.positions.copy()
        positions[k] += np.array([0, 0.6, 0.8]) * 0.9 * THRESHOLD * np.sqrt(len(structure))
        turned = positions @ [[0, 1, 0], [-1, 0, 0], [0, 0, 1]] + [0.4, 0.9, -0.6]
        assert kept([structure, structure.moved(turned)]) == [0]


@pytest.mark.parametrize("name", SLABS)
def test_the_bounds_hold_for_every_image(name: str, rng: np.random.Generator) -> None:
    """Sums from turned waves are those of the images themselves, and no bound exceeds the RMSD to any image."""
    first = canonicalize(SLABS[name](), symmetry=True)
    group = SlabCopies(first, THRESHOLD, TOLERANCE)
    own = group.all_aligned([first])[0]
    images = group.symmetry.images(own[0])
    every = np.arange(len(images))
    np.testing.assert_allclose(group.symmetry.some_images(np.repeat(own, len(images), axis=0), every), images)
    sums = group._sums(group.functions(images))
    np.testing.assert_allclose(group.waves.sums(own)[0], sums, atol=1e-10)
    for size in (0.01, 0.1, 0.4):
        near = images + rng.normal(0, size, images.shape)
        exact = np.array([group.exact(own[0], image) for image in near])
        straight = np.array([group.exact(image, other) for image, other in zip(images, near, strict=True)])
        screened = np.linalg.norm(group.screen(near) - group.screen(own), axis=1)
        assert (screened <= straight + group.places.slack + 1e-9).all()
        assert (np.linalg.norm(group._sums(group.functions(near)) - sums[0], axis=1) <= exact + 1e-9).all()
        assert (np.linalg.norm(group.descriptors(near) - group.descriptors(own), axis=1) <= exact + 1e-9).all()

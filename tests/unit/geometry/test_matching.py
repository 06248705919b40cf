"""Two structures made comparable: what was permuted, shifted or wrapped comes back; brute force finds no better."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlpath_core.errors import InputError
from rlpath_core.geometry.bonds import bonds
from rlpath_core.geometry.interpolation import interpolate
from rlpath_core.geometry.matching import BOND, matched
from rlpath_core.structure import Structure
from rlpath_core.testing.systems import SYSTEMS, free_molecule, oxide, triclinic

seeds = st.integers(0, 2**32 - 1)
ALL = {**SYSTEMS, "oxide": oxide}


def shaken(structure: Structure, rng: np.random.Generator, size: float = 0.05) -> Structure:
    move = rng.normal(0, size, structure.positions.shape) * ~structure.fixed[:, None]
    return structure.moved(structure.positions + move)


def scrambled(structure: Structure, rng: np.random.Generator) -> Structure:
    """Movable atoms of one element change places; all atoms are moved to other images."""
    order = np.arange(len(structure))
    for z in np.unique(structure.numbers):
        same = np.flatnonzero((structure.numbers == z) & ~structure.fixed)
        order[same] = rng.permutation(same)
    images = rng.integers(-2, 3, (len(structure), 3)) * structure.pbc
    return structure.moved(structure.positions[order] + images @ structure.cell)


@pytest.mark.parametrize("name", ALL)
def test_permutations_shifts_and_images_are_undone(name: str) -> None:
    rng = np.random.default_rng(4)
    initial = ALL[name]()
    for _ in range(2):
        target = shaken(initial, rng)
        found = matched(initial, scrambled(target, rng))
        shift = 0.0 if initial.fixed.any() else (target.positions - initial.positions).mean(axis=0)
        if initial.pbc.any():
            np.testing.assert_allclose(found.positions, target.positions - shift, atol=1e-9)
        else:  # the rotation that the random displacements happen to have goes too
            assert np.abs(found.positions - target.positions + shift).max() < 0.15
            assert ((found.positions - initial.positions) ** 2).sum() <= (
                (target.positions - initial.positions - shift) ** 2
            ).sum() + 1e-9


def test_a_rigid_shift_of_a_free_system_is_undone() -> None:
    rng = np.random.default_rng(1)
    for name in ("no_fixed", "free_molecule", "cluster"):
        initial = ALL[name]()
        moved = scrambled(initial, rng)
        found = matched(initial, moved.moved(moved.positions + rng.uniform(-6, 6, 3)))
        np.testing.assert_allclose(found.positions, initial.positions, atol=1e-6)


def test_a_turned_molecule_comes_back() -> None:
    rng = np.random.default_rng(2)
    initial = free_molecule()
    for _ in range(3):
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        turn *= np.sign(np.linalg.det(turn))
        found = matched(initial, scrambled(initial.moved(initial.positions @ turn), rng))
        np.testing.assert_allclose(found.positions, initial.positions, atol=1e-5)


def test_a_common_shift_of_the_held_atoms_is_undone() -> None:
    initial = oxide()
    final = initial.moved(initial.positions + [1.3, -0.4, 2.0])
    np.testing.assert_allclose(matched(initial, final).positions, initial.positions, atol=1e-9)


def test_elements_in_another_order() -> None:
    rng = np.random.default_rng(3)
    initial = oxide()
    order = rng.permutation(len(initial))
    final = Structure(initial.numbers[order], initial.positions[order], initial.cell, initial.pbc)
    np.testing.assert_allclose(matched(initial, final).positions, initial.positions, atol=1e-9)
    with pytest.raises(InputError, match="another order"):
        matched(initial, final, exchange=False)


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_no_permutation_and_no_images_are_better(seed: int) -> None:
    """Hydrogens, oxygens and metal atoms anywhere in a skew cell, one atom held: every pairing by brute force."""
    rng = np.random.default_rng(seed)
    numbers = np.array([1] * int(rng.integers(1, 4)) + [8] * int(rng.integers(1, 3)) + [29, 29])
    cell = np.diag(rng.uniform(5, 8, 3)) + rng.uniform(-1, 1, (3, 3))
    pbc = rng.random(3) < 0.7
    fixed = np.arange(len(numbers)) == len(numbers) - 1
    first = Structure(numbers, rng.random((len(numbers), 3)) @ cell, cell, pbc, fixed=fixed)
    second = first.moved(np.where(fixed[:, None], first.positions, rng.random((len(numbers), 3)) @ cell))

    def cost(final: Structure) -> float:
        """With single images, without molecules."""
        return float(((matched(first, final, exchange=False).positions - first.positions) ** 2).sum())

    def changed(order: np.ndarray) -> int:
        tables = []
        for structure, index in ((first, np.arange(len(numbers))), (second, order)):
            found = bonds(structure)
            table = np.zeros((len(numbers), len(numbers)), bool)
            table[found.i, found.j] = (structure.numbers[found.i] != 29) & (structure.numbers[found.j] != 29)
            tables.append(table[np.ix_(index, index)])
        return int(np.count_nonzero(tables[0] ^ tables[1]) / 2)

    blocks = [np.flatnonzero((numbers == z) & ~fixed) for z in (1, 8, 29)]
    costs = []
    for orders in product(*[permutations(block) for block in blocks]):
        order = np.arange(len(numbers))
        order[np.concatenate(blocks)] = np.concatenate(orders).astype(int)
        costs.append(cost(second.moved(second.positions[order])) + BOND * changed(order))
    found = matched(first, second)
    order = np.array(
        [
            int(np.argmin([_distance(second, k, position) if numbers[k] == z else np.inf for k in range(len(numbers))]))
            for z, position in zip(numbers, found.positions, strict=True)
        ]
    )
    mine = float(((found.positions - first.positions) ** 2).sum()) + BOND * changed(order)
    assert mine <= min(costs) + 1e-6


def _distance(structure: Structure, atom: int, position: np.ndarray) -> float:
    from ase.geometry import find_mic

    return float(find_mic(structure.positions[atom] - position, structure.cell, structure.pbc)[1])


def test_water_molecules_stay_whole() -> None:
    """Two waters pass each other: the nearest hydrogens belong to the wrong one."""
    slab = oxide()
    water = np.array([[0.0, 0.0, 0.0], [0.76, 0.59, 0.0], [-0.76, 0.59, 0.0]])

    def pair(first: np.ndarray, second: np.ndarray) -> Structure:
        cell = np.diag([12.0, 12.0, 20.0])
        positions = np.concatenate([water[:1] + first, water[:1] + second, water[1:] + first, water[1:] + second])
        return Structure(np.array([8, 8, 1, 1, 1, 1]), positions, cell, slab.pbc)

    initial = pair(np.array([2.0, 3.0, 8.0]), np.array([4.4, 3.0, 8.0]))
    final = pair(np.array([3.6, 3.0, 8.0]), np.array([6.6, 3.0, 8.0]))
    found = matched(initial, final, align=False)
    table = [{(int(i), int(j)) for i, j in zip(b.i, b.j, strict=True)} for b in (bonds(initial), bonds(found))]
    assert table[0] == table[1]
    np.testing.assert_allclose(found.positions, final.positions, atol=1e-9)


def test_a_molecule_is_not_torn_at_the_boundary() -> None:
    """It moves by nearly half the cell: its atoms, one by one, would go either way round."""
    cell = np.diag([8.0, 8.0, 20.0])
    positions = np.array([[1.0, 1.0, 8.0], [1.9, 1.0, 8.0], [0.2, 5.0, 4.0]])
    initial = Structure(np.array([8, 1, 29]), positions, cell, np.ones(3, bool), fixed=np.array([False, False, True]))
    turned = np.array([[4.7, 1.0, 8.0], [4.2, 1.8, 8.0], [0.2, 5.0, 4.0]])
    found = matched(initial, initial.moved(turned + [[8.0, 0, 0], [-8.0, 8.0, 0], [0, 0, 20.0]]))
    np.testing.assert_allclose(found.positions, turned, atol=1e-9)
    images = interpolate(initial, found, 5)
    for image in images:
        assert abs(np.linalg.norm(image.positions[1] - image.positions[0]) - 0.92) < 0.05


def test_the_exchange_itself_can_be_the_step() -> None:
    initial = oxide()
    swapped = initial.positions.copy()
    hydrogens = np.flatnonzero(initial.numbers == 1)
    swapped[hydrogens] = swapped[hydrogens[::-1]]
    final = initial.moved(swapped)
    assert np.abs(matched(initial, final).positions - initial.positions).max() < 1e-9
    kept = matched(initial, final, exchange=False)
    np.testing.assert_allclose(kept.positions, swapped, atol=1e-9)
    for image in interpolate(initial, kept, 3)[1:-1]:
        assert np.linalg.norm(np.subtract(*image.positions[hydrogens])) > 1.2, "the hydrogens meet half way"


def test_what_cannot_be_matched() -> None:
    initial = triclinic()
    numbers = initial.numbers.copy()
    numbers[-1] = 7
    other = Structure(numbers, initial.positions, initial.cell, initial.pbc)
    with pytest.raises(InputError, match="other atoms"):
        matched(initial, other)
    with pytest.raises(InputError, match="other cells"):
        matched(initial, replace(initial, cell=initial.cell * 1.01))
    with pytest.raises(InputError, match="periodic in other directions"):
        matched(initial, replace(initial, pbc=np.array([True, True, False])))
    moved = initial.positions.copy()
    moved[3] += [0.5, 0.0, 0.0]
    with pytest.raises(InputError, match="held atom 3"):
        matched(initial, initial.moved(moved))


def test_images_are_evenly_spread_and_held_atoms_stay() -> None:
    initial = triclinic()
    positions = initial.positions.copy()
    positions[12:] += 0.5 * initial.cell[0]
    images = interpolate(initial, initial.moved(positions), 4)
    assert len(images) == 6
    assert images[0] is initial
    steps = [np.linalg.norm(b.positions - a.positions) for a, b in pairwise(images)]
    assert max(steps) < 1.3 * min(steps)
    for image in images:
        np.testing.assert_array_equal(image.positions[initial.fixed], initial.positions[initial.fixed])
    middle = interpolate(initial, initial.moved(positions), 3, "linear")[2]
    np.testing.assert_allclose(middle.positions, (initial.positions + positions) / 2)


def test_idpp_is_about_as_good_as_ases_by_its_own_measure() -> None:
    """The image-dependent pair potential, all pairs, of ASE: our images against ASE's own."""
    from ase.mep.neb import IDPP, NEB, idpp_interpolate

    initial = free_molecule()
    final = matched(initial, shaken(initial, np.random.default_rng(8), 0.5), exchange=False)
    ours = [image.to_ase() for image in interpolate(initial, final, 3)]
    band = NEB([initial.to_ase(), *(initial.to_ase() for _ in range(3)), final.to_ase()], method="improvedtangent")
    band.interpolate()
    idpp_interpolate(band, traj=None, log=None)
    ends = [initial.to_ase().get_all_distances(), final.to_ase().get_all_distances()]

    def measure(images: list) -> float:
        total = 0.0
        for k in range(1, 4):
            atoms = images[k].copy()
            atoms.calc = IDPP(ends[0] + k / 4 * (ends[1] - ends[0]), mic=False)
            total += atoms.get_potential_energy()
        return total

    straight = [image.to_ase() for image in interpolate(initial, final, 3, "linear")]
    assert measure(ours) < 1.3 * measure(band.images), "far pairs, which are left out, matter little"
    assert measure(ours) < 0.5 * measure(straight)

"""Geometry of random structures in random cells: brute force over images, and what moving the atoms must not change.

Cells are triclinic, of either handedness, and often thinner than the cutoff; any directions are open, with a lattice
vector or without; atoms lie outside the cell, too.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rlpath_core.data.batches import build_graph
from rlpath_core.geometry.bonds import Bonds, bonds
from rlpath_core.geometry.cell import (
    closed_cell,
    complete_cell,
    displacements,
    fractional,
    lattice,
    thickness,
    wrap_vectors,
)
from rlpath_core.geometry.environment import MAX_PAIRS, LocalEnvironment
from rlpath_core.geometry.fragments import fragments, unwrap
from rlpath_core.geometry.neighbours import image_vectors, neighbour_images, neighbours
from rlpath_core.geometry.slab import above_gap, gap_widths, infer_roles, widest_gap
from rlpath_core.structure import Structure

PBC = list(product([True, False], repeat=3))


def random_cell(rng: np.random.Generator, thinnest: float, longest: float) -> np.ndarray:
    """Lengths between the two (Å), up to 45 degrees or so off right angles, turned anyhow, of either hand."""
    cell = np.eye(3) + rng.uniform(-0.45, 0.45, (3, 3))
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return np.asarray(cell * rng.uniform(thinnest, longest, 3)[:, None] @ turn)


@st.composite
def structures(draw: st.DrawFn, thinnest: float = 1.5, longest: float = 7.0, n_max: int = 5) -> Structure:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pbc = np.array(draw(st.sampled_from(PBC)))
    cell = random_cell(rng, thinnest, longest)
    n = draw(st.integers(1, n_max))
    positions = rng.uniform(-1.5, 2.5, (n, 3)) @ cell
    if draw(st.booleans()):
        cell = cell * pbc[:, None]  # open directions without a lattice vector
    return Structure(rng.choice([1, 6, 8, 29], n), positions, cell, pbc)


def images(structure: Structure, cutoff: float) -> np.ndarray:
    """[n, 3] translations: all that may bring an image within the cutoff of an atom."""
    cell = structure.cell * structure.pbc[:, None]
    periodic = np.flatnonzero(structure.pbc)
    if not len(periodic):
        return np.zeros((1, 3))
    vectors = structure.cell[periodic]
    spread = np.ptp(structure.positions, axis=0)
    # each vector's part at right angles to the others
    apart = [
        np.linalg.norm(v - np.linalg.lstsq(rest.T, v, rcond=None)[0] @ rest if len(rest) else v)
        for v, rest in ((vectors[k], np.delete(vectors, k, axis=0)) for k in range(len(periodic)))
    ]
    reach = np.zeros(3, int)
    reach[periodic] = np.ceil((cutoff + np.linalg.norm(spread)) / np.array(apart)).astype(int)
    return np.array(list(product(*(range(-r, r + 1) for r in reach)))) @ cell


def table(i: np.ndarray, j: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Rows of a pair and its vector, in an order of their own."""
    rows = np.column_stack([i, j, vectors])
    return rows[np.lexsort(np.round(rows, 5).T[::-1])]


def by_brute_force(structure: Structure, cutoff: float) -> np.ndarray:
    p = structure.positions
    vectors = p[None, :, None] + images(structure, cutoff)[None, None] - p[:, None, None]
    d = np.linalg.norm(vectors, axis=-1)
    assume(np.abs(d - cutoff).min() > 1e-6)  # at the cutoff itself either is right
    assume(np.sort(d.ravel())[len(p) :].min(initial=1.0) > 1e-3)
    i, j, k = np.nonzero((d < cutoff) & (d > 1e-6))
    return table(i, j, vectors[i, j, k])


@given(structure=structures(), cutoff=st.sampled_from([1.2, 3.0, 5.5]))
@pytest.mark.slow
def test_every_neighbour_list_is_that_of_brute_force(structure: Structure, cutoff: float):
    expected = by_brute_force(structure, cutoff)
    i, j, d, vectors = neighbours(structure, "ijdD", cutoff)
    np.testing.assert_allclose(table(i, j, vectors), expected, atol=1e-8)
    np.testing.assert_allclose(d, np.linalg.norm(vectors, axis=1), atol=1e-12)
    assert (np.diff(i) >= 0).all()

    pairs, cells = neighbour_images(structure, cutoff)
    np.testing.assert_allclose(table(*pairs, image_vectors(structure, pairs, cells)), expected, atol=1e-8)
    assert not cells[:, ~structure.pbc].any()
    assert (np.diff(pairs[0]) >= 0).all()

    graph = build_graph(structure, cutoff, np.unique(structure.numbers))
    sender, receiver = graph.edges
    vectors = structure.positions[receiver] - structure.positions[sender] + graph.shifts
    np.testing.assert_allclose(table(sender, receiver, vectors), expected, atol=1e-8)
    assert (np.diff(receiver) >= 0).all()


@given(structure=structures(thinnest=2.5), seed=st.integers(0, 99), many=st.booleans())
def test_a_local_environment_is_the_neighbour_list_of_its_centres(structure: Structure, seed: int, many: bool):
    rng = np.random.default_rng(seed)
    centres = rng.random(len(structure)) < 0.6
    around = LocalEnvironment(structure, centres, 4.0)
    assert around.enumerated == (len(around.rows) * len(structure) * len(around.translations) <= MAX_PAIRS)
    around.enumerated = not many
    # what is asked is another structure of the same cell, wherever its atoms were wrapped to
    other = structure.moved(
        structure.positions
        + rng.normal(0, 0.3, structure.positions.shape)
        + rng.integers(-2, 3, (len(structure), 3)) @ (structure.cell * structure.pbc[:, None])
    )
    expected = by_brute_force(other, 4.0)
    expected = expected[centres[expected[:, 0].astype(int)]]
    centre, atom, d = around.pairs(other)
    found = np.column_stack([around.rows[centre], atom, d])
    wanted = np.column_stack([expected[:, :2], np.linalg.norm(expected[:, 2:], axis=1)])
    for rows in (found, wanted):
        rows[:] = rows[np.lexsort(np.round(rows, 5).T[::-1])]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


@given(structure=structures(), seed=st.integers(0, 2**16))
def test_shifts_wraps_and_permutations_change_no_bond(structure: Structure, seed: int):
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(structure))
    positions = structure.positions + rng.uniform(-9, 9, 3)
    positions += rng.integers(-2, 3, positions.shape) @ (structure.cell * structure.pbc[:, None])
    other = Structure(structure.numbers[order], positions[order], structure.cell, structure.pbc)
    first, second = bonds(structure), bonds(other)
    assert len(first.i) == len(second.i)
    np.testing.assert_allclose(
        table(first.i, first.j, first.vector), table(order[second.i], order[second.j], second.vector), atol=1e-8
    )
    pieces = {frozenset(piece.tolist()) for piece in fragments(structure, np.ones(len(structure), bool), first)}
    again = fragments(other, np.ones(len(other), bool), second)
    assert {frozenset(order[piece].tolist()) for piece in again} == pieces


@given(structure=structures(thinnest=1.2, longest=4.0, n_max=4), seed=st.integers(0, 99))
def test_a_supercell_has_the_neighbours_of_its_cell(structure: Structure, seed: int):
    times = np.where(structure.pbc, np.random.default_rng(seed).integers(1, 4, 3), 1)
    steps = np.array(list(product(*map(range, times))))
    positions = (structure.positions[None] + (steps @ structure.cell)[:, None]).reshape(-1, 3)
    numbers = np.tile(structure.numbers, len(steps))
    large = Structure(numbers, positions, structure.cell * times[:, None], structure.pbc)

    def of(one: Structure, bonded: Bonds) -> list[np.ndarray]:
        """Of each atom, the sorted lengths of its bonds."""
        length = np.linalg.norm(bonded.vector, axis=1)
        return [np.sort(length[bonded.i == k]) for k in range(len(one))]

    def all_pairs(one: Structure) -> Bonds:
        return Bonds(*neighbours(one, "ijD", 3.3))

    assume(np.abs(neighbours(structure, "d", 3.4)[0] - 3.3).min(initial=1.0) > 1e-6)
    small, big = of(structure, all_pairs(structure)), of(large, all_pairs(large))
    for k in range(len(large)):
        np.testing.assert_allclose(big[k], small[k % len(structure)], atol=1e-8)
    np.testing.assert_allclose(gap_widths(large), gap_widths(structure), atol=1e-8)


@given(structure=structures(thinnest=1.3, longest=6.0, n_max=4))
def test_a_fragment_is_whole_and_endless_if_it_goes_round_the_cell(structure: Structure):
    bonded, inverse = bonds(structure), lattice(structure).inverse
    # a finite molecule has as many copies in a supercell as that has cells; each bond leads into a certain one of them
    times = np.full(inverse.shape[1], 7)
    cells = np.array(list(product(*map(range, times)))).reshape(7 ** len(times), len(times))
    n, starts = len(structure), structure.positions[bonded.i]
    into = np.rint((starts + bonded.vector - structure.positions[bonded.j]) @ inverse).astype(int)
    target = np.zeros((len(cells), len(into)), int)
    for k, size in enumerate(times):
        target = target * size + (cells[:, None, k] + into[:, k]) % size
    rows = (np.arange(len(cells))[:, None] * n + bonded.i).ravel()
    columns = (target * n + bonded.j).ravel()
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(n * len(cells),) * 2)
    label = connected_components(graph, directed=False)[1].reshape(len(cells), n)
    for atoms in fragments(structure, np.ones(n, bool), bonded):
        fragment = unwrap(structure, atoms, bonded)
        steps = (fragment.positions - structure.positions[atoms]) @ inverse
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-6)
        assert fragment.endless == (len(np.unique(label[:, atoms])) < len(cells))
        if not fragment.endless:
            place = dict(zip(atoms.tolist(), fragment.positions, strict=True))
            for i, j, vector in zip(bonded.i.tolist(), bonded.j.tolist(), bonded.vector, strict=True):
                if i in place:
                    np.testing.assert_allclose(place[j] - place[i], vector, atol=1e-6)


@given(seed=st.integers(0, 2**32 - 1), pbc=st.sampled_from(PBC), given_vectors=st.booleans())
def test_open_directions_are_closed_at_right_angles(seed: int, pbc: tuple[bool, ...], given_vectors: bool):
    rng, periodic = np.random.default_rng(seed), np.array(pbc)
    cell = random_cell(rng, 1.0, 20.0)
    if not given_vectors:
        cell = cell * periodic[:, None]
    whole = complete_cell(cell, periodic)
    np.testing.assert_array_equal(whole[periodic], cell[periodic])
    np.testing.assert_allclose(whole[~periodic] @ whole[~periodic].T, np.eye((~periodic).sum()), atol=1e-12)
    np.testing.assert_allclose(whole[~periodic] @ whole[periodic].T, 0, atol=1e-10)
    if given_vectors:
        assert (np.einsum("kx,kx->k", whole, cell) >= 0).all()
    elif not periodic.all():
        assert np.linalg.det(whole) > 0
    if periodic.sum() == 2:  # turning the cell turns the normal with it
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        turn[0] *= np.sign(np.linalg.det(turn))
        np.testing.assert_allclose(complete_cell(cell @ turn, periodic), whole @ turn, atol=1e-9)


@given(structure=structures(thinnest=2.0, n_max=4), margin=st.sampled_from([2.6, 4.0]))
def test_across_a_closed_direction_nothing_is_seen(structure: Structure, margin: float):
    cell = closed_cell(structure, margin)
    closed = Structure(structure.numbers, structure.positions, cell, [True] * 3)
    np.testing.assert_allclose(
        table(*neighbours(closed, "ijD", 2.5)), table(*neighbours(structure, "ijD", 2.5)), atol=1e-8
    )
    inverse = fractional(structure.positions, cell)
    np.testing.assert_allclose(inverse @ cell, structure.positions, atol=1e-8)
    faces = [np.cross(cell[(k + 1) % 3], cell[(k + 2) % 3]) for k in range(3)]
    heights = [abs(np.linalg.det(cell)) / np.linalg.norm(face) for face in faces]
    np.testing.assert_allclose(thickness(cell), heights, rtol=1e-9)
    np.testing.assert_allclose(lattice(structure).thickness, thickness(cell)[structure.pbc], rtol=1e-9)


@given(structure=structures(), seed=st.integers(0, 99))
def test_wrapped_vectors_and_displacements_are_images_of_what_they_were(structure: Structure, seed: int):
    rng = np.random.default_rng(seed)
    after = structure.moved(structure.positions + rng.normal(0, rng.choice([0.1, 2.0]), structure.positions.shape))
    moved = after.positions - structure.positions
    translations = images(structure, 2 * float(np.linalg.norm(moved, axis=1).max()))
    nearest = np.linalg.norm(moved[:, None] + translations, axis=-1).min(axis=1)
    found = displacements(after, structure)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), nearest, atol=1e-8)
    wrapped = wrap_vectors(moved, structure)
    inverse = lattice(structure).inverse
    assert np.abs(wrapped @ inverse).max(initial=0) <= 0.5 + 1e-9
    for vectors in (found, wrapped):
        steps = (vectors - moved) @ inverse
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-8)
        np.testing.assert_allclose(np.round(steps) @ lattice(structure).vectors, vectors - moved, atol=1e-8)


@given(
    fractions=st.lists(st.floats(-3, 3), min_size=1, max_size=8).map(np.array),
    shift=st.floats(-2, 2),
    seed=st.integers(0, 99),
)
def test_the_widest_gap_is_empty_and_none_is_wider(fractions: np.ndarray, shift: float, seed: int):
    gap = widest_gap(fractions)
    wrapped = np.sort(fractions % 1.0)
    # by brute force: from each atom up to the next one above it
    sizes = [min(((other - one) % 1.0) or 1.0 for other in wrapped) for one in wrapped]
    assert gap.size == pytest.approx(max(sizes), abs=1e-12) or len(set(wrapped)) < len(wrapped)
    inside = (wrapped - gap.begin) % 1.0
    assert not ((inside > 1e-12) & (inside < gap.size - 1e-12)).any()
    assert (gap.begin + gap.size) % 1.0 == pytest.approx(gap.end % 1.0, abs=1e-12) or gap.size == pytest.approx(1)
    ordered = np.sort(sizes)
    if len(ordered) > 1 and ordered[-1] - ordered[-2] > 1e-6 and len(set(np.round(wrapped, 9))) == len(wrapped):
        order = np.random.default_rng(seed).permutation(len(fractions))
        again = above_gap(fractions[order] + shift)
        np.testing.assert_allclose(again, above_gap(fractions)[order], atol=1e-9)
        assert again.min() == 0


@given(seed=st.integers(0, 2**32 - 1), layers=st.integers(2, 4), open_axis=st.booleans())
def test_roles_of_a_slab_do_not_depend_on_where_its_cell_begins(seed: int, layers: int, open_axis: bool):
    """Turned, shifted, wrapped, its axes renamed, its atoms in another order: the same atoms move and are adsorbed."""
    rng = np.random.default_rng(seed)
    spots = np.array(list(product(range(2), range(2)))) @ [[2.5, 0.3], [-0.4, 2.7]]
    slab = [[*spot, 2.0 * k] for k in range(layers) for spot in spots]
    above = [[0.2, 0.1, 2.0 * layers], [1.1, 0.2, 2.0 * layers + 0.9]]
    cell = np.array([[5.0, 0.6, 0], [-0.8, 5.4, 0], [0.7, -0.5, 2.0 * layers + 9.0]])
    numbers = np.array([12] * len(slab) + [8, 1])
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    turn[0] *= np.sign(np.linalg.det(turn))
    axes = rng.permutation(3)
    pbc = np.array([True, True, not open_axis])[axes]
    order = rng.permutation(len(numbers))
    positions = np.array(slab + above) + rng.uniform(-9, 9, 3)
    positions += rng.integers(-2, 3, positions.shape) * [1, 1, not open_axis] @ cell
    structure = Structure(numbers[order], positions[order] @ turn, (cell @ turn)[axes], pbc)
    roles = infer_roles(structure)
    adsorbed = np.arange(len(numbers)) >= len(slab)
    upper = np.arange(len(numbers)) >= 4 * (layers // 2 if layers % 2 == 0 else layers // 2 + 1)
    np.testing.assert_array_equal(roles.adsorbate, adsorbed[order])
    np.testing.assert_array_equal(roles.movable, (upper | adsorbed)[order])
    np.testing.assert_allclose(roles.normal, [0, 0, 1] @ turn, atol=1e-9)

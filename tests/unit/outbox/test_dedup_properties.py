"""Near-duplicates of generated slabs: what may not matter does not, and the decisions are those of brute force."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from ase.geometry import find_mic
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rlpath_core.outbox import Memory, rmsd
from rlpath_core.outbox.canonicalize import canonicalize
from rlpath_core.structure import Structure

NUMBERS = np.array([12, 12, 8, 8, 8, 1, 1])
FIXED = np.array([True] * 2 + [False] * 5)
EQUAL = ([2, 3, 4], [5, 6])
"""Movable atoms of one element."""

angstroms = st.floats(-0.6, 0.6)
displacements = arrays(float, (len(NUMBERS), 3), elements=angstroms)
cells = st.tuples(st.floats(2.5, 5.0), st.floats(2.5, 5.0), st.floats(-2.0, 2.0), st.booleans())
orders = st.tuples(st.permutations(EQUAL[0]), st.permutations(EQUAL[1]))
lattice_steps = arrays(np.int64, (len(NUMBERS), 3), elements=st.integers(-3, 3))
fractions = arrays(float, 3, elements=st.floats(-2, 2))
thorough = settings(max_examples=60, deadline=None)


def slab(cell: tuple[float, float, float, bool], moves: np.ndarray) -> Structure:
    """Two fixed atoms with five movable ones above, in a skewed cell that is thin along one or two directions."""
    a, b, skew, is_open = cell
    vectors = np.array([[a, 0, 0], [skew, b, 0], [0, 0, 12.0]])
    sites = [(0, 0, 3), (a / 2, b / 2, 3), (0, 0, 5), (a / 2, 0, 5), (0, b / 2, 5.5), (0.4, 0.8, 6), (-0.4, 0.8, 6)]
    positions = np.array(sites) + moves * ~FIXED[:, None]
    return Structure(NUMBERS, positions, vectors, [True, True, not is_open], fixed=FIXED)


def between(first: Structure, second: Structure) -> float:
    return rmsd(canonicalize(first), canonicalize(second))


def brute_force(first: Structure, second: Structure) -> float:
    """Every assignment of equal atoms, with ASE's shortest periodic images."""
    total = 0.0
    for block in EQUAL:
        total += min(
            (find_mic(second.positions[list(order)] - first.positions[block], first.cell, first.pbc)[1] ** 2).sum()
            for order in permutations(block)
        )
    return float(np.sqrt(total / (~FIXED).sum()))


@thorough
@given(cells, displacements, displacements)
def test_the_rmsd_is_that_of_brute_force_and_symmetric(cell, one, other) -> None:
    first, second = slab(cell, one), slab(cell, other)
    expected = brute_force(first, second)
    assert between(first, second) == pytest.approx(expected, abs=1e-6)
    assert between(second, first) == pytest.approx(expected, abs=1e-6)


@thorough
@given(cells, displacements, displacements, orders, lattice_steps, fractions)
def test_order_of_equal_atoms_lattice_vectors_and_shifts_change_nothing(
    cell, one, other, order, steps, fraction
) -> None:
    first, second = slab(cell, one), slab(cell, other)
    positions = second.positions.copy()
    for block, exchanged in zip(EQUAL, order, strict=True):
        positions[block] = second.positions[list(exchanged)]
    steps, fraction = steps * second.pbc, fraction * second.pbc
    moved = second.moved(positions + (steps + fraction) @ second.cell)
    assert between(second, moved) == pytest.approx(0, abs=1e-5)
    assert between(first, moved) == pytest.approx(between(first, second), abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    cells,
    st.lists(st.tuples(displacements, st.integers(0, 2)), min_size=2, max_size=5),
    st.floats(0.05, 0.6),
    st.integers(0, 8),
    st.integers(0, 2**32 - 1),
)
def test_decisions_are_those_of_brute_force_in_any_order(cell, moves, threshold, cut, seed) -> None:
    """Generated slabs and displaced copies of them; admitted at once, in two calls, and shuffled."""
    rng = np.random.default_rng(seed)
    structures = []
    for move, copies in moves:
        structures.append(slab(cell, move))
        structures += [slab(cell, move + rng.normal(0, 0.1, move.shape)) for _ in range(copies)]
    half = np.array(
        [[brute_force(a, b) if j < i else 0.0 for j, b in enumerate(structures)] for i, a in enumerate(structures)]
    )
    distance = half + half.T
    if (np.abs(distance - threshold) < 1e-6).any():
        return  # rounding decides
    for places in (np.arange(len(structures)), rng.permutation(len(structures))):
        kept: list[int] = []
        for place in places:
            if not (distance[place, kept] <= threshold).any():
                kept.append(place)
        forms = [canonicalize(structures[place]) for place in places]
        matches = Memory(threshold).admit(forms)
        assert [place for place, match in zip(places, matches, strict=True) if match is None] == kept
        memory = Memory(threshold)
        again = memory.admit(forms[:cut]) + memory.admit(forms[cut:])
        assert [match is None for match in again] == [match is None for match in matches]
        ids = {structures[place].id: place for place in kept}
        for place, match in zip(places, matches, strict=True):
            if match is not None:
                assert match.rmsd == pytest.approx(distance[ids[match.id], place], abs=1e-6)

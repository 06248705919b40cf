"""Copies of a step counted by symmetry, against explicit lists of all steps on a lattice of sites."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from ase import Atoms
from ase.build import fcc100, fcc111
from ase.constraints import FixAtoms

from rlpath_core.paths.degeneracy import degeneracies
from rlpath_core.structure import Structure


class Sites:
    """Atoms of one kind on the sites of a held slab.

    Parameters
    ----------
    slab
        Of n x n cells.
    places
        [k, 3], Å: the sites of the first cell.
    """

    def __init__(self, slab: Atoms, n: int, places: np.ndarray) -> None:
        self.slab, self.n, self.places = slab, n, places
        self.vectors = slab.cell.array[:2] / n

    def at(self, site: tuple[int, int, int]) -> np.ndarray:
        """The position of (i, j, which), in whatever cell it lies."""
        return self.places[site[2]] + site[:2] @ self.vectors

    def structure(self, positions: list[np.ndarray], symbol: str = "O") -> Structure:
        atoms = self.slab + Atoms([symbol] * len(positions), positions)
        atoms.set_constraint(FixAtoms(range(len(self.slab))))
        return Structure.from_ase(atoms)

    def counted(self, before: list[tuple[int, int, int]], after: list[tuple[int, int, int]]) -> tuple[int, int]:
        """``degeneracies`` of a step whose saddle lies half way."""
        first, last = [self.at(s) for s in before], [self.at(s) for s in after]
        half = [(a + b) / 2 + [0, 0, 0.2] for a, b in zip(first, last, strict=True)]
        start, saddle, end = (self.structure(one) for one in (first, half, last))
        return degeneracies(start, saddle, end, ~start.fixed)

    def shape(self, sites: list[tuple[int, int, int]]) -> list[float]:
        """What is the same for all copies of an arrangement: kinds of sites and distances, nearest images counted."""
        spots = [self.at(site) for site in sites]
        shifts = [np.array([a, b]) @ (self.n * self.vectors) for a, b in product((-1, 0, 1), repeat=2)]
        pairs = [min(np.linalg.norm(p - q + s) for s in shifts) for k, p in enumerate(spots) for q in spots[k + 1 :]]
        return sorted(np.round(pairs, 3)) + sorted(site[2] for site in sites)

    def listed(self, before: list[tuple[int, int, int]], after: list[tuple[int, int, int]]) -> int:
        """Every hop of one atom that is as long as the given one and leads to a copy of ``after``, one by one."""
        moved = next(k for k in range(len(before)) if before[k] != after[k])
        length = np.linalg.norm(self.at(after[moved]) - self.at(before[moved]))
        count = 0
        for k, (i, j, which) in product(
            range(len(before)), product(range(-3, 4), range(-3, 4), range(len(self.places)))
        ):
            target = (before[k][0] + i, before[k][1] + j, which)
            others = [site for other, site in enumerate(before) if other != k]
            free = all((target[0] - s[0]) % self.n or (target[1] - s[1]) % self.n or target[2] != s[2] for s in others)
            if free and abs(np.linalg.norm(self.at(target) - self.at(before[k])) - length) < 1e-3:
                count += self.shape([*others, target]) == self.shape(after)
        return count


def square(n: int) -> Sites:
    slab = fcc100("Al", (n, n, 2), vacuum=8)
    slab.pbc = True
    hollow = slab.positions[-1] + (slab.cell.array[0] + slab.cell.array[1]) / (2 * n) + [0, 0, 1.2]
    return Sites(slab, n, hollow[None])


def triangular(n: int) -> Sites:
    """Both kinds of hollows, fcc and hcp."""
    slab = fcc111("Cu", (n, n, 3), vacuum=8)
    slab.pbc = True
    a, b = slab.cell.array[:2] / n
    top = slab.positions[slab.get_tags() == 1][0] + [0, 0, 1.2]
    return Sites(slab, n, np.array([top + (a + b) / 3, top + 2 * (a + b) / 3]))


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize(
    ("sites", "before", "after", "known"),
    [
        (square, [(0, 0, 0)], [(1, 0, 0)], (4, 4)),
        (square, [(0, 0, 0)], [(1, 1, 0)], (4, 4)),
        (triangular, [(0, 0, 0)], [(0, 0, 1)], (3, 3)),
        (triangular, [(0, 0, 0)], [(1, 0, 0)], (6, 6)),
    ],
    ids=["hollow", "diagonal", "fcc-hcp", "fcc-fcc"],
)
def test_one_atom(sites, n: int, before, after, known):
    """Also where the cell is so small that several ways lead to images of one end."""
    surface = sites(n)
    counted = surface.counted(before, after)
    assert counted == known
    if n > 2:
        assert counted == (surface.listed(before, after), surface.listed(after, before))


@pytest.mark.parametrize(
    ("sites", "before", "after"),
    [
        (square, [(0, 0, 0), (1, 0, 0)], [(0, 0, 0), (1, 1, 0)]),
        (square, [(0, 0, 0), (1, 0, 0)], [(0, 0, 0), (2, 0, 0)]),
        (square, [(0, 0, 0), (1, 0, 0), (0, 1, 0)], [(0, 0, 0), (1, 0, 0), (0, 2, 0)]),
        (triangular, [(0, 0, 0), (1, 0, 0)], [(0, 0, 0), (1, 0, 1)]),
        (triangular, [(0, 0, 0), (1, 0, 0), (0, 1, 0)], [(0, 0, 0), (1, 0, 0), (0, 2, 0)]),
    ],
)
def test_several_like_atoms(sites, before, after):
    """One of them hops; like atoms may be exchanged by an operation."""
    surface = sites(5)
    assert surface.counted(before, after) == (surface.listed(before, after), surface.listed(after, before))


def test_a_molecule_that_turns():
    """H2 flat in a fourfold hollow, by 90 degrees: two ways to turn. Two unlike atoms, by 180 degrees: two as well."""
    surface = square(3)
    centre = surface.at((0, 0, 0)) + [0, 0, 0.5]

    def turned(degrees: float, symbols: str, height: float = 0.0) -> Structure:
        arm = 0.4 * np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), 0.0])
        atoms = surface.slab + Atoms(symbols, [centre + arm + [0, 0, height], centre - arm + [0, 0, height]])
        atoms.set_constraint(FixAtoms(range(len(surface.slab))))
        return Structure.from_ase(atoms)

    for symbols in ("H2", "CO"):
        start, saddle, end = turned(0, symbols), turned(45, symbols, 0.1), turned(90, symbols)
        assert degeneracies(start, saddle, end, ~start.fixed) == (2, 2)


def test_a_slab_that_nothing_holds_counts_its_own_symmetry():
    surface = square(3)
    before, after = [surface.at((0, 0, 0))], [surface.at((1, 0, 0))]
    half = [(before[0] + after[0]) / 2]
    start, saddle, end = (surface.structure(one) for one in (before, half, after))
    everything = np.ones(len(start), bool)
    assert degeneracies(start, saddle, end, everything) == (4, 4)


def test_relaxed_ends_that_are_a_little_off_count_the_same():
    surface, rng = triangular(3), np.random.default_rng(0)
    before, after = [surface.at((0, 0, 0))], [surface.at((0, 0, 1))]
    half = [(before[0] + after[0]) / 2]
    start, saddle, end = (
        surface.structure([spot + rng.uniform(-0.05, 0.05, 3) for spot in one]) for one in (before, half, after)
    )
    assert degeneracies(start, saddle, end, ~start.fixed) == (3, 3)

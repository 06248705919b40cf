"""Two structures made comparable: like atoms paired, periodic images settled, and images drawn between them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from ase.geometry import find_mic
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from rlpath_core.errors import InputError
from rlpath_core.geometry.adsorbate import MOLECULAR
from rlpath_core.geometry.bonds import bonds
from rlpath_core.geometry.cell import Floats, Mask, closed_cell
from rlpath_core.structure import Structure

Ints = NDArray[np.int64]

BOND = 6.0
"""Å²: a bond of a molecule that a pairing breaks or forms weighs as much as this square of a displacement."""
HELD = 0.1
"""Å: held atoms of two structures that lie further apart are not the same substrate."""
SAME_CELL = 1e-3
"""Å: by how much the lattice vectors of two structures may differ."""
SWAPS = 100
"""Pairs of like atoms that are tried the other way round, at most."""
STARTS = 32
"""Translations from which the pairing of a wholly free crystal begins, at most."""


def matched(
    initial: Structure, final: Structure, movable: Mask | None = None, *, exchange: bool = True, align: bool = True
) -> Structure:
    """``final`` as the end of the shortest sensible motion that begins in ``initial``.

    It decides four things. *Which atom is which*: movable atoms of one element and magnetic moment may change places;
    the pairing has the least sum of squared displacements, where each bond between atoms of molecules (H, C, N, O and
    the like) that it breaks or forms counts as ``BOND`` more, so that molecules stay whole. Held atoms keep
    their numbers, unless the elements of ``final`` come in another order. *Which periodic image*: a molecule moves as a
    whole, by the lattice vector that makes its displacement shortest, and is not torn at a boundary of the cell; other
    atoms move to their nearest images. *Where it lies*: a common shift of all held atoms is undone, and held atoms come
    to lie exactly where they are in ``initial``. *What is no motion at all*: if no atom is held, the mean displacement
    is removed, and without periodic directions the rotation too.

    Two structures that differ by an exchange of like atoms become the same. Where the exchange itself is the step, as
    in a molecule that turns by half, ask for ``exchange=False``.

    Parameters
    ----------
    initial, final : Structure
        The same atoms in the same cell.
    movable : ndarray of bool, shape (n_atoms,), optional
        Atoms of ``initial`` that are not held. By default those that are not fixed.
    exchange : bool
        Whether like atoms may change places.
    align : bool
        Whether translation and rotation of a wholly free system are removed.

    Returns
    -------
    Structure
        The atoms in the order of ``initial``, with its cell, tags and fixed atoms. Atoms are not wrapped into the
        cell: the straight line from ``initial`` is the motion.

    Raises
    ------
    InputError
        Other elements, another cell, other periodic directions, or held atoms at other places.
    """
    movable = ~initial.fixed if movable is None else np.asarray(movable, bool)
    reordered = _check(initial, final)
    if reordered and not exchange:
        raise InputError(
            "the two structures list their elements in another order: sort the atoms of one as in the other"
        )
    free = np.ones(len(initial), bool) if reordered else movable
    if not reordered and not movable.all():
        final = _held_in_place(initial, final, ~movable)
    if not exchange:
        free = np.zeros(len(initial), bool)
    wholly_free = align and bool(movable.all())
    problem = _Problem.of(initial, final, free, movable)
    best: tuple[float, Floats] | None = None
    for given in problem.placements() if wholly_free else [final.positions]:
        cost, displacement = problem.solve(given, wholly_free)
        if best is None or cost < best[0] - 1e-6:
            best = cost, displacement
    assert best is not None
    displacement = best[1]
    if not movable.all():
        _refuse_moved(np.linalg.norm(displacement[~movable], axis=1), np.flatnonzero(~movable))
        displacement = np.where(movable[:, None], displacement, 0.0)
    return initial.moved(initial.positions + displacement)


def _check(initial: Structure, final: Structure) -> bool:
    """Whether the elements come in another order; InputError for what cannot be matched at all."""
    if len(initial) != len(final) or not np.array_equal(np.sort(initial.numbers), np.sort(final.numbers)):
        raise InputError(f"the two structures have other atoms: {initial.formula} and {final.formula}")
    if not np.array_equal(initial.pbc, final.pbc):
        raise InputError(f"the two structures are periodic in other directions: {initial.pbc} and {final.pbc}")
    off = np.abs((initial.cell - final.cell)[initial.pbc]).max(initial=0.0)
    if off > SAME_CELL:
        raise InputError(f"the two structures have other cells: a lattice vector differs by {off:.3g} Å")
    return not np.array_equal(initial.numbers, final.numbers)


def _held_in_place(initial: Structure, final: Structure, held: Mask) -> Structure:
    """``final`` shifted so that its held atoms lie where those of ``initial`` do."""
    off = _nearest(final.positions[held] - initial.positions[held], initial)
    shift = off[0] + _nearest(off - off[0], initial).mean(axis=0)
    rest = np.linalg.norm(_nearest(off - shift, initial), axis=1)
    _refuse_moved(rest, np.flatnonzero(held))
    return final.moved(final.positions - shift)


def _refuse_moved(off: Floats, atoms: Ints) -> None:
    if off.max(initial=0.0) > HELD:
        worst = int(np.argmax(off))
        raise InputError(
            f"held atom {atoms[worst]} (counted from 0) lies {off[worst]:.2f} Å away from its place in the other "
            "structure: both ends of a path need the same substrate"
        )


def _nearest(vectors: Floats, structure: Structure) -> Floats:
    """The nearest images of ``vectors`` (shape (..., 3), Å)."""
    if not structure.pbc.any() or not vectors.size:
        return vectors
    flat = find_mic(vectors.reshape(-1, 3), closed_cell(structure), structure.pbc)[0]
    return np.asarray(flat.reshape(vectors.shape), np.float64)


def _molecular_bonds(structure: Structure) -> NDArray[np.bool_]:
    """[n_atoms, n_atoms]: bonds between two atoms of elements that make molecules."""
    found = bonds(structure)
    keep = MOLECULAR[structure.numbers[found.i]] & MOLECULAR[structure.numbers[found.j]]
    matrix = np.zeros((len(structure), len(structure)), bool)
    matrix[found.i[keep], found.j[keep]] = True
    return matrix


@dataclass(frozen=True, eq=False)
class _Problem:
    """Two structures, and what may be exchanged. An order says which atom of the final structure each initial one is.

    movable  [n_atoms] bool, of the initial structure
    blocks   atoms of the initial structure that may change places, one array per kind, and those of the final one
    start    the order that changes least
    before, after   [n_atoms, n_atoms] bool: bonds of molecules
    """

    initial: Structure
    final: Structure
    movable: Mask
    blocks: list[tuple[Ints, Ints]]
    start: Ints
    before: NDArray[np.bool_]
    after: NDArray[np.bool_]

    @classmethod
    def of(cls, initial: Structure, final: Structure, free: Mask, movable: Mask) -> _Problem:
        kinds = _kinds(initial, final)
        blocks, start = [], np.arange(len(initial))
        for kind in np.unique(kinds[0][free]):
            first, second = (np.flatnonzero((of == kind) & free) for of in kinds)
            start[first] = second
            if len(first) > 1:
                blocks.append((first, second))
        return cls(initial, final, movable, blocks, start, _molecular_bonds(initial), _molecular_bonds(final))

    def placements(self) -> list[Floats]:
        """Positions of the final structure, translated (and rotated) as a whole, to begin the pairing from."""
        at, to = self.final.positions, self.initial.positions
        if self.initial.pbc.any():
            first, second = min(self.blocks, key=lambda block: len(block[0]), default=(np.arange(1), self.start[:1]))
            shifts = _nearest(to[first[0]] - at[second[:STARTS]], self.initial)
            return [at + shift for shift in (np.zeros(3), *shifts)]
        at, to = at - at.mean(axis=0), to - to.mean(axis=0)
        own, other = np.linalg.svd(at)[2], np.linalg.svd(to)[2]
        turns = [np.eye(3)]
        for signs in ([1, 1], [1, -1], [-1, 1], [-1, -1]):
            proper = np.linalg.det(own) * np.linalg.det(other) * signs[0] * signs[1]
            turns.append((own.T * [*signs, proper]) @ other)
        return [at @ turn + self.initial.positions.mean(axis=0) for turn in turns]

    def solve(self, positions: Floats, wholly_free: bool) -> tuple[float, Floats]:
        """The cost of the best pairing that is found, and the displacements [n_atoms, 3] of the initial atoms."""
        cost, order, displacement = self.paired(positions)
        for _ in range(20 if wholly_free else 0):
            positions = self.aligned(positions, order, displacement)
            better, order, displacement = self.paired(positions, order)
            if better > cost - 1e-9:
                break
            cost = better
        if wholly_free:
            displacement = displacement - displacement.mean(axis=0)
            cost = self.cost(order, displacement)
        return cost, displacement

    def aligned(self, positions: Floats, order: Ints, displacement: Floats) -> Floats:
        """Final positions after the translation, and without a lattice the rotation, that brings pairs together."""
        if self.initial.pbc.any() or len(order) == 1:
            return positions - displacement.mean(axis=0)
        from scipy.spatial.transform import Rotation

        to, at = self.initial.positions, positions[order]
        turn = Rotation.align_vectors(to - to.mean(axis=0), at - at.mean(axis=0))[0].as_matrix()
        return (positions - at.mean(axis=0)) @ turn.T + to.mean(axis=0)

    def paired(self, positions: Floats, known: Ints | None = None) -> tuple[float, Ints, Floats]:
        """Cost, order and displacements of the best pairing with the final atoms at ``positions``."""
        squares = [
            (_nearest(positions[second][None] - self.initial.positions[first][:, None], self.initial) ** 2).sum(axis=2)
            for first, second in self.blocks
        ]
        nearest = self.start.copy()
        for (first, second), square in zip(self.blocks, squares, strict=True):
            nearest[first] = second[linear_sum_assignment(square)[1]]
        starts = [nearest, self.start if known is None else known]
        if self.before.any() and self.blocks:
            starts.append(self.by_molecules(positions, nearest))
        best: tuple[float, Ints, Floats] | None = None
        for order in {order.tobytes(): order for order in starts}.values():
            found = self.improved(positions, order, squares)
            if best is None or found[0] < best[0] - 1e-9:
                best = found
        assert best is not None
        return best

    def improved(self, positions: Floats, order: Ints, squares: list[Floats]) -> tuple[float, Ints, Floats]:
        """Pair each kind again, given all others, and change pairs, as long as the cost falls."""
        displacement = self.settled(positions, order)
        cost = self.cost(order, displacement)
        improving = bool(self.before.any() or self.after.any())
        while improving:
            improving = False
            for block, square in zip(self.blocks, squares, strict=True):
                trials = [self.reassigned(order, block, square)]
                trials += self.swapped(order, block)
                for trial in trials:
                    if np.array_equal(trial, order):
                        continue
                    moved = self.settled(positions, trial)
                    new = self.cost(trial, moved)
                    if new < cost - 1e-9:
                        cost, order, displacement, improving = new, trial, moved, True
        return cost, order, displacement

    def reassigned(self, order: Ints, block: tuple[Ints, Ints], square: Floats) -> Ints:
        """The best pairing of one kind of atoms if all others keep theirs."""
        first, second = block
        mine, theirs = self.before[first].astype(float), self.after[second][:, order].astype(float)
        weight = np.ones(len(order))
        weight[first] = 0.5  # bonds within the kind count from both ends, and as they are paired now
        changed = (mine @ weight)[:, None] + (theirs @ weight)[None] - 2 * (mine * weight) @ theirs.T
        out = order.copy()
        out[first] = second[linear_sum_assignment(square + BOND * changed)[1]]
        return out

    def swapped(self, order: Ints, block: tuple[Ints, Ints]) -> list[Ints]:
        """Orders with two bonded atoms of one kind the other way round."""
        first = block[0]
        bonded = first[self.before[first].any(axis=1) | self.after[order[first]].any(axis=1)]
        out = []
        for one, other in list(combinations(bonded.tolist(), 2))[:SWAPS]:
            trial = order.copy()
            trial[[one, other]] = order[[other, one]]
            out.append(trial)
        return out

    def by_molecules(self, positions: Floats, nearest: Ints) -> Ints:
        """Pair whole molecules of one formula by their centres, and then the atoms of each pair."""
        order = np.full(len(nearest), -1)
        free = np.zeros(len(order), bool)
        free[np.concatenate([first for first, _ in self.blocks])] = True
        old = self.molecules(self.initial, self.initial.positions, self.before, free)
        free = np.zeros(len(order), bool)
        free[np.concatenate([second for _, second in self.blocks])] = True
        new = self.molecules(self.final, positions, self.after, free)
        for formula in sorted(old.keys() & new.keys()):
            mine, theirs = old[formula], new[formula]
            centres = [np.array([where.mean(axis=0) for _, where in side]) for side in (mine, theirs)]
            off = _nearest(centres[1][None] - centres[0][:, None], self.initial)
            for one, other in zip(*linear_sum_assignment((off**2).sum(axis=2)), strict=True):
                (atoms, here), (others, there) = mine[one], theirs[other]
                here, there = here - here.mean(axis=0), there - there.mean(axis=0)
                square = ((here[:, None] - there[None]) ** 2).sum(axis=2)
                square[self.initial.numbers[atoms][:, None] != self.final.numbers[others][None]] = 1e6
                order[atoms] = others[linear_sum_assignment(square)[1]]
        for first, second in self.blocks:
            left, open_ = first[order[first] < 0], np.setdiff1d(second, order[first])
            if len(left) == len(open_) and len(left):
                off = _nearest(positions[open_][None] - self.initial.positions[left][:, None], self.initial)
                order[left] = open_[linear_sum_assignment((off**2).sum(axis=2))[1]]
        order = np.where(order < 0, self.start, order)
        return order if np.array_equal(np.sort(order), np.arange(len(order))) else nearest

    @staticmethod
    def molecules(
        structure: Structure, positions: Floats, bonded: NDArray[np.bool_], free: Mask
    ) -> dict[tuple[int, ...], list[tuple[Ints, Floats]]]:
        """Free atoms of each molecule with unwrapped positions, by their elements; lone atoms are none."""
        graph = bonded & free & free[:, None]
        label = connected_components(coo_array(graph), directed=False)[1]
        unwrapped = _along_bonds(graph, label, positions, structure)
        out: dict[tuple[int, ...], list[tuple[Ints, Floats]]] = {}
        for one in np.unique(label[graph.any(axis=1)]):
            atoms = np.flatnonzero(label == one)
            out.setdefault(tuple(np.sort(structure.numbers[atoms]).tolist()), []).append((atoms, unwrapped[atoms]))
        return out

    def settled(self, positions: Floats, order: Ints) -> Floats:
        """Displacements [n_atoms, 3] of the initial atoms: whole molecules by the shortest image."""
        at, kept = positions[order], self.before & self.after[np.ix_(order, order)]
        if not kept.any():
            return _nearest(at - self.initial.positions, self.initial)
        label = connected_components(coo_array(kept), directed=False)[1]
        moved = _along_bonds(kept, label, at, self.initial) - _along_bonds(
            kept, label, self.initial.positions, self.initial
        )
        i, j = np.nonzero(kept)
        change = _nearest(at[j] - at[i], self.initial) - _nearest(
            self.initial.positions[j] - self.initial.positions[i], self.initial
        )
        torn = np.abs(moved[j] - moved[i] - change).max(axis=1) > 1e-6
        endless = np.isin(label, label[i[torn]])
        # a molecule with held atoms goes where these are, any other where its mean displacement is shortest
        held = np.bincount(label, weights=~self.movable) > 0
        weight = np.where(held[label], ~self.movable, 1.0)
        mean = np.array([np.bincount(label, weights=weight * axis) for axis in moved.T]).T
        mean /= np.bincount(label, weights=weight)[:, None]
        moved = moved + (_nearest(mean, self.initial) - mean)[label]
        return np.where(endless[:, None], _nearest(at - self.initial.positions, self.initial), moved)

    def cost(self, order: Ints, displacement: Floats) -> float:
        """Å²: squared displacements, and ``BOND`` for each bond that the order breaks or forms."""
        changed = np.count_nonzero(self.before ^ self.after[np.ix_(order, order)]) / 2
        return float((displacement**2).sum()) + BOND * changed


def _kinds(initial: Structure, final: Structure) -> tuple[Ints, Ints]:
    """Labels of the atoms of both: the same for one element and, where both have the same moments, one moment."""
    moments = np.round(np.concatenate((initial.magmoms, final.magmoms)), 4) + 0.0
    n = len(initial)
    both = np.column_stack((np.concatenate((initial.numbers, final.numbers)), moments))
    first, second = (part[np.lexsort(part.T)] for part in (both[:n], both[n:]))
    if not np.array_equal(first, second):
        both[:, 1] = 0.0
    labels = np.unique(both, axis=0, return_inverse=True)[1].reshape(-1)
    return labels[:n], labels[n:]


def _along_bonds(graph: NDArray[np.bool_], label: Ints, positions: Floats, structure: Structure) -> Floats:
    """``positions`` with the atoms of each piece of ``graph`` unwrapped along its bonds."""
    if not structure.pbc.any():
        return positions
    n = len(positions)
    roots = np.unique(label, return_index=True)[1]
    i, j = np.nonzero(graph)
    ends = np.concatenate([i, np.full(len(roots), n)]), np.concatenate([j, roots])
    parent = breadth_first_order(coo_array((np.ones(len(ends[0])), ends), (n + 1, n + 1)), n, directed=False)[1]
    parent[n] = n
    child = np.flatnonzero(parent[:n] < n)
    step = np.zeros((n + 1, 3))
    step[child] = _nearest(positions[child] - positions[parent[child]], structure)
    offset, at = np.zeros((n + 1, 3)), np.arange(n + 1)
    while (at < n).any():
        offset += step[at]
        at = parent[at]
    return np.asarray(positions[roots[label]] + offset[:n])

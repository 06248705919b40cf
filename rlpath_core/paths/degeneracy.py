"""How many symmetry copies of a step lead away from one copy of its start, and of its end.

The symmetry of the atoms that do not move, with every exchange of like atoms, brings a step onto its copies. Those that
keep the start as it is give the ways to leave it: their number, where ways that coincide count once. Each way is the
field of displacements from the start to the saddle and on to the end, so that two ways to the same place through
different saddles are two, also where a small cell makes one image of their ends.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from rlpath_core.geometry.cell import Floats, Mask, displacements, wrap_vectors
from rlpath_core.geometry.symmetry import Ints, Symmetry, atom_kinds, isometries, symmetry_operations
from rlpath_core.paths.identity import SAME
from rlpath_core.structure import Structure

PROBES = 8
"""Atoms on which most operations fail, before all are looked at."""


def degeneracies(
    start: Structure,
    saddle: Structure,
    end: Structure,
    movable: Mask,
    operations: Symmetry | None = None,
    within: float = SAME,
) -> tuple[int, int]:
    """Distinct copies of a step that leave one copy of its start, and that lead back from one copy of its end.

    A rate constant times the first number is the rate of all such steps from the start. Where start and end are copies
    of each other by an operation that turns the step round, both numbers count the same ways.

    Parameters
    ----------
    start, saddle, end : Structure
        As a descent from the saddle leaves them: no atom has been renumbered or moved by a lattice vector.
    movable : ndarray of bool, shape (n_atoms,)
        The other atoms are where they were.
    operations : Symmetry, optional
        Of the atoms that do not move, if they are known.
    within : float
        Å: atoms nearer than this coincide.

    Returns
    -------
    tuple of int
        1 and 1 without a group to search: fewer than two periodic directions.
    """
    if saddle.pbc.sum() < 2:
        return 1, 1
    if operations is None and not movable.all():
        operations = symmetry_operations(saddle, ~movable)
    return (
        _ways(start, saddle, end, movable, operations, within),
        _ways(end, saddle, start, movable, operations, within),
    )


def _ways(
    start: Structure, saddle: Structure, end: Structure, movable: Mask, operations: Symmetry | None, within: float
) -> int:
    """Distinct images of the way from ``start`` over ``saddle`` to ``end`` that begin in ``start``."""
    way = np.concatenate([displacements(one, start)[movable] for one in (saddle, end)], axis=1).reshape(-1, 2, 3)
    distinct: list[Floats] = []
    for rotation, onto in _keeping(start, movable, operations, within):
        image = np.empty_like(way)
        image[onto] = way @ rotation.T
        if all(np.linalg.norm(image - other, axis=2).max() > within for other in distinct):
            distinct.append(image)
    return len(distinct)


def _keeping(
    structure: Structure, movable: Mask, operations: Symmetry | None, within: float
) -> list[tuple[Floats, Ints]]:
    """Operations that bring a structure onto itself: rotation, and the movable atom that each one comes to lie on."""
    kinds = atom_kinds(structure.numbers, structure.magmoms)[movable]
    positions = structure.positions[movable]
    if operations is None:
        found = isometries(positions, positions, kinds, structure.cell, structure.pbc, within)
        return list(zip(found.rotations, found.permutations, strict=True))
    images = operations.images(positions)
    kept = np.arange(len(images))
    # what is adsorbed is last as a rule, and off its place under most operations
    for atom in range(len(positions) - 1, max(-1, len(positions) - 1 - PROBES), -1):
        among = positions[kinds == kinds[atom]]
        off = np.linalg.norm(wrap_vectors(images[kept, atom, None] - among, structure), axis=2).min(axis=1)
        kept = kept[off <= within]
    out = []
    for one in kept:
        onto = _paired(images[one], positions, kinds, structure, within)
        if onto is not None:
            out.append((operations.rotations[one], onto))
    return out


def _paired(image: Floats, positions: Floats, kinds: Ints, lattice: Structure, within: float) -> Ints | None:
    """The atom of its kind that each atom of an image lies on; None if one lies on none."""
    onto = np.empty(len(image), np.int64)
    for kind in np.unique(kinds):
        group = np.flatnonzero(kinds == kind)
        distances = np.linalg.norm(wrap_vectors(image[group, None] - positions[group], lattice), axis=2)
        if distances.min(axis=1).max() > within:
            return None
        rows, columns = linear_sum_assignment(distances**2 + 1e6 * (distances > within))
        if distances[rows, columns].max() > within:
            return None
        onto[group[rows]] = group[columns]
    return onto

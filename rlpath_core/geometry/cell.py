"""Unit cells: closing open ones, inverting them, periodic images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rlpath_core.geometry.cached import remembered
from rlpath_core.structure import Structure

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


def full_cell(structure: Structure) -> Floats:
    """The cell [3, 3] with a box of its own wherever a direction is not periodic and has no lattice vector."""
    cell = structure.cell.copy()
    if structure.pbc.all():
        return cell
    extent = np.ptp(structure.positions, axis=0).max() + 20.0
    empty = np.flatnonzero(~structure.pbc)
    cell[empty] = 0.0
    taken = cell[structure.pbc]
    # directions at right angles to the periodic ones: the null space of their rows
    normals = np.linalg.svd(taken, full_matrices=True)[2][len(taken) :] if len(taken) else np.eye(3)
    cell[empty] = normals * extent
    return cell


@remembered
def cell_and_inverse(given: Structure) -> tuple[Floats, Floats]:
    """Of the periodic directions alone: [n_periodic, 3] and [3, n_periodic]."""
    cell, periodic = full_cell(given), np.flatnonzero(given.pbc)
    return cell[periodic], np.asarray(np.linalg.inv(cell)[:, periodic], np.float64)


def nearly_nearest(vectors: Floats, given: Structure) -> Floats:
    """``vectors`` [..., 3] within half of each lattice vector of ``given``: nearest images, or next to them."""
    cell, inverse = cell_and_inverse(given)
    return vectors - np.round(vectors @ inverse) @ cell if len(cell) else vectors


def displacements(after: Structure, before: Structure) -> Floats:
    """[n_atoms, 3] Å from ``before`` to ``after``, in the same cell, by the nearest periodic image."""
    from ase.geometry import find_mic

    moved = after.positions - before.positions
    if not after.pbc.any():
        return moved
    apart = 1 / np.linalg.norm(cell_and_inverse(before)[1], axis=0)
    if 2 * np.linalg.norm(moved, axis=1).max() < apart.min():  # no image can be nearer
        return moved
    return find_mic(moved, full_cell(after), after.pbc)[0]

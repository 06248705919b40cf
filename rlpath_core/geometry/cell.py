"""Unit cells: open directions, fractional coordinates, periodic images. Cells have lattice vectors as rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlpath_core.geometry.cached import cached_on_object
from rlpath_core.structure import Structure

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


def complete_cell(cell: Floats, pbc: Mask) -> Floats:
    """Replace the vectors of open directions by unit vectors at right angles to the periodic ones and to each other.

    Each lies on the side of the vector that it replaces. If that is zero, the cell becomes right-handed.

    Parameters
    ----------
    cell : ndarray, shape (3, 3)
        Å. The vectors of periodic directions are linearly independent.
    pbc : ndarray of bool, shape (3,)

    Returns
    -------
    ndarray, shape (3, 3)
    """
    out = np.array(cell, np.float64)
    if pbc.all():
        return out
    if pbc.sum() == 0:
        out = np.eye(3)
    elif pbc.sum() == 1:
        k = int(np.flatnonzero(pbc)[0])
        first, second = (k + 1) % 3, (k + 2) % 3
        along = cell[k] / np.linalg.norm(cell[k])
        axis = np.eye(3)[first if abs(along[first]) < 0.9 else k]
        normal = axis - (axis @ along) * along
        out[first] = normal / np.linalg.norm(normal)
        out[second] = np.cross(along, out[first])
    else:
        k = int(np.flatnonzero(~pbc)[0])
        normal = np.cross(cell[(k + 1) % 3], cell[(k + 2) % 3])
        out[k] = normal / np.linalg.norm(normal)
    for k in range(3):
        if not pbc[k] and out[k] @ cell[k] < 0:
            out[k] *= -1
    return out


def closed_cell(structure: Structure, margin: float = 20.0) -> Floats:
    """A cell with three lattice vectors: open directions get a box around the atoms.

    Parameters
    ----------
    structure : Structure
    margin : float
        Å between the outermost atoms and their images across an open direction.

    Returns
    -------
    ndarray, shape (3, 3)
        Å; the cell itself if all directions are periodic.
    """
    cell = complete_cell(structure.cell, structure.pbc)
    for k in np.flatnonzero(~structure.pbc):
        cell[k] *= np.ptp(structure.positions @ cell[k]) + margin
    return cell


def fractional(positions: Floats, cell: Floats) -> Floats:
    """Fractional coordinates, not wrapped, of ``positions`` (shape (..., 3), Å) in ``cell``."""
    return np.asarray(positions @ np.linalg.inv(cell), np.float64)


def thickness(cell: Floats) -> Floats:
    """Distances between opposite faces of a cell (shape (3, 3)), along each lattice vector: shape (3,), Å."""
    return np.asarray(1 / np.linalg.norm(np.linalg.inv(cell), axis=0), np.float64)


@dataclass(frozen=True, eq=False)
class Lattice:
    """The periodic directions of a structure.

    Attributes
    ----------
    vectors : ndarray, shape (n_periodic, 3)
        Å.
    inverse : ndarray, shape (3, n_periodic)
        Turns positions into fractional coordinates along the periodic directions.
    thickness : ndarray, shape (n_periodic,)
        Distances between opposite faces of the cell, Å.
    """

    vectors: Floats
    inverse: Floats
    thickness: Floats


@cached_on_object
def lattice(structure: Structure) -> Lattice:
    """The periodic directions of ``structure``; empty arrays for a molecule."""
    cell, periodic = closed_cell(structure), np.flatnonzero(structure.pbc)
    inverse = np.asarray(np.linalg.inv(cell)[:, periodic], np.float64)
    return Lattice(cell[periodic], inverse, 1 / np.linalg.norm(inverse, axis=0))


def wrap_vectors(vectors: Floats, structure: Structure) -> Floats:
    """Bring ``vectors`` (shape (..., 3), Å) to within half of each lattice vector of ``structure``.

    In a cell with right angles these are the shortest images, else the shortest are these or next to them.
    """
    periodic = lattice(structure)
    if not len(periodic.vectors):
        return vectors
    return vectors - np.round(vectors @ periodic.inverse) @ periodic.vectors


def displacements(after: Structure, before: Structure) -> Floats:
    """Vectors from each atom of ``before`` to the nearest image of the same atom in ``after``.

    Parameters
    ----------
    after, before : Structure
        The same atoms in the same cell.

    Returns
    -------
    ndarray, shape (n_atoms, 3)
        Å.
    """
    from ase.geometry import find_mic

    moved = after.positions - before.positions
    if not after.pbc.any():
        return moved
    if 2 * np.linalg.norm(moved, axis=1).max() < lattice(before).thickness.min():  # no image can be nearer
        return moved
    return find_mic(moved, closed_cell(after), after.pbc)[0]

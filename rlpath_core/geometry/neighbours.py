"""Periodic neighbour lists, for cells of any shape, mixed periodicity and no cell at all."""

from __future__ import annotations

from typing import Any

import numpy as np
from matscipy.neighbours import neighbour_list
from numpy.typing import NDArray

from rlpath_core.geometry.cached import cached_on_object
from rlpath_core.geometry.cell import Floats, complete_cell
from rlpath_core.structure import Structure

SAME_PLACE = 0.5
"""Å: two atoms nearer than this are a mistake, whatever the elements; no bond is shorter than 0.7 Å."""


def neighbours(structure: Structure, quantities: str, cutoff: float | Floats) -> tuple[NDArray[Any], ...]:
    """matscipy's neighbour list, with images of an atom itself. Each pair is there in both directions.

    Parameters
    ----------
    structure : Structure
    quantities : str
        Which arrays to return: ``i`` and ``j`` the atoms, ``d`` their distance (Å), ``D`` the vector from ``i`` to
        ``j``'s image (Å).
    cutoff : float or ndarray, shape (n_atoms,)
        Å; an array has a radius for each atom, and atoms are neighbours if their spheres overlap.

    Returns
    -------
    tuple of ndarray, shape (n_pairs, ...)
        Sorted by ``i``.
    """
    positions, pbc, origin = structure.positions, structure.pbc, np.zeros(3)
    cell = complete_cell(structure.cell, pbc)
    if not pbc.all():
        # Open directions get a box around the atoms for binning. A few atoms far apart must not need millions of bins:
        # atoms outside the box are found, too.
        along = positions @ cell[~pbc].T
        longest = float(np.max(cutoff)) * (1 if np.ndim(cutoff) == 0 else 2)
        extent = np.clip(np.ptp(along, axis=0), 1.0, longest * (len(positions) + 1))
        origin = along.min(axis=0) @ cell[~pbc]
        cell[~pbc] *= extent[:, None]
    arrays = neighbour_list(quantities, positions=positions, cell=cell, pbc=pbc, cutoff=cutoff, cell_origin=origin)
    return arrays if isinstance(arrays, tuple) else (arrays,)


def closest_pair(structure: Structure, cutoff: float = SAME_PLACE) -> tuple[int, int, float] | None:
    """The two atoms that are nearest, images counted, and their distance (Å); None beyond ``cutoff`` Å."""
    i, j, d = neighbours(structure, "ijd", cutoff)
    if not len(d):
        return None
    k = int(np.argmin(d))
    return int(i[k]), int(j[k]), float(d[k])


@cached_on_object
def pairs_within(structure: Structure, cutoff: float) -> tuple[NDArray[Any], ...]:
    """``neighbours`` as i, j, distance (shape (n_pairs,)) and vector (shape (n_pairs, 3)), within ``cutoff`` Å."""
    return neighbours(structure, "ijdD", cutoff)


def neighbour_images(structure: Structure, cutoff: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Neighbours as pairs of atoms and the cell that the second one lies in.

    Parameters
    ----------
    structure : Structure
    cutoff : float
        Å.

    Returns
    -------
    pairs : ndarray of int, shape (2, n_pairs)
        Sorted by the first atom; each pair is there in both directions.
    images : ndarray of int, shape (n_pairs, 3)
        Zero along open directions.
    """
    i, j, images = neighbours(structure, "ijS", cutoff)
    return np.stack((i, j)).astype(np.int64), images.astype(np.int64) * structure.pbc


def image_vectors(structure: Structure, pairs: NDArray[np.int64], images: NDArray[np.int64]) -> Floats:
    """Vectors from the first to the second atom of ``neighbour_images``: shape (n_pairs, 3), Å."""
    first, second = pairs
    vectors = structure.positions[second] - structure.positions[first]
    return np.asarray(vectors + images @ periodic_vectors(structure), np.float64)


def periodic_vectors(structure: Structure) -> Floats:
    """The cell (shape (3, 3), Å) with zeros along open directions."""
    return structure.cell * structure.pbc[:, None]

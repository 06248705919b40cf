"""Bonds by covalent radii."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray
from scipy.sparse import coo_array

from rlpath_core.geometry.cached import cached_on_object
from rlpath_core.geometry.cell import Floats, Mask
from rlpath_core.geometry.neighbours import neighbours
from rlpath_core.structure import Structure

BOND_FACTOR = 1.25
"""Atoms nearer than this multiple of the sum of their covalent radii are bonded."""


def sum_radii(structure: Structure, i: NDArray[Any], j: NDArray[Any]) -> Floats:
    """Sum of the covalent radii of each pair.

    Parameters
    ----------
    structure : Structure
    i, j : ndarray of int, shape (n_pairs,)

    Returns
    -------
    ndarray, shape (n_pairs,)
        Å.

    References
    ----------
    Cordero et al., Dalton Trans. 2832 (2008), doi:10.1039/b801115j.
    """
    radii = covalent_radii[structure.numbers]
    return radii[i] + radii[j]


@dataclass(frozen=True, eq=False)
class Bonds:
    """Bonded pairs of different atoms, each in both directions.

    Attributes
    ----------
    i, j : ndarray of int, shape (n_pairs,)
    vector : ndarray, shape (n_pairs, 3)
        From atom ``i`` to the image of ``j`` that it is bonded to, Å.
    """

    i: NDArray[np.int64]
    j: NDArray[np.int64]
    vector: Floats

    @cached_on_object
    def within(self, mask: Mask) -> Bonds:
        """The bonds between atoms of ``mask`` (shape (n_atoms,))."""
        keep = mask[self.i] & mask[self.j]
        return Bonds(self.i[keep], self.j[keep], self.vector[keep])

    def graph(self, n: int) -> coo_array:
        """Adjacency matrix of ``n`` atoms; entries count the bonds to different images."""
        return coo_array((np.ones(len(self.i)), (self.i, self.j)), shape=(n, n))


@cached_on_object
def bonds(structure: Structure, factor: float = BOND_FACTOR, cap: float | None = None) -> Bonds:
    """Pairs of atoms that are bonded by their distance.

    Parameters
    ----------
    structure : Structure
    factor : float
        Longest bond, as a multiple of the sum of the covalent radii.
    cap : float, optional
        Longest bond, Å.

    Returns
    -------
    Bonds
        Without bonds of an atom to an image of itself.
    """
    i, j, d, vector = neighbours(structure, "ijdD", covalent_radii[structure.numbers] * factor)
    keep = i != j
    if cap is not None:
        keep &= d <= cap
    return Bonds(i[keep].astype(np.int64), j[keep].astype(np.int64), vector[keep])

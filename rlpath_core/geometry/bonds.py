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


def sum_radii(structure: Structure, i: NDArray[Any], j: NDArray[Any]) -> Floats:
    """Sum of covalent radii (Cordero 2008, doi:10.1039/b801115j) of each pair, Å."""
    radii = covalent_radii[structure.numbers]
    return radii[i] + radii[j]


@dataclass(frozen=True, eq=False)
class Bonds:
    """Bonded pairs, each in both directions: ``vector`` [n_pairs, 3] leads from ``i`` to ``j``'s image."""

    i: NDArray[np.int64]
    j: NDArray[np.int64]
    vector: Floats

    @cached_on_object
    def within(self, mask: Mask) -> Bonds:
        keep = mask[self.i] & mask[self.j]
        return Bonds(self.i[keep], self.j[keep], self.vector[keep])

    def graph(self, n: int) -> coo_array:
        return coo_array((np.ones(len(self.i)), (self.i, self.j)), shape=(n, n))


@cached_on_object
def bonds(structure: Structure, factor: float = BOND_FACTOR, cap: float | None = None) -> Bonds:
    """Pairs nearer than ``factor`` x the sum of their covalent radii, and than ``cap`` Å."""
    i, j, d, vector = neighbours(structure, "ijdD", covalent_radii[structure.numbers] * factor)
    keep = i != j
    if cap is not None:
        keep &= d <= cap
    return Bonds(i[keep].astype(np.int64), j[keep].astype(np.int64), vector[keep])

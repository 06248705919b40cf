"""Which atoms are joined by a stick: what a chemist would draw, periodic images included."""

from __future__ import annotations

import numpy as np

from rlpath_core.geometry.bonds import Bonds
from rlpath_core.geometry.bonds import bonds as by_radii
from rlpath_core.structure import Structure

NONMETALS = np.zeros(119, bool)
NONMETALS[[1, 2, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17, 18, 33, 34, 35, 36, 52, 53, 54, 85, 86]] = True


def drawn_bonds(structure: Structure) -> Bonds:
    """Every bond from both of its ends; ``vector`` [n, 3] Å leads from atom i to the bonded image of j.

    Of the pairs that covalent radii alone would join, those are left out that nobody draws: metal to metal within an
    oxide or the like (either has two or more bonds to nonmetals), and metal to a hydrogen that hangs on a nonmetal.
    """
    found = by_radii(structure)
    i, j = found.i, found.j
    nonmetal = NONMETALS[structure.numbers]
    partners = np.bincount(i[nonmetal[j]], minlength=len(structure))
    in_oxide = ~nonmetal & (partners >= 2)
    hanging = (structure.numbers == 1) & (partners >= 1)
    drop = ~nonmetal[i] & ~nonmetal[j] & (in_oxide[i] | in_oxide[j])
    drop |= (hanging[i] & ~nonmetal[j]) | (hanging[j] & ~nonmetal[i])
    return Bonds(i[~drop], j[~drop], found.vector[~drop])

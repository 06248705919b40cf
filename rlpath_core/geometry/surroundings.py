"""Distances from a few atoms to everything around them, for the many structures of one walk."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlpath_core.geometry.cached import remembered
from rlpath_core.geometry.cell import Floats, Mask, cell_and_inverse, nearly_nearest
from rlpath_core.geometry.neighbours import neighbours
from rlpath_core.geometry.slab import Roles
from rlpath_core.structure import Structure

FEW = 30_000
"""So many pairs of a centre and an image cost less in one expression than a cell list does."""


class Surroundings:
    """What lies within ``cutoff`` Å of the ``centres``, in structures with the atoms and the cell of ``template``.

    All images that can be near are worked out beforehand. Where they are many, a neighbour list takes over.
    """

    def __init__(self, template: Structure, centres: Mask, cutoff: float) -> None:
        self.template, self.centres, self.cutoff = template, centres, cutoff
        self.rows = np.flatnonzero(centres)
        cell, inverse = cell_and_inverse(template)
        # a vector that was brought to within half a cell, and so many cells more
        height = 1 / np.linalg.norm(inverse, axis=0)
        reach = np.floor(cutoff / height + 0.5).astype(int)
        away = list(product(*(range(-n, n + 1) for n in reach)))
        steps = np.array(away, np.float64).reshape(len(away), len(reach))
        self.translations: Floats = steps @ cell
        self.squares = (self.translations**2).sum(axis=1)
        self.itself = int((steps == 0).all(axis=1).argmax())
        self.few = len(self.rows) * len(template) * len(steps) <= FEW

    def pairs(self, structure: Structure) -> tuple[NDArray[Any], NDArray[Any], Floats]:
        """Which of the centres [n_pairs], which atom [n_pairs], their distance in Å [n_pairs]; images included."""
        if not self.few:
            i, j, d = neighbours(structure, "ijd", self.cutoff)
            keep = self.centres[i]
            return (np.cumsum(self.centres) - 1)[i[keep]], j[keep], d[keep]
        positions = structure.positions
        vector = positions - positions[self.rows][:, None]
        vector = nearly_nearest(vector, self.template)
        square = 2 * (vector @ self.translations.T)
        square += self.squares
        square += np.einsum("ijx,ijx->ij", vector, vector)[:, :, None]
        square[np.arange(len(self.rows)), self.rows, self.itself] = np.inf
        i, j, t = np.nonzero(square < self.cutoff**2)
        return i, j, np.sqrt(np.maximum(square[i, j, t], 0.0))


@remembered
def around_movable(roles: Roles, cutoff: float) -> Surroundings:
    return Surroundings(roles.given, roles.movable, cutoff)

"""Distances from a few atoms to everything around them, for the many structures of one walk."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlpath_core.geometry.cached import cached_on_object
from rlpath_core.geometry.cell import Floats, Mask, lattice, wrap_vectors
from rlpath_core.geometry.neighbours import neighbours
from rlpath_core.geometry.roles import Roles
from rlpath_core.structure import Structure

MAX_PAIRS = 30_000
"""Up to this number of pairs of a centre and an image, one array expression is faster than a cell list."""


class LocalEnvironment:
    """Pairs within ``cutoff`` of the ``centres``, in structures with the atoms and the cell of ``template``.

    All images that can be near are worked out once. If there are many, a neighbour list is used.

    Parameters
    ----------
    template : Structure
    centres : ndarray of bool, shape (n_atoms,)
    cutoff : float
        Å.
    """

    def __init__(self, template: Structure, centres: Mask, cutoff: float) -> None:
        self.template, self.centres, self.cutoff = template, centres, cutoff
        self.rows = np.flatnonzero(centres)
        periodic = lattice(template)
        # for vectors wrapped to within half a cell
        reach = np.floor(cutoff / periodic.thickness + 0.5).astype(int)
        images = list(product(*(range(-n, n + 1) for n in reach)))
        steps = np.array(images, np.float64).reshape(len(images), len(reach))
        self.translations: Floats = steps @ periodic.vectors
        self.squares = (self.translations**2).sum(axis=1)
        self.itself = int((steps == 0).all(axis=1).argmax())
        self.enumerated = len(self.rows) * len(template) * len(steps) <= MAX_PAIRS

    def pairs(self, structure: Structure) -> tuple[NDArray[Any], NDArray[Any], Floats]:
        """Pairs of a centre and an atom, images included.

        Returns
        -------
        centre : ndarray of int, shape (n_pairs,)
            Index among the centres.
        atom : ndarray of int, shape (n_pairs,)
        distance : ndarray, shape (n_pairs,)
            Å.
        """
        if not self.enumerated:
            i, j, d = neighbours(structure, "ijd", self.cutoff)
            keep = self.centres[i]
            return (np.cumsum(self.centres) - 1)[i[keep]], j[keep], d[keep]
        positions = structure.positions
        vector = positions - positions[self.rows][:, None]
        vector = wrap_vectors(vector, self.template)
        square = 2 * (vector @ self.translations.T)
        square += self.squares
        square += np.einsum("ijx,ijx->ij", vector, vector)[:, :, None]
        square[np.arange(len(self.rows)), self.rows, self.itself] = np.inf
        i, j, t = np.nonzero(square < self.cutoff**2)
        return i, j, np.sqrt(np.maximum(square[i, j, t], 0.0))


@cached_on_object
def movable_environment(roles: Roles, cutoff: float) -> LocalEnvironment:
    """The environment of all movable atoms."""
    return LocalEnvironment(roles.given, roles.movable, cutoff)

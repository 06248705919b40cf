"""Tabu memory: trials too close to earlier starts or ends of relaxations are drawn again.

As in tabu search (doi:10.1287/ijoc.1.3.190), but in the space of neighbour distances that basins are identified by, so
that a structure and its image under a symmetry of the surface are one. Drawing again costs no force call.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rlpath_core.geometry.roles import Roles
from rlpath_core.sampling.basins import HistogramBasins, in_parts
from rlpath_core.sampling.options import BasinOptions
from rlpath_core.structure import Structure

CAPACITY = 512
"""Number of structures that are remembered, the latest ones."""
COMPARED = 16
"""Atoms are matched with those of this many structures, the ones whose lower bounds are smallest."""


class TabuMemory:
    """Earlier trials and minima of the walk from one given structure.

    Kept are the positions of the movable atoms, and the fingerprints of the atoms that actions choose from.
    """

    def __init__(self, options: BasinOptions, roles: Roles) -> None:
        self.given, self.movable = roles.given, roles.movable
        self.measure = HistogramBasins(options, roles.given, replace(roles, movable=roles.active))
        self.positions: list[NDArray[np.float64]] = []
        self.atoms = np.empty((2 * CAPACITY, *self.measure.fingerprint(roles.given).shape), np.float32)
        """Fingerprints, the latest last."""
        self.count = 0
        self.totals = np.empty((2 * CAPACITY, self.measure.totals.shape[1]), np.float32)
        """Fingerprints summed over the atoms of each element: lower bounds of distances."""
        self.coarse = np.empty((2 * CAPACITY, in_parts(self.measure.totals).shape[1]), np.float32)
        """The totals in few bins: cheaper and weaker lower bounds."""
        self.last: tuple[Structure, NDArray[np.float32]] | None = None

    def add(self, structure: Structure) -> None:
        """Remember a structure."""
        if self.count == len(self.totals):
            self.count = CAPACITY
            for array in (self.atoms, self.totals, self.coarse):
                array[:CAPACITY] = array[-CAPACITY:]
            self.positions = self.positions[-CAPACITY:]
        atoms = self._fingerprint(structure)
        total = self.measure.total(atoms)
        self.atoms[self.count], self.totals[self.count] = atoms, total
        self.coarse[self.count] = in_parts(total)
        self.count += 1
        self.positions.append(structure.positions[self.movable])

    def distance(self, structure: Structure, enough: float = float("inf")) -> float:
        """Å from the nearest remembered structure: the largest mean shift of an atom's distances to its neighbours.

        A distance of ``enough`` or more need not be exact: a lower bound that is as large is returned instead.
        """
        if not self.count:
            return float("inf")
        atoms = self._fingerprint(structure)
        total = self.measure.total(atoms)
        first, limit = max(0, self.count - CAPACITY), enough * len(atoms)
        lower = np.abs(self.coarse[first : self.count] - in_parts(total)).sum(axis=1)
        if (least := float(lower.min())) >= limit:
            return least / len(atoms)
        near = first + np.flatnonzero(lower < limit)
        lower = np.abs(self.totals[near] - total).sum(axis=1)
        if (least := float(lower.min())) >= limit:
            return least / len(atoms)
        nearest = near[np.argsort(lower, kind="stable")[:COMPARED]]
        return float(self.measure.shifts(atoms, self.atoms[nearest]).min())

    def _fingerprint(self, structure: Structure) -> NDArray[np.float32]:
        """Cached: the structure compared last is usually the one added next."""
        if self.last is None or self.last[0] is not structure:
            self.last = structure, self.measure.fingerprint(structure)
        return self.last[1]

    def state(self) -> NDArray[np.float64]:
        """[n, n_movable, 3] Å: positions of the movable atoms, the latest last."""
        return np.array(self.positions[-CAPACITY:]).reshape(-1, int(self.movable.sum()), 3)

    def load(self, state: NDArray[np.float64]) -> None:
        """Continue from ``state()``."""
        for movable in state:
            positions = self.given.positions.copy()
            positions[self.movable] = movable
            self.add(self.given.moved(positions))

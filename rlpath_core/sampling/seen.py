"""Where attempts have been: what lies near a place that a quench began or ended in is hardly worth another.

As in tabu search (doi:10.1287/ijoc.1.3.190), but in the space of neighbour distances that basins are told apart by, so
that a place and its image under a symmetry of the surface are one. Drawing again costs no force call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlpath_core.geometry.slab import Roles
from rlpath_core.sampling.arrays import reading_arrays, write_arrays
from rlpath_core.sampling.basins import HistogramBasins, in_parts
from rlpath_core.sampling.options import BasinOptions
from rlpath_core.structure import Structure

KEPT = 512
"""Places that are remembered, the latest ones."""
COMPARED = 16
"""The matching of atoms is worked out for so many of them, those with the most similar neighbourhoods on the whole."""
NAME = "seen"


class Seen:
    """Places of the walk from one given structure: where its movable atoms were, and how those that actions choose from
    are surrounded there."""

    def __init__(self, options: BasinOptions, roles: Roles) -> None:
        self.given, self.movable = roles.given, roles.movable
        self.measure = HistogramBasins(options, roles.given, replace(roles, movable=roles.active))
        self.positions: list[NDArray[np.float64]] = []
        self.atoms = np.empty((2 * KEPT, *self.measure.fingerprint(roles.given).shape), np.float32)
        """Fingerprints, the latest last."""
        self.count = 0
        self.rows = np.empty((2 * KEPT, self.measure.totals.shape[1]), np.float32)
        """Summed ones."""
        self.coarse = np.empty((2 * KEPT, in_parts(self.measure.totals).shape[1]), np.float32)
        """And their parts, summed again: bounds of bounds, a few numbers for each place."""
        self.last: tuple[Structure, NDArray[np.float32]] | None = None

    def add(self, structure: Structure) -> None:
        if self.count == len(self.rows):
            self.count = KEPT
            for array in (self.atoms, self.rows, self.coarse):
                array[:KEPT] = array[-KEPT:]
            self.positions = self.positions[-KEPT:]
        atoms = self._fingerprint(structure)
        total = self.measure.total(atoms)
        self.atoms[self.count], self.rows[self.count] = atoms, total
        self.coarse[self.count] = in_parts(total)
        self.count += 1
        self.positions.append(structure.positions[self.movable])

    def distance(self, structure: Structure, enough: float = float("inf")) -> float:
        """Å from the nearest place: the most that an atom's distances to its neighbours shift, in their mean.

        No less than ``enough`` is as good as any more: where a lower bound says so it is the answer.
        """
        if not self.count:
            return float("inf")
        atoms = self._fingerprint(structure)
        total = self.measure.total(atoms)
        first, limit = max(0, self.count - KEPT), enough * len(atoms)
        lower = np.abs(self.coarse[first : self.count] - in_parts(total)).sum(axis=1)
        if (least := float(lower.min())) >= limit:
            return least / len(atoms)
        known = first + np.flatnonzero(lower < limit)
        lower = np.abs(self.rows[known] - total).sum(axis=1)
        if (least := float(lower.min())) >= limit:
            return least / len(atoms)
        near = known[np.argsort(lower, kind="stable")[:COMPARED]]
        return float(self.measure.shifts(atoms, self.atoms[near]).min())

    def _fingerprint(self, structure: Structure) -> NDArray[np.float32]:
        """What was compared last is what is added next, as a rule."""
        if self.last is None or self.last[0] is not structure:
            self.last = structure, self.measure.fingerprint(structure)
        return self.last[1]


def save(run_dir: Path, number: int, places: Sequence[Seen]) -> None:
    """Write what checkpoint ``number`` needs."""
    arrays = {
        str(k): np.array(one.positions[-KEPT:]).reshape(-1, int(one.movable.sum()), 3) for k, one in enumerate(places)
    }
    write_arrays(run_dir, NAME, number, arrays)


def load(run_dir: Path, number: int, places: Sequence[Seen]) -> None:
    """Fill ``places`` with what ``save`` kept. Raises InputError, which names the file, where it cannot be read."""
    with reading_arrays(run_dir, NAME, number) as arrays:
        kept = [arrays[str(k)] for k in range(len(places))]
    for one, positions in zip(places, kept, strict=True):
        for movable in positions:
            whole = one.given.positions.copy()
            whole[one.movable] = movable
            one.add(one.given.moved(whole))

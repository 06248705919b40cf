"""Basins: whether a minimum is one of the known ones.

The fingerprint of an atom is the cumulative histogram of its distances to each element, periodic images included,
tapered smoothly to nothing at the cutoff and spread linearly over two bins, so that it changes continuously with every
distance and no bin edge matters. The area between two such curves, over the atom's usual number of neighbours, is
the mean shift of its distances in Å (the one-dimensional earth mover's distance between its two sets of
neighbours). Two minima are one when their energies lie within the window and their atoms can be matched element by
element (Hungarian assignment) so that no atom's shift exceeds the tolerance.

The decision is exact by this definition, and fast: many known basins at once are first compared by lower bounds of the
matched sum, so that no match is lost. The first bound is the sum over the atoms of one element, the second the sorted
values of each part of the curves among these atoms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from rlpath_core.geometry.environment import LocalEnvironment
from rlpath_core.geometry.roles import Roles
from rlpath_core.registry import Registry
from rlpath_core.sampling.options import BasinOptions
from rlpath_core.structure import Structure

COARSE = 8
"""Number of bins in a part: the second bound compares the parts' values in order of size."""
ROUNDING = 1 + 1e-4
"""Factor for the rounding errors of fingerprints, which are in single precision."""


class BasinIndex(ABC):
    """Known minima of one composition. Numbers are given by the caller, in the order of ``add``."""

    def __init__(self, options: BasinOptions, template: Structure, roles: Roles) -> None:
        self.options = options
        self.template = template
        self.roles = roles

    @abstractmethod
    def add(self, number: int, structure: Structure, energy: float) -> None: ...

    @abstractmethod
    def find(self, structure: Structure, energy: float) -> int | None:
        """The number of the nearest known minimum that this one is the same as, None for a new one."""


BASINS: Registry[type[BasinIndex]] = Registry("basin", "rlpath.basins")


def histograms(structure: Structure, environment: LocalEnvironment, width: float) -> NDArray[np.float64]:
    """Tapered, linearly spread neighbour histograms of the centres of ``environment``: [n_centres, n_elements, n_bins].

    Elements are the structure's own, sorted. The weight of a neighbour falls as (1 + cos(pi d / cutoff)) / 2. Each
    distance is shared between the two bins whose centres it lies between.
    """
    present = np.bincount(structure.numbers) > 0
    kind = (np.cumsum(present) - 1)[structure.numbers]
    cutoff = environment.cutoff
    i, j, d = environment.pairs(structure)
    n_bins = int(np.ceil(cutoff / width)) + 1
    place = d / width
    lower = place.astype(int)
    share = place - lower
    weight = 0.5 * (1 + np.cos(np.pi * d / cutoff))
    shape = (len(environment.rows), int(present.sum()), n_bins)
    row = (i * shape[1] + kind[j]) * n_bins
    flat, flat_next = row + np.minimum(lower, n_bins - 1), row + np.minimum(lower + 1, n_bins - 1)
    size = int(np.prod(shape))
    out = np.bincount(flat, weight * (1 - share), size) + np.bincount(flat_next, weight * share, size)
    return np.asarray(out, np.float64).reshape(shape)


def in_parts(curves: NDArray[np.float32]) -> NDArray[np.float32]:
    """[..., n_parts]: sums of ``COARSE`` neighbouring bins of ``curves`` [..., n_bins]."""
    return np.add.reduceat(curves, np.arange(0, curves.shape[-1], COARSE), axis=-1)


@BASINS.register("histogram")
class HistogramBasins(BasinIndex):
    """See the module's text. Costs O(known basins within the energy window) vector operations per question."""

    def __init__(self, options: BasinOptions, template: Structure, roles: Roles) -> None:
        super().__init__(options, template, roles)
        self.kinds = template.numbers[roles.movable]
        self.elements = np.unique(self.kinds)
        self.groups = [np.flatnonzero(self.kinds == z) for z in self.elements]
        self.environment = LocalEnvironment(template, roles.movable, options.cutoff)
        start = histograms(template, self.environment, options.bin).sum(axis=(1, 2))
        # neighbours per atom of each element; never below one, so that a lone atom has a scale too
        norm = np.array([max(1.0, float(start[self.kinds == z].mean())) for z in self.elements])
        self.norm = norm[np.searchsorted(self.elements, self.kinds)]
        self.numbers: list[int] = []
        self.energies = np.empty(0)
        self.totals = np.empty((0, len(self.total(self.fingerprint(template)))), np.float32)
        self.atoms: list[NDArray[np.float32]] = []
        self.ordered: list[NDArray[np.float32]] = []

    def fingerprint(self, structure: Structure) -> NDArray[np.float32]:
        """[n_movable, n_elements * n_bins] Å: cumulative histograms, scaled so that an L1 distance is a mean shift."""
        counts = histograms(structure, self.environment, self.options.bin)
        curve = np.cumsum(counts, axis=2).reshape(len(counts), -1) * self.options.bin / self.norm[:, None]
        return curve.astype(np.float32)

    def total(self, atoms: NDArray[np.float32]) -> NDArray[np.float32]:
        """The fingerprints of each element's atoms, summed: no permutation changes it."""
        return np.concatenate([atoms[group].sum(axis=0) for group in self.groups])

    def _ordered(self, atoms: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n_movable, n_parts]: each part's values in order of size, within every element."""
        parts = in_parts(atoms)
        for group in self.groups:
            parts[group] = np.sort(parts[group], axis=0)
        return parts

    def add(self, number: int, structure: Structure, energy: float) -> None:
        atoms = self.fingerprint(structure)
        total = self.total(atoms)
        count = len(self.numbers)
        if count == len(self.energies):  # doubled, so that adding stays cheap
            room = max(16, 2 * count)
            energies, totals = np.full(room, np.inf), np.zeros((room, len(total)), np.float32)
            energies[:count], totals[:count] = self.energies[:count], self.totals[:count]
            self.energies, self.totals = energies, totals
        self.energies[count], self.totals[count] = energy, total
        self.numbers.append(number)
        self.atoms.append(atoms)
        self.ordered.append(self._ordered(atoms))

    def find(self, structure: Structure, energy: float) -> int | None:
        nearest = self._nearest(structure, energy, all_of_them=False)
        return nearest[0] if nearest else None

    def matches(self, structure: Structure, energy: float) -> list[int]:
        """The numbers of all known minima that this one may be, the nearest first."""
        return self._nearest(structure, energy, all_of_them=True)

    def _nearest(self, structure: Structure, energy: float, all_of_them: bool) -> list[int]:
        near = np.flatnonzero(np.abs(self.energies - energy) <= self.options.energy_window)
        if len(near) == 0:
            return []
        atoms = self.fingerprint(structure)
        # if every matched shift is within the tolerance, their sum is at most n_movable x tolerance
        bound = len(self.kinds) * self.options.tolerance * ROUNDING
        near = near[np.abs(self.totals[near] - self.total(atoms)).sum(axis=1) <= bound]
        if len(near) == 0:
            return []
        lower = np.abs(np.stack([self.ordered[k] for k in near]) - self._ordered(atoms)).sum(axis=(1, 2))
        best, found = self.options.tolerance, []
        for k in np.argsort(lower, kind="stable"):
            if lower[k] > len(self.kinds) * best * ROUNDING:
                break
            shift = self.shift(atoms, self.atoms[near[k]])
            if shift <= best:
                best = best if all_of_them else shift
                found.append((shift, self.numbers[near[k]]))
        found.reverse()  # of equally near ones, ``find`` takes the last
        return [number for _, number in sorted(found, key=lambda one: one[0])]

    def shift(self, a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
        """Largest shift of an atom, Å, under the element-wise assignment with the smallest sum of squares."""
        return float(self.shifts(a, b[None])[0])

    def shifts(self, a: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
        """``shift`` from ``a`` to each of ``others`` [n, n_movable, n_elements * n_bins]: [n]."""
        worst = np.zeros(len(others), np.float32)
        for group in self.groups:
            mine, theirs = a[group][:, None], others[:, None, group]
            if (
                len(group) > 2
            ):  # one after the other: assignments are solved one by one, and each cost matrix stays in the cache
                shifts = np.array([_assigned(np.abs(mine - one).sum(axis=2)) for one in theirs], np.float32)
            else:
                shifts = _assigned_pairs(np.abs(mine - theirs).sum(axis=3))
            worst = np.maximum(worst, shifts)
        return worst


def _assigned(cost: NDArray[np.float32]) -> float:
    """Largest element of ``cost`` [m, m] that the assignment with the smallest sum of squares uses."""
    return float(cost[linear_sum_assignment(cost**2)].max())


def _assigned_pairs(cost: NDArray[np.float32]) -> NDArray[np.float32]:
    """``_assigned`` of each matrix in [n, 1, 1] or [n, 2, 2], which have one or two assignments: [n]."""
    if cost.shape[1] == 1:
        return cost[:, 0, 0]
    square = cost**2
    straight = square[:, 0, 0] + square[:, 1, 1] <= square[:, 0, 1] + square[:, 1, 0]
    ways = np.maximum(cost[:, 0, 0], cost[:, 1, 1]), np.maximum(cost[:, 0, 1], cost[:, 1, 0])
    return np.where(straight, *ways)

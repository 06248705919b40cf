"""Near-duplicates of periodic structures in which nothing is fixed, under the lattice's point group and every shift.

What is found is certain: a rotation, a shift and an assignment of atoms with an RMSD within the threshold. That all is
found is not proven, as it is for structures with fixed atoms: of the shifts, which are without number, those are tried
that bring atoms with like surroundings onto each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement

import numpy as np
from scipy.spatial.distance import cdist

from rlpath_core.geometry.symmetry import LATTICE_TOLERANCE, lattice_rotations
from rlpath_core.outbox.canonicalize import Canonical, Floats
from rlpath_core.outbox.group import Found, Group, View
from rlpath_core.outbox.nearby import Ints

FEATURES = 256
"""Longer lists of distances are averaged in runs: their difference only becomes smaller."""
ENTRIES = 1_000_000
"""Vectors in one array at most."""
CLOSEST, SEARCHED = 64, 8
"""Earlier structures whose surroundings are compared, and those of them that a rotation and a shift are sought for.

A duplicate is nearly always the nearest by both; only time limits their number."""
ORIGINS, PARTNERS = 8, 2
"""Atoms that are brought onto others, and onto how many each: those whose surroundings are most alike."""
PROBES, PROBED = 4, 64
"""Atoms of each kind that are looked at first, and the pairs of a rotation and a shift for which all are."""
REFINED = 6
"""Pairs of a rotation and a shift, the best by nearest atoms, whose atoms are assigned one to one."""
PROMISING = 2.0
"""How much larger than the threshold the RMSD to nearest atoms may be before the shift is improved."""


class CrystalCopies(Group):
    """Periodic structures without fixed atoms."""

    def __init__(self, reference: Canonical, threshold: float) -> None:
        super().__init__(reference, threshold)
        self.rotations = lattice_rotations(reference.cell, reference.pbc)
        unit = self.images.cell[~reference.pbc]
        self.is_open = unit.T @ unit
        self.pairs = [
            (one[i], other[j])
            for one, other in combinations_with_replacement(self.blocks, 2)
            for i, j in [
                np.triu_indices(len(one), 1) if one is other else np.indices((len(one), len(other))).reshape(2, -1)
            ]
        ]
        self.run = -(-sum(len(i) for i, _ in self.pairs) // FEATURES)

    @property
    def reach(self) -> float:
        return self.threshold + 2 * LATTICE_TOLERANCE

    def screen(self, aligned: Floats) -> Floats:
        """Sorted distances between atoms, by pair of kinds."""
        each = sum(len(i) for i, _ in self.pairs) * len(self.images.shifts)
        step = max(1, ENTRIES // max(each, 1))
        parts = [self._distances(aligned[start : start + step]) for start in range(0, len(aligned), step)]
        return np.concatenate(parts) / aligned.shape[1]

    def _distances(self, positions: Floats) -> Floats:
        rows = [np.zeros((len(positions), 0))]
        for i, j in self.pairs:
            if len(i):
                row = np.sort(np.linalg.norm(self.nearest_image(positions[:, i] - positions[:, j]), axis=-1), axis=1)
                starts = np.arange(0, len(i), self.run)
                length = np.diff(np.append(starts, len(i)))
                rows.append(np.add.reduceat(row, starts, axis=1) / np.sqrt(length))
        return np.concatenate(rows, axis=1)

    def seen(self, aligned: Floats) -> list[View]:
        return [View(positions, self._surroundings(positions)) for positions in aligned]

    def first_within(self, earlier: Sequence[View], own: View) -> Found | None:
        bounds = np.array([self._lower_bound(own.features, other.features) for other in earlier[:CLOSEST]])
        for place in np.argsort(bounds, kind="stable")[:SEARCHED].tolist():
            if bounds[place] > self.reach:
                break
            distance, rotation = self.nearest(earlier[place], own)
            if distance <= self.threshold:
                return Found(place, distance, by_symmetry=rotation > 0)
        return None

    def _surroundings(self, position: Floats) -> Floats:
        """[n, n]: each atom's distances to all, sorted within each kind."""
        distances = np.linalg.norm(self.nearest_image(position[:, None] - position), axis=-1)
        return np.concatenate([np.sort(distances[:, block], axis=1) for block in self.blocks], axis=1)

    def _lower_bound(self, one: Floats, other: Floats) -> float:
        """Of the RMSD: each atom with the one of its kind whose surroundings are most like its own."""
        total = sum(cdist(one[b], other[b], "sqeuclidean").min(axis=1).sum() for b in self.blocks)
        return float(np.sqrt(total / 2) / len(one))

    def nearest(self, one: View, other: View) -> tuple[float, int]:
        """The smallest RMSD in Å over rotations, shifts and assignments of equal kinds, and the rotation's index.

        A few atoms are brought onto those with the same surroundings; the best of these shifts are then improved,
        assignment and mean shift in turn. Ends at the first that is within the threshold.
        """
        first, turned = one.positions, other.positions @ self.rotations.swapaxes(1, 2)
        which, shifts = self._shifts(first, turned, *self._partners(one.features, other.features))
        missed = self._missed(
            first, turned, which, shifts, [block[:: -(-len(block) // PROBES)] for block in self.blocks]
        )
        some = np.argsort(missed, kind="stable")[:PROBED]
        missed = self._missed(first, turned, which[some], shifts[some], self.blocks)
        best, rotation = np.inf, 0
        for k in np.argsort(missed, kind="stable")[:REFINED].tolist():
            if missed[k] > PROMISING * self.threshold and np.isfinite(best):
                break
            distance = self._improved(first, turned[which[some[k]]] + shifts[some[k]])
            if distance < best:
                best, rotation = distance, int(which[some[k]])
            if best <= self.threshold:
                break
        return best, rotation

    def _missed(self, first: Floats, turned: Floats, which: Ints, shifts: Floats, atoms: list[Ints]) -> Floats:
        """Å: how far some turned and shifted atoms of each kind lie from the nearest of their kind, RMS."""
        total = np.zeros(len(which))
        for some, block in zip(atoms, self.blocks, strict=True):
            for start in range(0, len(which), step := max(1, ENTRIES // (len(some) * len(block)))):
                part = slice(start, start + step)
                off = first[block] - (turned[which[part]][:, some] + shifts[part][:, None])[:, :, None]
                off -= np.round(off @ self.images.inverse * self.images.pbc) @ self.images.cell
                total[part] += (off**2).sum(axis=3).min(axis=2).sum(axis=1)
        return np.sqrt(total / sum(map(len, atoms)))

    def _partners(self, one: Floats, other: Floats) -> tuple[Ints, Ints]:
        """Pairs of atoms of one kind, the most alike by their surroundings."""
        unlike = np.full((len(one), len(one)), np.inf)
        for block in self.blocks:
            unlike[np.ix_(block, block)] = cdist(one[block], other[block], "sqeuclidean")
        partners = np.argsort(unlike, axis=1, kind="stable")[:, :PARTNERS]
        origins = np.argsort(unlike.min(axis=1), kind="stable")[:ORIGINS]
        pairs = [(a, b) for a in origins for b in partners[a] if np.isfinite(unlike[a, b])]
        return np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])

    def _shifts(self, first: Floats, turned: Floats, origins: Ints, partners: Ints) -> tuple[Ints, Floats]:
        """Rotations (by index) and shifts; along open directions, centre comes to lie on centre."""
        shifts = first[origins] - turned[:, partners]
        centres = (first.mean(axis=0) - turned.mean(axis=1))[:, None]
        shifts = shifts + (centres - shifts) @ self.is_open
        return np.repeat(np.arange(len(turned)), len(origins)), shifts.reshape(-1, 3)

    def _improved(self, first: Floats, second: Floats) -> float:
        best = np.inf
        for _ in range(10):
            order, value = self._assigned(first, second)
            if value >= best - 1e-12:
                break
            best = value
            second = second + self.nearest_image(first - second[order]).mean(axis=0)
        return float(np.sqrt(best))

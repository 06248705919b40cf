"""Near-duplicates within a group of structures: RMSD over movable atoms, periodic, equal elements exchangeable.

Exact comparisons are Hungarian assignments and expensive, so each is preceded by a bound: per element, the sorted
values of functions that change by at most the distance an atom moves. Sorting minimises the squared difference of two
lists, so the distance of two such descriptors never exceeds the RMSD under any assignment of atoms. A pair that the
bound rules out is no duplicate, so the decisions equal those of comparing all pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from rlpath_core.outbox.canonicalize import Canonical, Floats
from rlpath_core.outbox.nearby import Nearby

MISPLACED = 0.3
"""Å, RMS: anchors that lie closer to the reference's are in the same frame, and need only their mean shift."""
EMPTY = np.zeros(0)
FLIPS = tuple(np.diag(signs) for signs in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)))


@dataclass(frozen=True)
class Match:
    """An earlier structure within the threshold, the RMSD to it in Å, and whether only to a symmetry image of it."""

    id: str
    rmsd: float
    by_symmetry: bool = False


@dataclass(frozen=True)
class Found:
    """The place of a structure in a list, the RMSD to it in Å, and whether only to a symmetry image of it."""

    place: int
    rmsd: float
    by_symmetry: bool = False


@dataclass(frozen=True, eq=False)
class View:
    """What is kept of a structure: movable atoms in the group's frame ([n_movable, 3], Å), and what describes them."""

    positions: Floats
    features: Floats


class Group:
    """Structures of one key with the same fixed atoms, aligned on the anchors of the first.

    Parameters
    ----------
    reference
        The first structure.
    threshold
        Å; two structures with an RMSD at or below it are duplicates.
    """

    def __init__(self, reference: Canonical, threshold: float = 0.0) -> None:
        self.reference = reference
        self.threshold = threshold
        kinds = reference.kinds[reference.movable]
        self.blocks = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]
        self.ids: list[str] = []
        self.views: list[View] = []
        self.nearby = Nearby(self.reach)
        reciprocal = np.linalg.inv(reference.cell).T  # rows: gradient of each fractional coordinate
        self.steep = np.linalg.norm(reciprocal, axis=1)
        self.unit = reciprocal / self.steep[:, None]
        self.steepest = np.linalg.eigvalsh(self.unit.T @ self.unit).max()
        self.images = images_of(reference)
        self.periodic = bool(reference.pbc.any())

    @property
    def reach(self) -> float:
        """Structures whose ``screen`` differs by more than this are no duplicates."""
        return self.threshold

    def extend(self, ids: Sequence[str], aligned: Floats) -> None:
        """Keep structures, aligned ([n_ids, n_movable, 3], Å), without comparing them with each other."""
        self._keep(ids, self.seen(aligned), self.screen(aligned))

    def admit(self, members: Sequence[Canonical], aligned: Floats) -> list[Match | None]:
        """Per candidate the kept structure that it duplicates, or None, and then it is kept.

        Parameters
        ----------
        members
            Candidates that fit into the group.
        aligned
            [n_members, n_movable, 3], Å, from ``all_aligned``.
        """
        out: list[Match | None] = []
        rows, views = self.screen(aligned), self.seen(aligned)
        before = self.nearby.within(rows)
        among = cdist(rows, rows, "sqeuclidean")
        kept = np.zeros(len(members), bool)
        for i in range(len(members)):
            new = np.where(kept, among[i], np.inf)
            out.append(self._duplicate(i, views, members, *before[i], new))
            kept[i] = out[-1] is None
        keep = np.flatnonzero(kept).tolist()
        self._keep([members[k].id for k in keep], [views[k] for k in keep], rows[kept])
        return out

    def _duplicate(
        self,
        i: int,
        views: Sequence[View],
        members: Sequence[Canonical],
        before: NDArray[np.int64],
        distances: Floats,
        among: Floats,
    ) -> Match | None:
        """What ``members[i]`` duplicates: compared with what the bound leaves, of all before it, nearest first."""
        new = np.flatnonzero(among <= self.nearby.limit)
        n = len(self.ids)
        order = np.argsort(np.append(distances, among[new]), kind="stable")
        others = np.append(before, n + new)[order].tolist()
        found = self.first_within([self.views[j] if j < n else views[j - n] for j in others], views[i])
        if found is None:
            return None
        j = others[found.place]
        return Match(self.ids[j] if j < n else members[j - n].id, found.rmsd, found.by_symmetry)

    def seen(self, aligned: Floats) -> list[View]:
        """What is kept of structures."""
        return [View(positions, EMPTY) for positions in aligned]

    def first_within(self, earlier: Sequence[View], own: View) -> Found | None:
        """The first of earlier structures, nearest by the bound first, within the threshold of another."""
        for place, other in enumerate(earlier):
            distance = self.exact(other.positions, own.positions)
            if distance <= self.threshold:
                return Found(place, distance)
        return None

    def _keep(self, ids: Sequence[str], views: Sequence[View], rows: Floats) -> None:
        self.ids += ids
        self.views += views
        self.nearby.add(rows)

    def nearest_image(self, vectors: Floats) -> Floats:
        """Shortest periodic images of displacements [..., 3] in Å. Exact in skewed and in thin cells."""
        if not self.periodic:
            return vectors
        fractional = vectors @ self.images.inverse
        wrapped = vectors - np.round(fractional * self.images.pbc) @ self.images.cell
        if len(self.images.shifts) == 1:
            return wrapped
        every = wrapped[..., None, :] + self.images.shifts
        best = (every**2).sum(-1).argmin(-1)
        return np.take_along_axis(every, best[..., None, None], -2)[..., 0, :]

    def all_aligned(self, members: Sequence[Canonical]) -> tuple[Floats, NDArray[np.bool_]]:
        """Movable atoms of each, shifted so that its anchors lie on the reference's.

        Returns
        -------
        positions
            [n_members, n_movable, 3], Å.
        fits
            [n_members], False where the fixed atoms are arranged in another way than the reference's.
        """
        n, target = self.reference.n_anchor, self.reference.positions[: self.reference.n_anchor]
        positions = np.stack([member.positions for member in members])
        movable, fits = positions[:, self.reference.movable], np.ones(len(members), bool)
        if not self.reference.rigid:
            return movable, fits
        back = np.stack([member.origin for member in members]) - self.reference.origin
        off = self.nearest_image(target - positions[:, :n] - back[:, None])
        out = movable + (off.mean(axis=1) + back)[:, None]
        astray = np.sqrt((off**2).sum(-1).mean(-1)) > MISPLACED
        if self.reference.held:
            astray |= _misfit(off) > MISPLACED
        for k in np.flatnonzero(astray).tolist():
            own = self.aligned(members[k])
            if own is None:
                fits[k] = False
            else:
                out[k] = own
        return out, fits

    def aligned(self, member: Canonical) -> Floats | None:
        """``all_aligned`` of one whose anchors are in another order than the reference's, or in another frame."""
        n, target = member.n_anchor, self.reference.positions[: member.n_anchor]
        back = member.origin - self.reference.origin
        held = self.reference.held
        matched = self._matched(target, member.positions[:n] + back, member.kinds[:n])
        off = self.nearest_image(target - member.positions[:n])
        if _rms(matched) <= MISPLACED and not (held and _misfit(matched) > MISPLACED):
            off = matched
        elif held and _misfit(off) > MISPLACED:
            return None
        else:
            back = np.zeros(3)
        return member.positions[member.movable] + off.mean(axis=0) + back

    def _matched(self, target: Floats, own: Floats, kinds: NDArray[np.int64]) -> Floats:
        """Displacements from ``own`` to ``target`` under the best assignment of equal kinds."""
        off = np.empty_like(own)
        for kind in np.unique(kinds):
            at = np.flatnonzero(kinds == kind)
            every = self.nearest_image(target[at][None] - own[at][:, None])
            rows, columns = linear_sum_assignment((every**2).sum(-1))
            off[at[rows]] = every[rows, columns]
        return off

    def screen(self, aligned: Floats) -> Floats:
        """[n_structures, n_features]: two rows differ by no more than ``reach`` where the structures are duplicates."""
        return self.descriptors(aligned)

    def descriptors(self, aligned: Floats) -> Floats:
        """[n_structures, n_features]; the Euclidean distance of two rows is at most their RMSD."""
        return self.in_order(self.functions(aligned))

    def functions(self, positions: Floats) -> Floats:
        """[n_structures, n_movable, n_functions] of positions [n_structures, n_movable, 3]."""
        n = positions.shape[1]
        if not self.reference.rigid:
            return np.linalg.norm(positions, axis=-1)[..., None] / np.sqrt(n)
        steep, unit = self.steep, self.unit
        along = positions @ unit.T
        turn = 2 * np.pi * along * steep
        circle = 2 * np.pi * steep
        pbc = self.reference.pbc
        values = np.concatenate(
            (along[..., ~pbc], (np.cos(turn) / circle)[..., pbc], (np.sin(turn) / circle)[..., pbc]), axis=-1
        )
        values /= np.sqrt(n * self.steepest)
        return values

    def in_order(self, values: Floats) -> Floats:
        """[n_structures, n_features] of functions [n_structures, n_movable, n_functions], sorted within each kind."""
        blocks = [np.sort(values[:, block], axis=1).reshape(len(values), -1) for block in self.blocks]
        return np.concatenate(blocks, axis=1)

    def exact(self, first: Floats, second: Floats) -> float:
        """RMSD in Å of two aligned arrays [n_movable, 3], smallest over the assignments of equal elements."""
        if self.reference.rigid:
            return float(np.sqrt(self._assigned(first, second)[1]))
        return float(np.sqrt(min(self._turned(first, second @ flip) for flip in FLIPS)))

    def _assigned(self, first: Floats, second: Floats) -> tuple[NDArray[np.int64], float]:
        """The best order of ``second`` and the mean squared distance under it."""
        order, total = np.empty(len(first), np.int64), 0.0
        for block in self.blocks:
            cost = (self.nearest_image(first[block][:, None] - second[block][None]) ** 2).sum(-1)
            if len(block) == 1:
                order[block] = block
                total += cost[0, 0]
                continue
            rows, columns = linear_sum_assignment(cost)
            order[block[rows]] = block[columns]
            total += cost[rows, columns].sum()
        return order, total / len(first)

    def _turned(self, first: Floats, second: Floats) -> float:
        """Assignment and best rotation (Kabsch, doi:10.1107/S0567739476001873) in turn until neither helps."""
        best = np.inf
        for _ in range(20):
            order, value = self._assigned(first, second)
            if value >= best - 1e-12:
                break
            best = value
            second = second[order]
            u, _, vt = np.linalg.svd(second.T @ first)
            u[:, -1] *= np.sign(np.linalg.det(u @ vt))
            second = second @ u @ vt
        return float(best)


def _misfit(off: Floats) -> Floats:
    """Å: the largest distance of an anchor from the reference's once their centres agree, over the last two axes."""
    return np.asarray(np.linalg.norm(off - off.mean(axis=-2, keepdims=True), axis=-1).max(axis=-1), np.float64)


def _rms(vectors: Floats) -> float:
    return float(np.sqrt((vectors**2).sum(-1).mean()))


@dataclass(frozen=True)
class Images:
    """Periodic images: a Minkowski-reduced cell, its inverse, and the neighbouring images that may be nearest, Å."""

    cell: Floats
    inverse: Floats
    pbc: NDArray[np.bool_]
    shifts: Floats


def images_of(structure: Canonical) -> Images:
    """What the nearest image needs: a Minkowski-reduced cell, and neighbouring images unless it is orthogonal.

    In a reduced cell the nearest image of a wrapped vector is among the 27 around it (Nguyen and Stehlé,
    doi:10.1145/1597036.1597050); along a vector at right angles to the others, wrapping is enough.
    """
    from ase.geometry import minkowski_reduce

    pbc = structure.pbc
    reduced = np.array(minkowski_reduce(structure.cell, pbc)[0])
    gram = reduced @ reduced.T
    skewed = (np.abs(gram - np.diag(np.diag(gram))) > 1e-9).any(axis=0) & pbc
    steps = np.array(list(product(*[(-1, 0, 1) if s else (0,) for s in skewed])))
    return Images(reduced, np.linalg.inv(reduced), pbc, steps @ reduced)

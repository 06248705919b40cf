"""Near-duplicates: RMSD over movable atoms, periodic, equal elements exchangeable.

Exact comparisons are Hungarian assignments and expensive, so each is preceded by a bound: per element, the sorted
values of functions that change by at most the distance an atom moves. Sorting minimises the squared difference of two
lists, so the distance of two such descriptors never exceeds the RMSD under any assignment of atoms. A pair that the
bound rules out is no duplicate, so the decisions equal those of comparing all pairs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from rlpath_core.outbox.canonicalize import Canonical, Floats
from rlpath_core.outbox.nearby import Nearby

CHUNK = 512
"""Candidates whose bounds are computed in one matrix product."""
MISPLACED = 0.3
"""Å, RMS: anchors that lie closer to the reference's are in the same frame, and need only their mean shift."""
FLIPS = tuple(np.diag(signs) for signs in ((1, 1, 1), (1, -1, -1), (-1, 1, -1), (-1, -1, 1)))


@dataclass(frozen=True)
class Match:
    """An earlier structure within the threshold, and the RMSD to it in Å."""

    id: str
    rmsd: float


class Memory:
    """Every structure that was kept, by composition and cell; decides which candidates are new.

    Parameters
    ----------
    threshold
        Å; two structures with an RMSD at or below it are duplicates.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._groups: dict[tuple, _Group] = {}

    def add(self, known: Iterable[Canonical]) -> None:
        """Keep structures without comparing them with each other."""
        for key, members in _by_key(known).items():
            self._group(key, members).extend(members)

    def admit(self, candidates: Sequence[Canonical]) -> list[Match | None]:
        """Keep each candidate that is no duplicate of a structure kept before it.

        Parameters
        ----------
        candidates
            The earlier one of two duplicates is kept.

        Returns
        -------
        list of Match or None
            Per candidate the kept structure that it duplicates, or None if it was kept.
        """
        places: dict[tuple, list[int]] = {}
        for place, candidate in enumerate(candidates):
            places.setdefault(candidate.key, []).append(place)
        found: dict[int, Match | None] = {}
        for key, at in places.items():
            members = [candidates[place] for place in at]
            found.update(zip(at, self._group(key, members).admit(members, self.threshold), strict=True))
        return [found[place] for place in range(len(candidates))]

    def _group(self, key: tuple, members: Sequence[Canonical]) -> _Group:
        if key not in self._groups:
            self._groups[key] = _Group(members[0], self.threshold)
        return self._groups[key]


def rmsd(first: Canonical, second: Canonical) -> float:
    """RMSD in Å over movable atoms, the smallest over all assignments of atoms of the same element.

    Infinite if the structures differ in elements, movable atoms or cell. Free molecules are also turned, starting from
    their principal axes; for a molecule whose axes are degenerate (CH4) the value is an upper bound.
    """
    if first.key != second.key:
        return np.inf
    group = _Group(first)
    return group.exact(group.aligned(first), group.aligned(second))


def _by_key(structures: Iterable[Canonical]) -> dict[tuple, list[Canonical]]:
    out: dict[tuple, list[Canonical]] = {}
    for structure in structures:
        out.setdefault(structure.key, []).append(structure)
    return out


class _Group:
    """Structures of one key, aligned on the anchors of the first."""

    def __init__(self, reference: Canonical, threshold: float = 0.0) -> None:
        self.reference = reference
        numbers = reference.numbers[reference.movable]
        self.blocks = [np.flatnonzero(numbers == z) for z in np.unique(numbers)]
        self.ids: list[str] = []
        self.positions: list[Floats] = []
        self.nearby = Nearby(threshold)
        self.reciprocal = np.linalg.inv(reference.cell).T  # rows: gradient of each fractional coordinate
        self.images = _images(reference.cell, reference.pbc)

    def extend(self, members: Sequence[Canonical]) -> None:
        aligned = self.all_aligned(members)
        self._keep([member.id for member in members], list(aligned), self.descriptors(aligned))

    def admit(self, members: Sequence[Canonical], threshold: float) -> list[Match | None]:
        out: list[Match | None] = []
        for start in range(0, len(members), CHUNK):
            part = members[start : start + CHUNK]
            aligned = self.all_aligned(part)
            rows = self.descriptors(aligned)
            before = self.nearby.within(rows)
            among = cdist(rows, rows, "sqeuclidean")
            kept = np.zeros(len(part), bool)
            for i in range(len(part)):
                match = self._duplicate(i, aligned, part, before[i], np.where(kept, among[i], np.inf), threshold)
                kept[i] = match is None
                out.append(match)
            keep = np.flatnonzero(kept).tolist()
            self._keep([part[k].id for k in keep], [aligned[k] for k in keep], rows[kept])
        return out

    def _duplicate(
        self,
        i: int,
        aligned: Floats,
        part: Sequence[Canonical],
        before: tuple[NDArray[np.int64], Floats],
        among: Floats,
        threshold: float,
    ) -> Match | None:
        """What ``part[i]`` duplicates: compared with what the bound leaves, of all before it, nearest first."""
        new = np.flatnonzero(among <= self.nearby.limit)
        n = len(self.ids)
        for j in np.append(before[0], n + new)[np.argsort(np.append(before[1], among[new]), kind="stable")].tolist():
            distance = self.exact(self.positions[j] if j < n else aligned[j - n], aligned[i])
            if distance <= threshold:
                return Match(self.ids[j] if j < n else part[j - n].id, distance)
        return None

    def _keep(self, ids: list[str], aligned: list[Floats], rows: Floats) -> None:
        self.ids += ids
        self.positions += aligned
        self.nearby.add(rows)

    def nearest_image(self, vectors: Floats) -> Floats:
        """Shortest periodic images of displacements [..., 3] in Å. Exact in skewed and in thin cells."""
        if not self.reference.pbc.any():
            return vectors
        fractional = vectors @ self.images.inverse
        wrapped = vectors - np.round(fractional * self.images.pbc) @ self.images.cell
        if len(self.images.shifts) == 1:
            return wrapped
        every = wrapped[..., None, :] + self.images.shifts
        best = (every**2).sum(-1).argmin(-1)
        return np.take_along_axis(every, best[..., None, None], -2)[..., 0, :]

    def all_aligned(self, members: Sequence[Canonical]) -> Floats:
        """``aligned`` of each, [n_members, n_movable, 3]; in one operation for those whose anchors agree already."""
        n, target = self.reference.n_anchor, self.reference.positions[: self.reference.n_anchor]
        positions = np.stack([member.positions for member in members])
        movable = positions[:, self.reference.movable]
        if not self.reference.rigid:
            return movable
        back = np.stack([member.origin for member in members]) - self.reference.origin
        off = self.nearest_image(target - positions[:, :n] - back[:, None])
        out = movable + (off.mean(axis=1) + back)[:, None]
        for k in np.flatnonzero(np.sqrt((off**2).sum(-1).mean(-1)) > MISPLACED).tolist():
            out[k] = self.aligned(members[k])
        return out

    def aligned(self, member: Canonical) -> Floats:
        """Positions [n_movable, 3] of the movable atoms, shifted so that its anchors lie on the reference's."""
        if not member.rigid or member is self.reference:
            return member.positions[member.movable]
        n, target = member.n_anchor, self.reference.positions[: member.n_anchor]
        back = member.origin - self.reference.origin
        off = self.nearest_image(target - member.positions[:n] - back)
        if _rms(off) > MISPLACED:  # another order of the anchors, or another frame
            matched = self._matched(target, member.positions[:n] + back, member.numbers[:n])
            if _rms(matched) <= MISPLACED:
                off = matched
            else:
                off, back = self.nearest_image(target - member.positions[:n]), np.zeros(3)
        return member.positions[member.movable] + off.mean(axis=0) + back

    def _matched(self, target: Floats, own: Floats, numbers: NDArray[np.int64]) -> Floats:
        """Displacements from ``own`` to ``target`` under the best assignment of equal elements."""
        off = np.empty_like(own)
        for z in np.unique(numbers):
            at = np.flatnonzero(numbers == z)
            every = self.nearest_image(target[at][None] - own[at][:, None])
            rows, columns = linear_sum_assignment((every**2).sum(-1))
            off[at[rows]] = every[rows, columns]
        return off

    def descriptors(self, aligned: Sequence[Floats] | Floats) -> Floats:
        """[n_structures, n_features]; the Euclidean distance of two rows is at most their RMSD."""
        positions = np.asarray(aligned)
        n = positions.shape[1]
        if not self.reference.rigid:
            values = np.linalg.norm(positions, axis=-1)[..., None] / np.sqrt(n)
        else:
            steep = np.linalg.norm(self.reciprocal, axis=1)
            unit = self.reciprocal / steep[:, None]
            along = positions @ unit.T
            turn = 2 * np.pi * along * steep
            circle = 2 * np.pi * steep
            pbc = self.reference.pbc
            values = np.concatenate(
                (along[..., ~pbc], (np.cos(turn) / circle)[..., pbc], (np.sin(turn) / circle)[..., pbc]), axis=-1
            )
            values /= np.sqrt(n * np.linalg.eigvalsh(unit.T @ unit).max())
        blocks = [np.sort(values[:, block], axis=1).reshape(len(positions), -1) for block in self.blocks]
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


def _rms(vectors: Floats) -> float:
    return float(np.sqrt((vectors**2).sum(-1).mean()))


@dataclass(frozen=True)
class _Images:
    cell: Floats
    inverse: Floats
    pbc: NDArray[np.bool_]
    shifts: Floats


def _images(cell: Floats, pbc: NDArray[np.bool_]) -> _Images:
    """What the nearest image needs: a Minkowski-reduced cell, and neighbouring images unless it is orthogonal.

    In a reduced cell the nearest image of a wrapped vector is among the 27 around it (Nguyen and Stehlé,
    doi:10.1145/1597036.1597050); in an orthogonal one wrapping is enough.
    """
    from ase.geometry import minkowski_reduce

    reduced = np.array(minkowski_reduce(cell, pbc)[0])
    gram = reduced @ reduced.T
    orthogonal = bool(np.abs(gram - np.diag(np.diag(gram))).max() < 1e-9)
    steps = np.zeros((1, 3)) if orthogonal else np.array(list(product(*[(-1, 0, 1) if p else (0,) for p in pbc])))
    return _Images(reduced, np.linalg.inv(reduced), pbc, steps @ reduced)

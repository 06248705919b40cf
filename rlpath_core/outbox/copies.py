"""Near-duplicates up to symmetry: what is exactly the same to a calculation is labelled once.

A structure with fixed atoms is compared under every operation that brings the lattice and the fixed atoms onto
themselves (see ``geometry/symmetry.py``): the energy is the same, wherever the movable atoms are, and forces turn with
the structure. The fixed atoms alone decide on the operations, because after one they lie where they were, and all
others are compared. Without fixed atoms the lattice's point group and every shift count; for a free molecule, its
mirror image. Each duplicate is certified by an operation and an assignment of atoms with an RMSD within the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from rlpath_core.geometry.cell import Mask
from rlpath_core.geometry.symmetry import Symmetry, isometries
from rlpath_core.outbox.canonicalize import Canonical, Floats
from rlpath_core.outbox.crystals import CrystalCopies
from rlpath_core.outbox.group import MISPLACED, Found, Group, Images, Match, View, images_of
from rlpath_core.outbox.nearby import Ints

NEAREST = 2
"""Fixed atoms at least whose distances describe the place of an atom: the nearest one of each kind, or more."""
LENGTH = 1e-6
"""Å: shorter is nothing."""
AT_ONCE = 64
"""Candidates whose images are compared in one operation; what is kept of them is known after that."""
DIGITS = 12
"""Decimals of wave vectors in 1/Å; those that agree are one."""
ROUNDING = 1e-8
"""Å²: by how much a squared difference of sums may be off."""
ENTRIES = 1_000_000
"""Values in one array at most."""


def group_with_copies(reference: Canonical, threshold: float, tolerance: float) -> Group:
    """A group that takes symmetry copies for duplicates.

    Parameters
    ----------
    reference
        Its first structure, from ``canonicalize(..., symmetry=True)``.
    threshold
        Å, the largest RMSD of duplicates.
    tolerance
        Å, by how much an operation may miss a fixed atom.
    """
    if reference.held:
        return SlabCopies(reference, threshold, tolerance)
    return CrystalCopies(reference, threshold) if reference.pbc.any() else MirrorImages(reference, threshold)


class SlabCopies(Group):
    """Structures with the same fixed atoms, also where those are mirrored, or turned in the same cell."""

    def __init__(self, reference: Canonical, threshold: float, tolerance: float) -> None:
        self.tolerance = tolerance
        anchors = reference.positions[: reference.n_anchor]
        kinds = reference.kinds[: reference.n_anchor]
        self.symmetry = isometries(anchors, anchors, kinds, reference.cell, reference.pbc, tolerance)
        self.places = _Places(reference, self.symmetry, images_of(reference))
        self.frames: list[Symmetry] = []
        super().__init__(reference, threshold)
        self.waves = _Waves(self, self.symmetry)
        functions = 3 + int(reference.pbc.sum())
        self.sums = _Rows(len(self.blocks) * functions + 2)
        self.sorted = _Rows(int(reference.movable.sum()) * functions)

    @property
    def reach(self) -> float:
        return self.threshold + self.places.slack

    def aligned(self, member: Canonical) -> Floats | None:
        own = super().aligned(member)
        if own is not None:
            return own
        n, target = member.n_anchor, self.reference.positions[: member.n_anchor]
        for frame in self.frames:
            off = self.nearest_image(target[frame.permutations[0]] - frame.images(member.positions[:n])[0])
            shift = off.mean(axis=0)
            if np.linalg.norm(off, axis=1).max() <= MISPLACED:
                return frame.images(member.positions[member.movable])[0] + shift
        kinds, cell = member.kinds[:n], self.reference.cell
        found = isometries(member.positions[:n], target, kinds, cell, member.pbc, self.tolerance)
        if not len(found):
            return None
        self.frames.append(found)
        return found.images(member.positions[member.movable])[0]

    def screen(self, aligned: Floats) -> Floats:
        if len(self.symmetry) == 1:
            return super().screen(aligned)
        return self.in_order(self.places.values(aligned) / np.sqrt(aligned.shape[1]))

    def extend(self, ids: Sequence[str], aligned: Floats) -> None:
        if len(self.symmetry) > 1:
            self.sums.add(_with_square(self._sums(self.functions(aligned))))
            self.sorted.add(self.descriptors(aligned))
        super().extend(ids, aligned)

    def admit(self, members: Sequence[Canonical], aligned: Floats) -> list[Match | None]:
        if len(self.symmetry) == 1:
            return super().admit(members, aligned)
        n, rows, views, values = len(self.ids), self.screen(aligned), self.seen(aligned), self.functions(aligned)
        self.sums.add(_with_square(self._sums(values)))
        self.sorted.add(self.in_order(values))
        ids, every = self.ids + [member.id for member in members], self.views + views
        candidates, others = self._neighbours(rows)
        kept = np.ones(len(every), bool)
        out: list[Match | None] = []
        for start in range(0, len(members), AT_ONCE):
            block = slice(*np.searchsorted(candidates, [start, start + AT_ONCE]).tolist())
            left = kept[others[block]]
            near = self._near_images(aligned, start, candidates[block][left], others[block][left])
            for i, view in enumerate(views[start : start + AT_ONCE], start=start):
                out.append(self._found(near, i, view, ids, every, kept))
                kept[n + i] = out[-1] is None
        keep = np.flatnonzero(kept[n:])
        self.sums.keep(n, keep)
        self.sorted.keep(n, keep)
        self._keep([ids[n + k] for k in keep.tolist()], [views[k] for k in keep.tolist()], rows[keep])
        return out

    def _found(
        self, near: _Near, candidate: int, own: View, ids: list[str], views: list[View], kept: Mask
    ) -> Match | None:
        """The first of the images that is within the threshold of a structure that was kept."""
        part = near.of(candidate)
        for k in range(part.start, part.stop):
            other, operation = int(near.others[k]), int(near.operations[k])
            if not kept[other]:
                continue
            distance = self.exact(views[other].positions, near.images[k])
            if distance <= self.threshold:
                straight = distance if operation == 0 else np.inf
                if operation and near.as_it_is(part, other):
                    straight = self.exact(views[other].positions, own.positions)
                by_symmetry = straight > self.threshold
                return Match(ids[other], distance if by_symmetry else straight, by_symmetry)
        return None

    def _sums(self, values: Floats) -> Floats:
        """Sums of functions over the atoms of each kind: they differ by no more than the RMSD, whatever the order."""
        sums = [values[:, block].sum(axis=1) / np.sqrt(len(block)) for block in self.blocks]
        return np.concatenate(sums, axis=1)

    def _neighbours(self, rows: Floats) -> tuple[Ints, Ints]:
        """Pairs of a candidate and a structure before it that ``screen`` leaves: by candidate, nearest first.

        Candidates count among the others from the number of those that are kept already.
        """
        n, before = len(self.ids), self.nearby.within(rows)
        among = np.tril(cdist(rows, rows, "sqeuclidean") <= self.nearby.limit, -1)
        i, j = np.nonzero(among)
        new = ((rows[i] - rows[j]) ** 2).sum(axis=1)
        candidates = np.append(np.repeat(np.arange(len(rows)), [len(found) for found, _ in before]), i)
        others = np.concatenate((*(found for found, _ in before), n + j))
        distances = np.concatenate((*(distance for _, distance in before), new))
        order = np.lexsort((others, distances, candidates))
        return candidates[order], others[order]

    def _near_images(self, aligned: Floats, start: int, candidates: Ints, others: Ints) -> _Near:
        """Of pairs, the images of the candidate that the bounds leave, by candidate and the nearest first.

        The candidates are some of the ``AT_ONCE`` from ``start`` on.
        """
        limit, count = self.threshold**2 + 1e-9, len(self.symmetry)
        which, operations = self._near_sums(aligned, start, candidates, others, limit)
        candidates, others = candidates[which], others[which]
        image = candidates * count + operations
        order, bounds = np.argsort(image, kind="stable"), np.empty(len(which))
        step = max(1, ENTRIES // self.sorted.rows.shape[1])
        for first in range(0, len(order), step):
            part = order[first : first + step]
            distinct, place = np.unique(image[part], return_inverse=True)
            images = self.symmetry.some_images(aligned[distinct // count], distinct % count)
            off = self.descriptors(images)[place] - self.sorted.rows[others[part]]
            bounds[part] = np.einsum("ij,ij->i", off, off)
        left = np.flatnonzero(bounds <= limit)
        left = left[np.lexsort((bounds[left], candidates[left]))]
        candidates, operations = candidates[left], operations[left]
        images = self.symmetry.some_images(aligned[candidates], operations)
        cuts = np.searchsorted(candidates, np.arange(start, start + AT_ONCE + 1)).tolist()
        return _Near(start, cuts, others[left], operations, images)

    def _near_sums(
        self, aligned: Floats, start: int, candidates: Ints, others: Ints, limit: float
    ) -> tuple[Ints, Ints]:
        """Which of the pairs, and under which operations, are left by the sums over the atoms of each kind."""
        images = self.waves.sums(aligned[start : start + AT_ONCE])
        # |a - b|^2 = |a|^2 - 2 a b + |b|^2, as one product of matrices
        images = np.concatenate((-2 * images, np.ones((*images.shape[:2], 1)), _squared(images)), axis=2)
        cuts = np.searchsorted(candidates, np.arange(start, start + len(images) + 1)).tolist()
        which, operations = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for i, image in enumerate(images):
            if cuts[i] < cuts[i + 1]:
                rows = self.sums.rows[others[cuts[i] : cuts[i + 1]]]
                pair, operation = (rows @ image.T <= limit + ROUNDING).nonzero()
                which.append(pair + cuts[i])
                operations.append(operation)
        return np.concatenate(which), np.concatenate(operations)


def _squared(rows: Floats) -> Floats:
    return np.einsum("...i,...i->...", rows, rows)[..., None]


def _with_square(rows: Floats) -> Floats:
    return np.concatenate((rows, _squared(rows), np.ones((len(rows), 1))), axis=1)


@dataclass(frozen=True, eq=False)
class _Near:
    """Images of candidates that may be duplicates of structures before them, by candidate, then by the bound.

    start       the first of the candidates
    cuts        where the images of each candidate begin, and where the last ones end
    others      [n_images], places of the structures that they are compared with
    operations  [n_images]
    images      [n_images, n_movable, 3], Å
    """

    start: int
    cuts: list[int]
    others: Ints
    operations: Ints
    images: Floats

    def of(self, candidate: int) -> slice:
        return slice(self.cuts[candidate - self.start], self.cuts[candidate - self.start + 1])

    def as_it_is(self, part: slice, other: int) -> bool:
        """Whether the bounds leave a candidate's own positions in a comparison with another structure."""
        return bool(((self.others[part] == other) & (self.operations[part] == 0)).any())


class _Rows:
    """Rows of an array that grows."""

    def __init__(self, length: int) -> None:
        self._array, self._count = np.empty((0, length)), 0

    @property
    def rows(self) -> Floats:
        return self._array[: self._count]

    def add(self, rows: Floats) -> None:
        count = self._count + len(rows)
        if count > len(self._array):
            larger = np.empty((max(count, 2 * len(self._array)), rows.shape[1]))
            larger[: self._count] = self.rows
            self._array = larger
        self._array[self._count : count] = rows
        self._count = count

    def keep(self, start: int, places: Ints) -> None:
        """From the row ``start`` on, keep only some, counted from there."""
        end = start + len(places)
        self._array[start:end] = self._array[start + places]
        self._count = end


class _Waves:
    """What the sums of a group's functions over the atoms of each kind are under every operation.

    An operation carries a plane wave into another one, of the turned wave vector, with a phase. So the sums of the
    images are linear combinations of a few sines, cosines and coordinates, which are taken once for all operations.
    """

    def __init__(self, group: Group, symmetry: Symmetry) -> None:
        self.blocks, pbc, count = group.blocks, group.reference.pbc, len(symmetry)
        wave = 2 * np.pi * group.steep[pbc, None] * group.unit[pbc]
        turned = (wave @ symmetry.rotations).reshape(-1, 3)
        _, first, place = np.unique(np.round(turned, DIGITS), axis=0, return_index=True, return_inverse=True)
        self.vectors, radius = turned[first], 1 / (2 * np.pi * group.steep[pbc])
        phase = symmetry.translations @ wave.T
        cos, sin = np.cos(phase) * radius, np.sin(phase) * radius
        operation, number = np.indices(phase.shape)
        place, cosines, sines = place.reshape(phase.shape), 4, 4 + len(self.vectors)
        # From 1, x, y, z and the cosines and sines of turned waves, to all functions of all images.
        n_open, n_waves = int((~pbc).sum()), int(pbc.sum())
        carry = np.zeros((sines + len(self.vectors), count, n_open + 2 * n_waves))
        carry[0, :, :n_open] = symmetry.translations @ group.unit[~pbc].T
        carry[1:4, :, :n_open] = np.moveaxis(group.unit[~pbc] @ symmetry.rotations, 2, 0)
        carry[cosines + place, operation, n_open + number] = cos
        carry[sines + place, operation, n_open + number] = -sin
        carry[cosines + place, operation, n_open + n_waves + number] = sin
        carry[sines + place, operation, n_open + n_waves + number] = cos
        self.carry = carry.reshape(len(carry), -1) / np.sqrt(int(group.reference.movable.sum()) * group.steepest)
        self.count = count

    def sums(self, positions: Floats) -> Floats:
        """[n_structures, n_operations, n_sums] of positions [n_structures, n_movable, 3]."""
        turn = positions @ self.vectors.T
        values = np.concatenate((np.ones((*turn.shape[:2], 1)), positions, np.cos(turn), np.sin(turn)), axis=2)
        sums = [values[:, block].sum(axis=1) @ self.carry / np.sqrt(len(block)) for block in self.blocks]
        return np.concatenate([part.reshape(len(positions), self.count, -1) for part in sums], axis=2)


class _Places:
    """Functions of a point that no operation changes, and that change by at most the distance a point moves.

    The height along the normal of a slab, and the distances in its plane to the nearest fixed atoms of each kind. If
    the operations keep no normal, the distances in space.
    """

    def __init__(self, reference: Canonical, symmetry: Symmetry, images: Images) -> None:
        self.slack = 3 * symmetry.deviation
        self.normal, self.centre, self.period = np.zeros(3), 0.0, np.inf
        self.turned_over = False
        for axis in np.argsort(reference.pbc, kind="stable").tolist():  # open directions first
            if self._keep_normal(images.cell, axis, bool(reference.pbc[axis]), symmetry):
                break
        self.flat = np.eye(3) - np.outer(self.normal, self.normal)
        self.cell = images.cell @ self.flat
        spanning = reference.pbc & (np.linalg.norm(self.cell, axis=1) > LENGTH)
        self.inverse = images.inverse * spanning
        steps = np.array(list(product(*[range(-2, 3) if spans else (0,) for spans in spanning])))
        anchors = self._wrapped(reference.positions[: reference.n_anchor] @ self.flat)
        kinds = reference.kinds[: reference.n_anchor]
        copies = [(anchors[kinds == kind][:, None] + steps @ self.cell).reshape(-1, 3) for kind in np.unique(kinds)]
        self.trees = [cKDTree(points) for points in copies]
        self.counts = [min(-(-NEAREST // len(copies)), len(points)) for points in copies]

    def _keep_normal(self, cell: Floats, axis: int, periodic: bool, symmetry: Symmetry) -> bool:
        """Take a lattice direction for the normal, if it stands upright and every operation keeps it."""
        normal = cell[axis] / np.linalg.norm(cell[axis])
        if np.abs(np.delete(cell, axis, axis=0) @ normal).max() > LENGTH:
            return False
        along = symmetry.rotations @ normal @ normal
        if np.abs(np.abs(along) - 1).max() > 1e-6:
            return False
        period = np.linalg.norm(cell[axis]) if periodic else np.inf
        shifts, over = symmetry.translations @ normal, along < 0
        centre = shifts[over][0] / 2 if over.any() else 0.0
        off = shifts - np.where(over, 2 * centre, 0.0)
        if periodic:
            off -= np.round(off / period) * period
        if np.abs(off).max() > max(LENGTH, symmetry.deviation):
            return False
        self.slack += float(np.abs(off).max())
        self.normal, self.centre, self.period, self.turned_over = normal, float(centre), float(period), bool(over.any())
        return True

    def _wrapped(self, points: Floats) -> Floats:
        return points - np.round(points @ self.inverse) @ self.cell

    def values(self, positions: Floats) -> Floats:
        """[..., n_functions] for positions [..., 3]; no more than the distance apart, as vectors, for two points."""
        out = []
        if self.normal.any():
            height = positions @ self.normal - self.centre
            if self.turned_over:
                if np.isfinite(self.period):
                    height -= np.round(height / self.period) * self.period
                out.append(np.abs(height))
            elif np.isinf(self.period):
                out.append(height)
            else:
                turn, radius = 2 * np.pi * height / self.period, self.period / (2 * np.pi)
                out += [radius * np.cos(turn), radius * np.sin(turn)]
        points = self._wrapped((positions @ self.flat).reshape(-1, 3))
        scale = np.sqrt(sum(self.counts))
        for tree, count in zip(self.trees, self.counts, strict=True):
            near = tree.query(points, np.arange(1, count + 1))[0] / scale
            out += list(np.moveaxis(near.reshape(*positions.shape[:-1], count), -1, 0))
        return np.stack(out, axis=-1)


class MirrorImages(Group):
    """Free molecules and clusters, also as their mirror images."""

    def exact(self, first: Floats, second: Floats) -> float:
        return min(super().exact(first, second), super().exact(first, -second))

    def first_within(self, earlier: Sequence[View], own: View) -> Found | None:
        for place, other in enumerate(earlier):
            straight = super().exact(other.positions, own.positions)
            distance = straight if straight <= self.threshold else super().exact(other.positions, -own.positions)
            if distance <= self.threshold:
                return Found(place, distance, by_symmetry=straight > self.threshold)
        return None

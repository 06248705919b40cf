"""Near-duplicates up to symmetry: what is exactly the same to a calculation is labelled once.

A structure with fixed atoms is compared under every operation that brings the lattice and the fixed atoms onto
themselves (see ``geometry/symmetry.py``): the energy is the same, wherever the movable atoms are, and forces turn with
the structure. The fixed atoms alone decide on the operations, because after one they lie where they were, and all
others are compared. Without fixed atoms the lattice's point group and every shift count; for a free molecule, its
mirror image. Each duplicate is certified by an operation and an assignment of atoms with an RMSD within the threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from rlpath_core.geometry.symmetry import Symmetry, isometries
from rlpath_core.outbox.canonicalize import Canonical, Floats
from rlpath_core.outbox.crystals import CrystalCopies
from rlpath_core.outbox.group import MISPLACED, Found, Group, Images, View, images_of

NEAREST = 2
"""Fixed atoms of each kind whose distances describe the place of an atom."""
LENGTH = 1e-6
"""Å: shorter is nothing."""


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

    def seen(self, aligned: Floats) -> list[View]:
        if len(self.symmetry) == 1:
            return super().seen(aligned)
        values = self.functions(aligned)
        features = np.concatenate((self._means(values), self.in_order(values)), axis=1)
        return [View(*view) for view in zip(aligned, features, strict=True)]

    def _means(self, values: Floats) -> Floats:
        """Sums over the atoms of each kind: no two of them differ by more than the RMSD either, but less work."""
        sums = [values[:, block].sum(axis=1) / np.sqrt(len(block)) for block in self.blocks]
        return np.concatenate(sums, axis=1)

    def first_within(self, earlier: Sequence[View], own: View) -> Found | None:
        if len(self.symmetry) == 1 or not earlier:
            return super().first_within(earlier, own)
        limit = self.threshold**2 + 1e-9
        images = self.symmetry.images(own.positions)
        values, features = self.functions(images), np.stack([view.features for view in earlier])
        means = self._means(values)
        near = cdist(features[:, : means.shape[1]], means, "sqeuclidean") <= limit
        left = np.flatnonzero(near.any(axis=0))
        if not len(left):
            return None
        bounds = cdist(features[:, means.shape[1] :], self.in_order(values[left]), "sqeuclidean")
        places, operations = np.nonzero((bounds <= limit) & near[:, left])
        order = np.argsort(bounds[places, operations], kind="stable")
        for place, operation in zip(places[order].tolist(), left[operations[order]].tolist(), strict=True):
            distance = self.exact(earlier[place].positions, images[operation])
            if distance <= self.threshold:
                straight = distance if operation == 0 else self.exact(earlier[place].positions, own.positions)
                as_it_is = straight <= self.threshold
                return Found(place, straight if as_it_is else distance, by_symmetry=not as_it_is)
        return None


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
        self.counts = [min(NEAREST, len(points)) for points in copies]

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
            if np.isinf(self.period):
                out.append(np.abs(height) if self.turned_over else height)
            else:
                turn, radius = 2 * np.pi * height / self.period, self.period / (2 * np.pi)
                out.append(radius * np.cos(turn))
                if not self.turned_over:
                    out.append(radius * np.sin(turn))
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

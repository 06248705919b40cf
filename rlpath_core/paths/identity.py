"""When two stationary points are one: the same structure, or a copy of it by symmetry or by exchange of like atoms.

Known points that may be the same are found as sampling finds basins, by energy and by the distances from every atom to
its neighbours (``HistogramBasins``). Distances alone do not tell an fcc hollow from an hcp one. On a surface or in a
crystal the atoms must therefore also come to lie on those of the known point, under some symmetry operation of the
atoms that do not move, with like atoms matched one to one. Where there is no such group to search, as for a molecule or
a cluster, the distances decide; they are the same for mirror images.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.optimize import linear_sum_assignment

from rlpath_core.geometry.cell import Floats, Mask, displacements, wrap_vectors
from rlpath_core.geometry.roles import Roles
from rlpath_core.geometry.symmetry import Symmetry, atom_kinds, isometries, symmetry_operations
from rlpath_core.sampling.basins import HistogramBasins
from rlpath_core.sampling.options import BasinOptions
from rlpath_core.structure import Structure

SAME = 0.3
"""Å: in two copies of one stationary point no atom is further than this from its counterpart."""
IN_PLACE = 1e-3
"""Å: cells and atoms that do not move of one surface agree to this."""
PROBES = 8
"""Atoms at which most operations fail, before all are looked at."""


def same_structure(a: Structure, b: Structure, movable: Mask, within: float = SAME) -> bool:
    """Whether two structures are one and the same, not only copies of each other.

    Lattice vectors are settled atom by atom. Where all atoms may move, a shift of the whole makes no difference, and
    without periodic directions a rotation makes none.

    Parameters
    ----------
    a, b : Structure
        The same atoms in the same cell.
    movable : ndarray of bool, shape (n_atoms,)
    within : float
        Å: the largest distance of an atom from its own place in the other structure.

    Returns
    -------
    bool
    """
    return furthest(a, b, movable, bool(movable.all())) <= within


def furthest(a: Structure, b: Structure, movable: Mask, free: bool) -> float:
    """Å: how far the worst atom of a structure is from its own place in another; see ``same_structure``.

    ``free`` says whether nothing holds the structure, so that a shift and a rotation of the whole make no difference.
    """
    if not free:
        return _largest(displacements(a, b)[movable])
    if a.pbc.any():
        moved = displacements(a, b)
        moved = wrap_vectors(moved - moved[0], a)  # a shift of half a lattice vector splits the images of the atoms
        return _largest(moved - moved.mean(axis=0))
    before, after = (one.positions - one.positions.mean(axis=0) for one in (a, b))
    u, _, vt = np.linalg.svd(before.T @ after)
    rotation = u @ np.diag([1, 1, np.sign(np.linalg.det(u @ vt))]) @ vt
    return _largest(before @ rotation - after)


def same_surface(a: Structure, b: Structure, held: Mask) -> bool:
    """Whether two structures have the same atoms and cell, fix the same, and the ``held`` atoms are where they were.

    Parameters
    ----------
    a, b : Structure
        Magnetic moments do not matter.
    held : ndarray of bool, shape (n_atoms,)
        Of ``b``.

    Returns
    -------
    bool
    """
    if not all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("numbers", "pbc", "fixed")):
        return False
    places = a.positions[held], b.positions[held]
    return bool(np.allclose(a.cell, b.cell, atol=IN_PLACE) and np.allclose(*places, atol=IN_PLACE))


class StationaryPoints(HistogramBasins):
    """Known minima, or known saddles, of one composition; see the module's text.

    Parameters
    ----------
    options : BasinOptions
        Energy window, and what the distances are compared by.
    template : Structure
        The atoms that do not move.
    roles : Roles
    copies : Copies, optional
        Of the same template, so that its operations are not searched for again.
    """

    def __init__(self, options: BasinOptions, template: Structure, roles: Roles, copies: Copies | None = None) -> None:
        super().__init__(options, template, roles)
        self.copies = copies or Copies(template, roles.movable)
        self.structures: dict[int, Structure] = {}

    def add(self, number: int, structure: Structure, energy: float) -> None:
        super().add(number, structure, energy)
        self.structures[number] = structure

    def find(self, structure: Structure, energy: float) -> int | None:
        return next(iter(self.all_of(structure, energy)), None)

    def all_of(self, structure: Structure, energy: float) -> Iterator[int]:
        """The numbers of all known points that this one is a copy of, the nearest first."""
        matches = self.matches(structure, energy)
        return (number for number in matches if self.copies.are(structure, self.structures[number]))


class Copies:
    """Tells whether two structures are copies of each other under the symmetry of the atoms that do not move.

    Parameters
    ----------
    template : Structure
    movable : ndarray of bool, shape (n_atoms,)
        Atoms that may differ; like ones among them may exchange their places.
    within : float
        Å, see ``SAME``.
    """

    def __init__(self, template: Structure, movable: Mask, within: float = SAME) -> None:
        self.movable, self.within = movable, within
        self.kinds = atom_kinds(template.numbers, template.magmoms)
        self.periodic = int(template.pbc.sum()) >= 2
        self.operations: Symmetry | None = None
        if self.periodic and not movable.all():
            self.operations = symmetry_operations(template, ~movable)

    def are(self, a: Structure, b: Structure) -> bool:
        """Whether some operation brings each atom of ``a`` onto an atom of its kind in ``b``.

        Parameters
        ----------
        a, b : Structure
            With the template's atoms and cell.

        Returns
        -------
        bool
            True wherever there is no group of operations to search: fewer than two periodic directions.
        """
        if not self.periodic:
            return True
        if self.operations is None:
            return len(isometries(a.positions, b.positions, self.kinds, a.cell, a.pbc, self.within)) > 0
        images = self.operations.images(a.positions[self.movable])
        target, kinds = b.positions[self.movable], self.kinds[self.movable]
        # atoms that moved most between the two fail first
        probes = np.argsort(-np.linalg.norm(displacements(a, b)[self.movable], axis=1), kind="stable")[:PROBES]
        near = self._distances(images[:, probes], target, kinds[probes], kinds, b).min(axis=2).max(axis=1)
        images = images[near <= self.within]
        return any(self._matched(image, target, kinds, b) for image in images)

    def _matched(self, image: Floats, target: Floats, kinds: np.ndarray, lattice: Structure) -> bool:
        """Whether atoms can be paired one to one, none of them further apart than allowed."""
        distances = self._distances(image, target, kinds, kinds, lattice)
        if distances.min(axis=1).max() > self.within:
            return False
        too_far = 1e6 * (distances > self.within)
        rows, columns = linear_sum_assignment(np.where(np.isfinite(distances), distances**2 + too_far, 1e9))
        return bool(distances[rows, columns].max() <= self.within)

    @staticmethod
    def _distances(
        images: Floats, target: Floats, of_images: np.ndarray, of_target: np.ndarray, lattice: Structure
    ) -> Floats:
        """[..., n_images, n_target], Å; infinite between atoms of different kinds."""
        distances = np.linalg.norm(wrap_vectors(images[..., None, :] - target, lattice), axis=-1)
        return np.where(of_images[:, None] == of_target, distances, np.inf)


def _largest(vectors: Floats) -> float:
    """The norm of the longest one."""
    return float(np.linalg.norm(vectors, axis=1).max(initial=0.0))

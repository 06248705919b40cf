"""Symmetry operations of a substrate, a crystal or an arrangement of atoms.

An operation turns or mirrors the whole structure and shifts it so that its lattice, and the atoms it is meant for, come
to lie on themselves. The energy of any structure that has this lattice is the same before and after it, whatever the
other atoms do: forces turn with the structure. Operations are found from the metric of the lattice and from the atoms
themselves, for crystals (three periodic directions) and slabs (two).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from rlpath_core.geometry.cell import Floats, Mask, complete_cell
from rlpath_core.structure import Structure
from rlpath_core.structure.structure import CONTENT_DECIMALS

Ints = NDArray[np.int64]

TOLERANCE = 0.05
"""Å: atoms that an operation brings this close to one of their kind count as mapped onto it."""
LATTICE_TOLERANCE = 0.01
"""Å: by how much the image of a lattice vector may miss a lattice vector."""
PROBES = 3
"""Atoms on which most operations that do not exist fail, before all are looked at."""
ENTRIES = 2_000_000
"""Distances in one array at most."""


@dataclass(frozen=True, eq=False)
class Symmetry:
    """Operations ``x -> rotation @ x + translation``, the identity first.

    Attributes
    ----------
    rotations : ndarray, shape (n_operations, 3, 3)
        Orthogonal matrices in Cartesian axes; a determinant of -1 is a mirror, an inversion or a rotoreflection.
    translations : ndarray, shape (n_operations, 3)
        Å, up to lattice vectors.
    permutations : ndarray of int, shape (n_operations, n_atoms)
        The atom that each atom comes to lie on, counted among the atoms that the operations were asked for.
    deviation : float
        Å: how far the worst atom misses the one it comes to lie on, or the worst lattice vector its image.
    """

    rotations: Floats
    translations: Floats
    permutations: Ints
    deviation: float

    def __len__(self) -> int:
        return len(self.rotations)

    def images(self, positions: Floats) -> Floats:
        """``positions`` (shape (..., n, 3), Å) under every operation: shape (n_operations, ..., n, 3), not wrapped."""
        shape = (len(self), *(1,) * (positions.ndim - 1), 3)
        turned = np.tensordot(positions, self.rotations, axes=([-1], [2]))  # [..., n, operation, 3]
        return np.moveaxis(turned, -2, 0) + self.translations.reshape(shape)

    def some_images(self, positions: Floats, operations: Ints) -> Floats:
        """``positions`` (shape (n_operations, n, 3), Å), each under an operation of its own, not wrapped."""
        turned = positions @ self.rotations[operations].swapaxes(1, 2)
        return np.asarray(turned + self.translations[operations, None], np.float64)


def symmetry_operations(structure: Structure, atoms: Mask | None = None, tolerance: float = TOLERANCE) -> Symmetry:
    """The operations that bring the lattice and the given atoms onto themselves, with pure translations of a supercell.

    Atoms come to lie on atoms of the same element and the same initial magnetic moment. Tags do not matter.

    Parameters
    ----------
    structure : Structure
    atoms : ndarray of bool, shape (n_atoms,), optional
        The rigid substrate. By default the fixed atoms, or all if none is fixed.
    tolerance : float
        Å, for each atom.

    Returns
    -------
    Symmetry
        The identity alone for a molecule, a cluster or a wire (fewer than two periodic directions).
    """
    if atoms is None:
        atoms = structure.fixed if structure.fixed.any() else np.ones(len(structure), bool)
    kinds = atom_kinds(structure.numbers, structure.magmoms)[atoms]
    positions = structure.positions[atoms]
    return isometries(positions, positions, kinds, structure.cell, structure.pbc, tolerance)


def atom_kinds(numbers: Ints, magmoms: Floats) -> Ints:
    """A label per atom, the same for atoms of one element and magnetic moment: shape (n_atoms,)."""
    moments = np.round(magmoms, CONTENT_DECIMALS) + 0.0
    labels = np.unique(np.column_stack((numbers, moments)), axis=0, return_inverse=True)[1]
    return np.asarray(labels.reshape(-1), np.int64)


def lattice_rotations(cell: Floats, pbc: Mask, tolerance: float = LATTICE_TOLERANCE) -> Floats:
    """The point group of a lattice: every rotation and mirror that brings it onto itself, the identity first.

    Parameters
    ----------
    cell : ndarray, shape (3, 3)
        Å; vectors of open directions do not matter.
    pbc : ndarray of bool, shape (3,)
    tolerance : float
        Å: by how much the image of a lattice vector may miss a lattice vector.

    Returns
    -------
    ndarray, shape (n_rotations, 3, 3)
        Orthogonal matrices. For a slab they keep the normal or turn it over. Only the identity with fewer than two
        periodic directions, where the group is infinite.
    """
    if pbc.sum() < 2:
        return np.eye(3)[None]
    basis = _reduced(cell, pbc)
    # A lattice vector as short as one of a reduced basis has small coefficients in it.
    steps = np.array(list(product(*[range(-2, 3) if periodic else (0,) for periodic in pbc])))
    vectors = steps @ basis
    lengths = np.linalg.norm(vectors, axis=1)
    alike = [
        vectors[np.abs(lengths - np.linalg.norm(row)) <= tolerance] if periodic else np.stack((row, -row))
        for row, periodic in zip(basis, pbc, strict=True)
    ]
    chosen = np.meshgrid(*[np.arange(len(some)) for some in alike], indexing="ij")
    images = np.stack([some[which.ravel()] for some, which in zip(alike, chosen, strict=True)], axis=1)
    gram, length = basis @ basis.T, np.linalg.norm(basis, axis=1)
    loose = tolerance * (length[:, None] + length) + tolerance**2
    images = images[(np.abs(images @ images.swapaxes(1, 2) - gram) <= loose).all(axis=(1, 2))]
    u, _, vt = np.linalg.svd(images.swapaxes(1, 2) @ basis)
    rotations = u @ vt
    missed = np.linalg.norm(basis @ rotations.swapaxes(1, 2) - images, axis=2).max(axis=1)
    rotations = rotations[missed <= tolerance]
    return rotations[np.argsort(-np.trace(rotations, axis1=1, axis2=2), kind="stable")]


def isometries(
    source: Floats, target: Floats, kinds: Ints, cell: Floats, pbc: Mask, tolerance: float = TOLERANCE
) -> Symmetry:
    """Every operation that brings a lattice onto itself and one arrangement of atoms in it onto another.

    Parameters
    ----------
    source, target : ndarray, shape (n_atoms, 3)
        Å.
    kinds : ndarray of int, shape (n_atoms,)
        Atoms of the source come to lie on atoms of the target that have the same label.
    cell : ndarray, shape (3, 3)
        Å.
    pbc : ndarray of bool, shape (3,)
    tolerance : float
        Å: the largest distance between an atom and the one it comes to lie on.

    Returns
    -------
    Symmetry
        Without operations if there is none.
    """
    search = _Search.of(target, kinds, cell, pbc)
    # Operations that differ by a translation of the target alone are searched for once.
    _, steps, carried = search.matching(target[None], search.rarest, tolerance)
    turned = source @ lattice_rotations(cell, pbc).swapaxes(1, 2)
    which, shifts, onto = search.matching(turned, np.unique(carried.min(axis=0)[search.rarest]), 2 * tolerance)
    which = np.repeat(which, len(steps))
    shifts = (shifts[:, None] + steps).reshape(-1, 3)
    onto = carried[:, onto].swapaxes(0, 1).reshape(-1, len(source))
    shifts, worst = search.centred(turned, which, shifts, onto)
    keep = worst <= tolerance
    which, shifts, onto = which[keep], search.wrapped(shifts[keep]), onto[keep]
    order = np.lexsort((np.linalg.norm(shifts, axis=1), which))  # rotations are sorted, the identity first
    rotations = lattice_rotations(cell, pbc)[which[order]]
    deviation = max(worst[keep].max(initial=0.0), search.lattice_missed(rotations))
    return Symmetry(rotations, shifts[order], onto[order], float(deviation))


@dataclass(frozen=True, eq=False)
class _Search:
    """Atoms of a lattice that others are to be mapped onto.

    target   [n_atoms, 3], Å
    same     indices of the atoms of each kind
    reduced  [3, 3], Å, a Minkowski-reduced cell
    inverse  [3, 3], turns Å into fractions along periodic directions, and into 0 along open ones
    is_open  [3, 3], projection onto the open directions
    """

    target: Floats
    same: list[Ints]
    reduced: Floats
    inverse: Floats
    is_open: Floats

    @classmethod
    def of(cls, target: Floats, kinds: Ints, cell: Floats, pbc: Mask) -> _Search:
        reduced = _reduced(cell, pbc)
        same = [np.flatnonzero(kinds == kind) for kind in np.unique(kinds)]
        inverse = np.asarray(np.linalg.inv(reduced) * pbc, np.float64)
        return cls(target, same, reduced, inverse, reduced[~pbc].T @ reduced[~pbc])

    @property
    def rarest(self) -> Ints:
        return min(self.same, key=len)

    def wrapped(self, vectors: Floats) -> Floats:
        """Vectors that are close to a lattice vector become short."""
        return vectors - np.round(vectors @ self.inverse) @ self.reduced

    def lattice_missed(self, rotations: Floats) -> float:
        """Å: the largest distance of a turned lattice vector from the lattice."""
        images = self.reduced[np.abs(self.inverse).any(axis=0)] @ rotations.swapaxes(1, 2)
        return float(np.linalg.norm(self.wrapped(images), axis=-1).max(initial=0.0))

    def matching(self, turned: Floats, places: Ints, tolerance: float) -> tuple[Ints, Floats, Ints]:
        """Shifts of turned atoms (shape (n_turned, n_atoms, 3), Å) that bring them onto the target.

        The first atom of the rarest kind comes to lie on one of ``places``. Returned are, per shift, which of
        ``turned`` it is for, the shift, and the atom of the target that each atom comes to lie on.
        """
        first = self.rarest[0]
        shifts = self.target[places] - turned[:, first, None]
        centres = (self.target.mean(axis=0) - turned.mean(axis=1))[:, None]
        astray = (centres - shifts) @ self.is_open  # along open directions, centre has to lie on centre
        near = np.linalg.norm(astray, axis=2) <= 2 * tolerance
        which, shifts = np.nonzero(near)[0], (shifts + astray)[near]
        # An atom off its place by the tolerance shifts all others by as much again.
        for probe, among in [(atom, block) for block in self.same for atom in block[-PROBES:]][:PROBES]:
            near = np.zeros(len(which), bool)
            for part in _parts(len(which), len(among)):
                off = self.wrapped((turned[which[part], probe] + shifts[part])[:, None] - self.target[among])
                near[part] = (off**2).sum(axis=2).min(axis=1) <= (2 * tolerance) ** 2
            which, shifts = which[near], shifts[near]
        onto = np.empty((len(which), len(self.target)), np.int64)
        for block in self.same:
            for part in _parts(len(which), len(block) ** 2):
                moved = turned[which[part]][:, block] + shifts[part][:, None]
                off = self.wrapped(moved[:, :, None] - self.target[block])
                onto[part, block] = block[(off**2).sum(axis=3).argmin(axis=2)]
        shifts, worst = self.centred(turned, which, shifts, onto)
        keep = (worst <= tolerance) & (np.sort(onto, axis=1) == np.arange(len(self.target))).all(axis=1)
        return which[keep], shifts[keep], onto[keep]

    def centred(self, turned: Floats, which: Ints, shifts: Floats, onto: Ints) -> tuple[Floats, Floats]:
        """The shifts after which no atom misses its place on average, and by how much (Å) the worst one does."""
        out, worst = shifts.copy(), np.zeros(len(which))
        for part in _parts(len(which), self.target.size):
            missed = self.wrapped(self.target[onto[part]] - turned[which[part]] - shifts[part][:, None])
            mean = missed.mean(axis=1)
            out[part] += mean
            worst[part] = np.linalg.norm(missed - mean[:, None], axis=2).max(axis=1)
        return out, worst


def _reduced(cell: Floats, pbc: Mask) -> Floats:
    from ase.geometry import minkowski_reduce

    return np.array(minkowski_reduce(complete_cell(cell, pbc), pbc)[0])


def _parts(count: int, each: int) -> list[slice]:
    """Slices of ``count`` entries, so that ``each`` values for all of a slice fit into memory."""
    step = max(1, ENTRIES // max(each, 1))
    return [slice(start, start + step) for start in range(0, count, step)]

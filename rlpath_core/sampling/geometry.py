"""Periodic geometry of a structure: neighbours, bonds, fragments, which atoms move and which are adsorbed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np
from ase.data import covalent_radii
from matscipy.neighbours import neighbour_list
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from rlpath_core.structure import Structure

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
P = ParamSpec("P")
R = TypeVar("R")

BOND_FACTOR = 1.25
VACUUM = 5.0
"""A gap wider than this (Å) along a lattice vector makes a slab of a periodic structure."""


def remembered(function: Callable[P, R]) -> Callable[P, R]:
    """Keep what ``function`` finds with the object that is its first argument: many draws are made from one structure.

    For functions of objects that never change, whose results nobody changes.
    """

    @wraps(function)
    def look(*given: P.args, **options: P.kwargs) -> R:
        key = (
            function.__name__,
            *(g.tobytes() if isinstance(g, np.ndarray) else g for g in given[1:]),
            *options.items(),
        )
        found: dict[Any, R] = given[0].__dict__.setdefault("remembered", {})
        if key not in found:
            found[key] = function(*given, **options)
        return found[key]

    return look


def full_cell(structure: Structure) -> Floats:
    """The cell [3, 3] with a box of its own wherever a direction is not periodic and has no lattice vector."""
    cell = structure.cell.copy()
    if structure.pbc.all():
        return cell
    extent = np.ptp(structure.positions, axis=0).max() + 20.0
    empty = np.flatnonzero(~structure.pbc)
    cell[empty] = 0.0
    taken = cell[structure.pbc]
    # directions at right angles to the periodic ones: the null space of their rows
    normals = np.linalg.svd(taken, full_matrices=True)[2][len(taken) :] if len(taken) else np.eye(3)
    cell[empty] = normals * extent
    return cell


def neighbours(structure: Structure, quantities: str, cutoff: Any) -> tuple[NDArray[Any], ...]:
    """matscipy's periodic neighbour list, for cells of any shape, mixed periodicity and no cell at all.

    ``cutoff`` is a distance in Å or a radius per atom [n_atoms]: spheres that overlap are neighbours.
    """
    cell = full_cell(structure)
    origin = structure.positions.min(axis=0) - 1.0 if not structure.pbc.any() else np.zeros(3)
    found = neighbour_list(
        quantities, positions=structure.positions, cell=cell, pbc=structure.pbc, cutoff=cutoff, cell_origin=origin
    )
    return found if isinstance(found, tuple) else (found,)


@remembered
def pairs_within(structure: Structure, cutoff: float) -> tuple[NDArray[Any], ...]:
    """``neighbours`` as i, j, distance [n_pairs] and vector [n_pairs, 3], within ``cutoff`` Å."""
    return neighbours(structure, "ijdD", cutoff)


@remembered
def cell_and_inverse(given: Structure) -> tuple[Floats, Floats]:
    """Of the periodic directions alone: [n_periodic, 3] and [3, n_periodic]."""
    cell, periodic = full_cell(given), np.flatnonzero(given.pbc)
    return cell[periodic], np.asarray(np.linalg.inv(cell)[:, periodic], np.float64)


def nearly_nearest(vectors: Floats, given: Structure) -> Floats:
    """``vectors`` [..., 3] within half of each lattice vector of ``given``: nearest images, or next to them."""
    cell, inverse = cell_and_inverse(given)
    return vectors - np.round(vectors @ inverse) @ cell if len(cell) else vectors


def displacements(after: Structure, before: Structure) -> Floats:
    """[n_atoms, 3] Å from ``before`` to ``after``, in the same cell, by the nearest periodic image."""
    from ase.geometry import find_mic

    moved = after.positions - before.positions
    if not after.pbc.any():
        return moved
    apart = 1 / np.linalg.norm(cell_and_inverse(before)[1], axis=0)
    if 2 * np.linalg.norm(moved, axis=1).max() < apart.min():  # no image can be nearer
        return moved
    return find_mic(moved, full_cell(after), after.pbc)[0]


@dataclass(frozen=True)
class Roles:
    """What each atom is for sampling; the same along a whole walk. All masks are [n_atoms].

    movable    atoms that may move (the others are the core)
    adsorbate  movable atoms on the surface; for a molecule all movable atoms; none for a clean slab
    normal     unit vector out of the surface, None where there is no surface
    given      the structure that the walk was given
    """

    movable: Mask
    adsorbate: Mask
    normal: Floats | None
    given: Structure

    @property
    def active(self) -> Mask:
        """What the actions that need a fragment choose from: the adsorbate, without one everything movable."""
        return self.adsorbate if self.adsorbate.any() else self.movable


def infer_roles(structure: Structure) -> Roles:
    """Movable and adsorbed atoms from ``fixed`` and ``tags`` where given, else from layers along the normal.

    Without ``fixed``, the lower half of a slab stays and everything of a molecule or a bulk crystal moves.
    """
    n = len(structure)
    axis = _surface_axis(structure)
    if axis is None:
        movable = ~structure.fixed
        given = _tagged(structure)
        return Roles(movable, movable & given if (movable & given).any() else movable, None, structure)
    cell = full_cell(structure)
    normal = np.cross(cell[(axis + 1) % 3], cell[(axis + 2) % 3])
    normal /= np.linalg.norm(normal)
    normal *= np.sign(normal @ cell[axis])
    height = _heights(structure, cell, axis, normal)
    adsorbate = _tagged(structure)
    if not adsorbate.any():
        adsorbate = _above_layers(height)
    movable = ~structure.fixed
    if not structure.fixed.any():
        slab = height[~adsorbate] if (~adsorbate).any() else height
        movable = adsorbate | (height > (slab.min() + slab.max()) / 2 + 1e-6)
        if not movable.any():  # a single layer: nothing tells a bottom from a top
            movable = np.ones(n, bool)
    return Roles(movable, adsorbate & movable, normal, structure)


def _tagged(structure: Structure) -> Mask:
    """The adsorbate by its tags. Tags past 2 are not ours: ASE's builders number a slab's layers from the top."""
    return (structure.tags == 2) & (structure.tags.max() <= 2)


def _surface_axis(structure: Structure) -> int | None:
    """The lattice direction along which a periodic structure has vacuum; None for a molecule or a crystal."""
    if not structure.pbc.any():
        return None
    cell = full_cell(structure)
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    gaps = np.array([_gap(structure, cell, axis)[0] * heights[axis] for axis in range(3)])
    gaps[~structure.pbc] = np.inf
    return int(gaps.argmax()) if gaps.max() > VACUUM else None


def _gap(structure: Structure, cell: Floats, axis: int) -> tuple[float, float]:
    """Widest empty stretch along a lattice vector, and where it ends: fractions of the vector."""
    fractions = np.sort(np.linalg.solve(cell.T, structure.positions.T)[axis] % 1.0)
    gaps = np.diff(fractions, append=fractions[0] + 1)
    widest = int(gaps.argmax())
    return float(gaps[widest]), float(fractions[(widest + 1) % len(fractions)])


def _heights(structure: Structure, cell: Floats, axis: int, normal: Floats) -> Floats:
    """[n_atoms] Å above the lowest atom, with the vacuum at the top."""
    if not structure.pbc[axis]:
        height = structure.positions @ normal
        return height - height.min()
    bottom = _gap(structure, cell, axis)[1]
    fractions = np.linalg.solve(cell.T, structure.positions.T)[axis]
    return (fractions - bottom + 1e-9) % 1.0 * abs(cell[axis] @ normal)


def _above_layers(height: Floats, spacing: float = 0.7) -> Mask:
    """Atoms above the topmost full layer; a layer is full with at least half as many atoms as the lowest."""
    order = np.argsort(height)
    layer = np.empty(len(height), int)
    layer[order] = np.concatenate([[0], np.cumsum(np.diff(height[order]) > spacing)])
    count = np.bincount(layer)
    full = np.flatnonzero(2 * count > count[0])
    return layer > full.max()


def sum_radii(structure: Structure, i: NDArray[Any], j: NDArray[Any]) -> Floats:
    """Sum of covalent radii (Cordero 2008, doi:10.1039/b801115j) of each pair, Å."""
    radii = covalent_radii[structure.numbers]
    return radii[i] + radii[j]


@dataclass(frozen=True, eq=False)
class Bonds:
    """Bonded pairs, each in both directions: ``vector`` [n_pairs, 3] leads from ``i`` to ``j``'s image."""

    i: NDArray[np.int64]
    j: NDArray[np.int64]
    vector: Floats

    @remembered
    def within(self, mask: Mask) -> Bonds:
        keep = mask[self.i] & mask[self.j]
        return Bonds(self.i[keep], self.j[keep], self.vector[keep])

    def graph(self, n: int) -> coo_array:
        return coo_array((np.ones(len(self.i)), (self.i, self.j)), shape=(n, n))


@remembered
def bonds(structure: Structure, factor: float = BOND_FACTOR, cap: float | None = None) -> Bonds:
    """Pairs nearer than ``factor`` x the sum of their covalent radii, and than ``cap`` Å."""
    i, j, d, vector = neighbours(structure, "ijdD", covalent_radii[structure.numbers] * factor)
    keep = i != j
    if cap is not None:
        keep &= d <= cap
    return Bonds(i[keep].astype(np.int64), j[keep].astype(np.int64), vector[keep])


@dataclass(frozen=True)
class Fragment:
    """Atoms that move as one. ``positions`` [n, 3] are unwrapped along the bonds; ``endless``: bonded to its image."""

    atoms: NDArray[np.int64]
    positions: Floats
    endless: bool


@remembered
def fragments(structure: Structure, mask: Mask, bonded: Bonds | None = None) -> list[NDArray[np.int64]]:
    """Connected pieces of the atoms in ``mask``, each an index array, in the order of their first atoms."""
    bonded = (bonds(structure) if bonded is None else bonded).within(mask)
    label = connected_components(bonded.graph(len(structure)), directed=False)[1]
    chosen = np.flatnonzero(mask)
    return [chosen[label[chosen] == one] for one in dict.fromkeys(label[chosen].tolist())]


@remembered
def unwrap(structure: Structure, atoms: NDArray[np.int64], bonded: Bonds) -> Fragment:
    """The atoms of one connected piece at positions that no periodic boundary cuts."""
    mask = np.zeros(len(structure), bool)
    mask[atoms] = True
    inner = bonded.within(mask)
    positions = structure.positions.copy()
    if len(atoms) == 1:
        return Fragment(atoms, positions[atoms], len(inner.i) > 0)
    order, parent = breadth_first_order(inner.graph(len(structure)).tocsr(), atoms[0], directed=False)
    pair = inner.i * len(structure) + inner.j
    sort = np.argsort(pair, kind="stable")
    index = sort[np.searchsorted(pair[sort], parent[order[1:]].astype(np.int64) * len(structure) + order[1:])]
    step = np.zeros_like(positions)
    step[order[1:]] = inner.vector[index]
    offset = np.zeros_like(positions)
    above = np.where(parent < 0, atoms[0], parent)
    # follow the parents upwards, all atoms at once; as many turns as the tree is deep
    at = np.arange(len(structure))
    while (at[atoms] != atoms[0]).any():
        offset += step[at]
        at = above[at]
        at[~mask] = atoms[0]
    positions = structure.positions[atoms[0]] + offset
    off = positions[inner.i] + inner.vector - positions[inner.j]
    return Fragment(atoms, positions[atoms], bool(len(off) and np.abs(off).max() > 1e-4))


def choose_fragment(
    structure: Structure, roles: Roles, rng: np.random.Generator, bonded: Bonds | None = None, at_least: int = 1
) -> Fragment | None:
    """A random fragment of what may be moved; None where none has ``at_least`` so many atoms.

    Moving all of a free molecule as one changes nothing, and a piece of the slab is bonded all over: there, the
    smaller side of a random cuttable bond is taken, else a single atom.
    """
    bonded = bonds(structure) if bonded is None else bonded
    if roles.adsorbate.any():
        pieces = [piece for piece in fragments(structure, roles.adsorbate, bonded) if len(piece) >= at_least]
        if not pieces:
            return None
        piece = pieces[rng.integers(len(pieces))]
        if len(piece) < len(structure):
            return unwrap(structure, piece, bonded)
        cut = sides(structure, bonded)
        drawn = [cut[bond] for bond in zip(bonded.i.tolist(), bonded.j.tolist(), strict=True) if bond in cut]
        drawn = [side for side in drawn if at_least <= len(side) <= len(structure) / 2]
        if drawn:
            return unwrap(structure, drawn[rng.integers(len(drawn))], bonded)
    if at_least > 1:
        return None
    atom = rng.choice(np.flatnonzero(roles.active))
    return Fragment(np.array([atom]), structure.positions[[atom]], False)


@remembered
def sides(structure: Structure, bonded: Bonds) -> dict[tuple[int, int], NDArray[np.int64]]:
    """For every bond (i, j) whose cut leaves two pieces, the atoms on ``j``'s side. A bond in a ring is not there.

    All at once, by one spanning forest: a bond of it is in no ring when no other bond leads out of what hangs below it.
    """
    n = len(structure)
    pairs = np.unique(np.sort(np.column_stack([bonded.i, bonded.j]), axis=1), axis=0)
    label = connected_components(bonded.graph(n), directed=False)[1]
    roots = np.unique(label, return_index=True)[1]
    ends = np.concatenate([pairs, np.column_stack([np.full(len(roots), n), roots])]).T
    parent = breadth_first_order(coo_array((np.ones(len(ends[0])), tuple(ends)), (n + 1, n + 1)), n, directed=False)[1]
    parent[n] = n
    below = np.zeros((n, n + 1), bool)  # [atom, top]: the atom hangs below, or is, the top
    at = np.arange(n)
    while (at < n).any():  # as many turns as the forest is deep
        below[np.arange(n), at] = True
        at = parent[at]
    leaving = (below[pairs[:, 0]] ^ below[pairs[:, 1]]).sum(axis=0)
    found: dict[tuple[int, int], NDArray[np.int64]] = {}
    for top in np.flatnonzero((leaving[:n] == 1) & (parent[:n] < n)):
        mine = below[:, top]
        found[int(parent[top]), int(top)] = np.flatnonzero(mine)
        found[int(top), int(parent[top])] = np.flatnonzero(~mine & (label == label[top]))
    return found


def rotation(axis: Floats, degrees: float) -> Floats:
    """Rotation matrix [3, 3]; apply as ``vectors @ matrix.T``."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_rotvec(np.radians(degrees) * axis / np.linalg.norm(axis)).as_matrix()


def direction(rng: np.random.Generator) -> Floats:
    """A unit vector [3], uniform on the sphere."""
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)

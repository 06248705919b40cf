"""Connected pieces of a structure, and the pieces that cutting a bond leaves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from rlpath_core.geometry.bonds import Bonds, bonds
from rlpath_core.geometry.cached import cached_on_object
from rlpath_core.geometry.cell import Floats, Mask
from rlpath_core.geometry.slab import Roles
from rlpath_core.structure import Structure


@dataclass(frozen=True)
class Fragment:
    """Atoms that move as one.

    Attributes
    ----------
    atoms : ndarray of int, shape (n,)
    positions : ndarray, shape (n, 3)
        Å, unwrapped along the bonds.
    endless : bool
        Whether it is bonded to an image of itself, so that no unwrapped positions satisfy all bonds.
    """

    atoms: NDArray[np.int64]
    positions: Floats
    endless: bool


@cached_on_object
def fragments(structure: Structure, mask: Mask, bonded: Bonds | None = None) -> list[NDArray[np.int64]]:
    """Connected pieces of the atoms in ``mask``.

    Parameters
    ----------
    structure : Structure
    mask : ndarray of bool, shape (n_atoms,)
    bonded : Bonds, optional
        ``bonds(structure)`` if not given. Bonds to atoms outside ``mask`` are left out.

    Returns
    -------
    list of ndarray of int
        The atoms of each piece; pieces in the order of their first atoms.
    """
    bonded = (bonds(structure) if bonded is None else bonded).within(mask)
    label = connected_components(bonded.graph(len(structure)), directed=False)[1]
    chosen = np.flatnonzero(mask)
    return [chosen[label[chosen] == one] for one in dict.fromkeys(label[chosen].tolist())]


@cached_on_object
def unwrap(structure: Structure, atoms: NDArray[np.int64], bonded: Bonds) -> Fragment:
    """One connected piece (``atoms``, as ``fragments`` returns it) at positions that no periodic boundary cuts."""
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
    # follow the parents upwards, all atoms at once
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
    """Draw a fragment that may be moved.

    Adsorbed molecules are drawn whole. Moving all of a free molecule changes nothing, so the smaller side of a random
    bond is drawn there; in a slab without an adsorbate, a single atom.

    Parameters
    ----------
    structure : Structure
    roles : Roles
    rng : numpy.random.Generator
    bonded : Bonds, optional
        ``bonds(structure)`` if not given.
    at_least : int
        Smallest number of atoms.

    Returns
    -------
    Fragment or None
        None if no fragment has ``at_least`` atoms.
    """
    bonded = bonds(structure) if bonded is None else bonded
    if roles.adsorbate.any():
        pieces = [piece for piece in fragments(structure, roles.adsorbate, bonded) if len(piece) >= at_least]
        if not pieces:
            return None
        piece = pieces[rng.integers(len(pieces))]
        if len(piece) < len(structure):
            return unwrap(structure, piece, bonded)
        sides = bond_sides(structure, bonded)
        movable = [sides[bond] for bond in zip(bonded.i.tolist(), bonded.j.tolist(), strict=True) if bond in sides]
        movable = [side for side in movable if at_least <= len(side) <= len(structure) / 2]
        if movable:
            return unwrap(structure, movable[rng.integers(len(movable))], bonded)
    if at_least > 1:
        return None
    atom = rng.choice(np.flatnonzero(roles.active))
    return Fragment(np.array([atom]), structure.positions[[atom]], False)


@cached_on_object
def bond_sides(structure: Structure, bonded: Bonds) -> dict[tuple[int, int], NDArray[np.int64]]:
    """Atoms on either side of each bond that is not part of a ring.

    All bonds at once, by one spanning forest: a bond of the forest is in no ring if no other bond leaves the subtree
    below it.

    Parameters
    ----------
    structure : Structure
    bonded : Bonds

    Returns
    -------
    dict
        Maps (i, j) to the atoms on the side of ``j``; bonds in rings are left out.
    """
    n = len(structure)
    pairs = np.unique(np.sort(np.column_stack([bonded.i, bonded.j]), axis=1), axis=0)
    label = connected_components(bonded.graph(n), directed=False)[1]
    roots = np.unique(label, return_index=True)[1]
    ends = np.concatenate([pairs, np.column_stack([np.full(len(roots), n), roots])]).T
    parent = breadth_first_order(coo_array((np.ones(len(ends[0])), tuple(ends)), (n + 1, n + 1)), n, directed=False)[1]
    parent[n] = n
    below = np.zeros((n, n + 1), bool)  # [atom, top]: the atom is in the subtree of top
    at = np.arange(n)
    while (at < n).any():
        below[np.arange(n), at] = True
        at = parent[at]
    leaving = (below[pairs[:, 0]] ^ below[pairs[:, 1]]).sum(axis=0)
    atoms: dict[tuple[int, int], NDArray[np.int64]] = {}
    for top in np.flatnonzero((leaving[:n] == 1) & (parent[:n] < n)):
        subtree = below[:, top]
        atoms[int(parent[top]), int(top)] = np.flatnonzero(subtree)
        atoms[int(top), int(parent[top])] = np.flatnonzero(~subtree & (label == label[top]))
    return atoms

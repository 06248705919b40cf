"""Connected pieces of a structure, and the pieces that cutting a bond leaves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from rlpath_core.geometry.bonds import BOND_FACTOR, Bonds, bonds
from rlpath_core.geometry.cached import cached_on_object
from rlpath_core.geometry.cell import Floats, Mask
from rlpath_core.geometry.neighbours import neighbours
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


def periodicity(structure: Structure, mask: Mask | None = None) -> NDArray[np.int64]:
    """In how many directions the connected piece that each atom belongs to goes on for ever.

    A bond that closes a loop leads back to the same atom or to an image of it; the images that a piece reaches span a
    lattice, whose rank is returned.

    Parameters
    ----------
    structure : Structure
    mask : ndarray of bool, shape (n_atoms,), optional
        Only bonds between these atoms count; all if not given.

    Returns
    -------
    ndarray of int, shape (n_atoms,)
        0 for a molecule, 1 for a chain, 2 for a sheet or a slab, 3 for a crystal; 0 for atoms outside ``mask``.
    """
    n = len(structure)
    i, j, image = neighbours(structure, "ijS", covalent_radii[structure.numbers] * BOND_FACTOR)
    image = image * structure.pbc
    if mask is not None:
        keep = mask[i] & mask[j]
        i, j, image = i[keep], j[keep], image[keep]
    label = connected_components(coo_array((np.ones(len(i)), (i, j)), (n, n)), directed=False)[1]
    roots = np.unique(label, return_index=True)[1]
    ends = np.concatenate([i, np.full(len(roots), n)]), np.concatenate([j, roots])
    parent = breadth_first_order(coo_array((np.ones(len(ends[0])), ends), (n + 1, n + 1)), n, directed=False)[1]
    bonded = np.flatnonzero(parent[:n] < n)
    pair = i.astype(np.int64) * n + j
    sort = np.argsort(pair, kind="stable")
    edge = sort[np.searchsorted(pair[sort], parent[bonded].astype(np.int64) * n + bonded)]
    step = np.zeros((n + 1, 3), int)  # from the cell of an atom's parent in the spanning tree to its own
    step[bonded] = image[edge]
    parent[n] = n
    cell, at = np.zeros((n, 3), int), np.arange(n)
    while (at < n).any():
        cell += step[at]
        at = parent[at]
    loops = cell[i] + image - cell[j]
    rank = np.zeros(len(roots), int)
    for piece in np.unique(label[i[loops.any(axis=1)]]):
        rank[piece] = np.linalg.matrix_rank(np.unique(loops[label[i] == piece], axis=0))
    return rank[label]

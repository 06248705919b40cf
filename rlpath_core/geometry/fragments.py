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
    """Atoms that move as one. ``positions`` [n, 3] are unwrapped along the bonds; ``endless``: bonded to its image."""

    atoms: NDArray[np.int64]
    positions: Floats
    endless: bool


@cached_on_object
def fragments(structure: Structure, mask: Mask, bonded: Bonds | None = None) -> list[NDArray[np.int64]]:
    """Connected pieces of the atoms in ``mask``, each an index array, in the order of their first atoms."""
    bonded = (bonds(structure) if bonded is None else bonded).within(mask)
    label = connected_components(bonded.graph(len(structure)), directed=False)[1]
    chosen = np.flatnonzero(mask)
    return [chosen[label[chosen] == one] for one in dict.fromkeys(label[chosen].tolist())]


@cached_on_object
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


@cached_on_object
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

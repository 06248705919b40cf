"""Slabs: the vacuum, the surface normal, which atoms move and which are adsorbed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlpath_core.geometry.cell import Floats, Mask, full_cell
from rlpath_core.structure import Structure

VACUUM = 5.0
"""A gap wider than this (Å) along a lattice vector makes a slab of a periodic structure."""


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

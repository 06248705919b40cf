"""Slabs: where the vacuum is, the surface normal, which atoms move and which are adsorbed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlpath_core.geometry.cell import Floats, Mask, closed_cell, fractional, thickness
from rlpath_core.structure import Structure

VACUUM = 5.0
"""Å: a wider gap between the atoms along a lattice direction is vacuum."""


@dataclass(frozen=True)
class Gap:
    """The widest empty stretch along a lattice direction, in fractions of its vector: both ends in [0, 1]."""

    begin: float
    end: float
    size: float

    @property
    def middle(self) -> float:
        return (self.begin + self.size / 2) % 1.0


def widest_gap(fractions: Floats) -> Gap:
    """The widest stretch without an atom in a period.

    Parameters
    ----------
    fractions : ndarray, shape (n_atoms,)
        Fractional coordinates along one direction, wrapped or not.
    """
    ordered = np.sort(fractions % 1.0)
    sizes = np.diff(ordered, append=ordered[0] + 1.0)
    widest = int(sizes.argmax())
    end = ordered[(widest + 1) % len(ordered)]
    return Gap(float(ordered[widest]), float(end), float(sizes[widest]))


def above_gap(fractions: Floats) -> Floats:
    """Fractional heights above the end of the widest gap: shape (n_atoms,), in [0, 1), the lowest atom at 0.

    A slab that the cell's boundary cuts keeps its bottom. An atom a rounding error below the lowest one is at 0 too,
    not a whole period above it.
    """
    height = (fractions % 1.0 - widest_gap(fractions).end) % 1.0
    return np.where(height > 1.0 - 1e-9, 0.0, height)


def gap_widths(structure: Structure) -> Floats:
    """Width of the widest gap along each lattice direction: shape (3,), Å, infinite along open directions."""
    cell = closed_cell(structure)
    fractions = fractional(structure.positions, cell)
    widths = np.array([widest_gap(along).size for along in fractions.T]) * thickness(cell)
    return np.where(structure.pbc, widths, np.inf)


def surface_axis(structure: Structure) -> int | None:
    """The lattice direction along which a periodic structure has vacuum; None for a molecule or a crystal."""
    if not structure.pbc.any():
        return None
    widths = gap_widths(structure)
    return int(widths.argmax()) if widths.max() > VACUUM else None


@dataclass(frozen=True)
class Roles:
    """The role of each atom in sampling, the same along a whole walk.

    Attributes
    ----------
    movable : ndarray of bool, shape (n_atoms,)
        Atoms that may move; the others are the core.
    adsorbate : ndarray of bool, shape (n_atoms,)
        Movable atoms on the surface; all movable atoms of a molecule; none of a clean slab.
    normal : ndarray, shape (3,), or None
        Unit vector out of the surface, None if there is no surface.
    given : Structure
        The structure that the roles were inferred from.
    """

    movable: Mask
    adsorbate: Mask
    normal: Floats | None
    given: Structure

    @property
    def active(self) -> Mask:
        """Atoms that actions on fragments choose from: the adsorbate, or if there is none everything movable."""
        return self.adsorbate if self.adsorbate.any() else self.movable


def infer_roles(structure: Structure) -> Roles:
    """Movable and adsorbed atoms, from ``fixed`` and ``tags`` if given, else from layers along the normal.

    Without ``fixed``, the lower half of a slab stays and everything of a molecule or a bulk crystal moves.
    """
    n = len(structure)
    axis = surface_axis(structure)
    if axis is None:
        movable = ~structure.fixed
        tagged = _tagged(structure)
        return Roles(movable, movable & tagged if (movable & tagged).any() else movable, None, structure)
    cell = closed_cell(structure)
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
        if not movable.any():  # a single layer has no lower half
            movable = np.ones(n, bool)
    return Roles(movable, adsorbate & movable, normal, structure)


def _tagged(structure: Structure) -> Mask:
    """The adsorbate by its tags. Tags above 2 are ASE's numbers of layers from the top, and say nothing of it."""
    return (structure.tags == 2) & (structure.tags.max() <= 2)


def _heights(structure: Structure, cell: Floats, axis: int, normal: Floats) -> Floats:
    """Heights above the lowest atom, with the vacuum at the top: shape (n_atoms,), Å."""
    if not structure.pbc[axis]:
        height = structure.positions @ normal
        return height - height.min()
    return above_gap(fractional(structure.positions, cell)[:, axis]) * abs(cell[axis] @ normal)


def _above_layers(height: Floats, spacing: float = 0.7) -> Mask:
    """Atoms above the topmost full layer; a layer is full with at least half as many atoms as the lowest."""
    order = np.argsort(height)
    layer = np.empty(len(height), int)
    layer[order] = np.concatenate([[0], np.cumsum(np.diff(height[order]) > spacing)])
    count = np.bincount(layer)
    full = np.flatnonzero(2 * count > count[0])
    return layer > full.max()

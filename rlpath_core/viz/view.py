"""Where everything stands in the picture: the camera from the slab's normal, the cell, one image of every atom.

All frames of one system share a view, so that nothing jumps but what moves.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase.data import covalent_radii

from rlpath_core.geometry.cell import Floats, closed_cell, fractional
from rlpath_core.geometry.fragments import fragments as pieces
from rlpath_core.geometry.fragments import unwrap
from rlpath_core.geometry.slab import infer_roles, widest_gap
from rlpath_core.structure import Structure
from rlpath_core.viz.bonds import drawn_bonds

ELEVATION = 32.0
"""Degrees above the surface that the camera looks down from."""
AZIMUTH = 17.0
"""Degrees off the lattice direction, so that rows of atoms do not hide behind each other."""
MARGIN = 0.6
"""Å between the outermost spheres and the edge of the picture, and from the lowest atom down to the drawn cell."""
GRID = 0.5
"""Å: the picture's extent is rounded up to it, so that a few new frames seldom change the view of the others."""


@dataclass(frozen=True)
class View:
    """How one system is looked at; lengths Å.

    right, up, towards  [3] unit vectors of the picture; ``towards`` leads to the camera (orthographic)
    centre              [3] in the middle of the picture
    half                half its width and height that must be seen, before the pixels' aspect
    lines               [n, 2, 3] edges of the cell
    """

    right: Floats
    up: Floats
    towards: Floats
    centre: Floats
    half: tuple[float, float]
    lines: Floats


def sphere_radii(structure: Structure, scale: float) -> Floats:
    """[n_atoms] Å: covalent radii drawn together, so that hydrogen is seen beside a metal; fixed atoms smaller."""
    radii: Floats = scale * np.sqrt(0.9 * covalent_radii[structure.numbers])
    return radii * np.where(structure.fixed, 0.85, 1.0)


def system_of(structure: Structure) -> bytes:
    """What frames have in common that share a view: the same atoms in the same cell."""
    parts = (structure.numbers, np.round(structure.cell, 4) + 0.0, structure.pbc, structure.fixed, structure.tags)
    return b"|".join(array.tobytes() for array in parts)


def _middle_of_vacuum(structure: Structure, axis: int) -> float:
    """As a fraction of the lattice vector that leads through it."""
    gap = widest_gap(fractional(structure.positions, closed_cell(structure))[:, axis])
    return gap.begin + gap.size / 2


def _between(fractions: Floats, wanted: float) -> float:
    """Near ``wanted``, the middle of a gap between layers of atoms: none of them lies on the border of the cell."""
    if not len(fractions):
        return wanted
    ordered = np.sort(fractions % 1.0)
    gaps = np.diff(ordered, append=ordered[0] + 1.0)
    wide = gaps >= 0.6 * gaps.max()
    middles = (ordered + gaps / 2)[wide]
    away = middles - wanted
    return float(wanted + min(away - np.round(away), key=abs))


class Placement:
    """Chooses the image of every atom: slab atoms stay where the first frame has them, what is adsorbed stays whole.

    The cell is shifted along the surface so that the first frame's adsorbate is in its middle.
    """

    def __init__(self, first: Structure) -> None:
        roles = infer_roles(first)
        self.normal = roles.normal
        self.cell = closed_cell(first)
        self.inverse = np.linalg.inv(self.cell)
        self.pbc = first.pbc
        self.loose = roles.adsorbate if self.normal is not None else np.zeros(len(first), bool)
        fractions = first.positions @ self.inverse
        self.origin = np.zeros(3)
        middle = fractions[self.loose] if self.loose.any() else fractions[:0]
        if len(middle):
            angle = np.angle(np.exp(2j * np.pi * middle).mean(axis=0)) / (2 * np.pi)
            rest = fractions[~self.loose]
            self.origin = np.array([_between(rest[:, k], angle[k] - 0.5) for k in range(3)])
        self.axis = roles.axis
        if self.axis is not None:
            self.origin[self.axis] = _middle_of_vacuum(first, self.axis)
        self.origin = np.where(self.pbc, self.origin, 0.0)
        home = fractions - self.origin
        # an atom on the border stays on one side of it, whatever the digits
        home = home - np.where(self.pbc, np.floor(home + 1e-4), 0.0)
        self.home = home + self.origin

    def place(self, structure: Structure) -> Structure:
        """The structure with every atom at the image to draw."""
        fractions = structure.positions @ self.inverse
        away = fractions - self.home
        fractions = self.home + away - np.where(self.pbc, np.round(away), 0.0)
        if self.loose.any():
            bonded = drawn_bonds(structure)
            for atoms in pieces(structure, self.loose, bonded):  # molecules, not atoms
                whole = unwrap(structure, atoms, bonded).positions @ self.inverse - self.origin
                shift = np.where(self.pbc, np.floor(whole.mean(axis=0) + 1e-4), 0.0)
                fractions[atoms] = whole - shift + self.origin
        return structure.moved(fractions @ self.cell)

    def view(self, placed: Sequence[Structure], scale: float) -> View:
        """What shows all of ``placed`` (of one system), with spheres of ``scale`` covalent radii."""
        towards, up = self._camera(placed[0])
        right = np.cross(up, towards)
        points = np.concatenate([structure.positions for structure in placed])
        radii = np.tile(sphere_radii(placed[0], scale), len(placed))
        lines = self._lines(np.concatenate([structure.positions[~self.loose] for structure in placed]))
        seen = np.concatenate([points, lines.reshape(-1, 3)])
        wide = np.concatenate([radii, np.zeros(2 * len(lines))]) + MARGIN
        across, along = seen @ right, seen @ up
        low = np.array([(across - wide).min(), (along - wide).min()])
        high = np.array([(across + wide).max(), (along + wide).max()])
        low, high = np.floor(low / GRID) * GRID, np.ceil(high / GRID) * GRID
        middle = (low + high) / 2
        centre = middle[0] * right + middle[1] * up + (seen @ towards).mean() * towards
        return View(right, up, towards, centre, tuple((high - low) / 2), lines)  # type: ignore[arg-type]

    def _camera(self, first: Structure) -> tuple[Floats, Floats]:
        """Directions to the camera and up. A molecule is seen along its shortest axis."""
        if self.normal is None:
            if self.pbc.all():
                normal = np.cross(self.cell[0], self.cell[1])
                normal /= np.linalg.norm(normal)
                return self._raised(normal, self.cell[0])
            axes = np.linalg.svd(first.positions - first.positions.mean(axis=0), full_matrices=True)[2]
            return axes[2], axes[1]
        return self._raised(self.normal, self.cell[(self.axis + 1) % 3])  # type: ignore[operator]

    @staticmethod
    def _raised(normal: Floats, along: Floats) -> tuple[Floats, Floats]:
        side = along - (along @ normal) * normal
        side /= np.linalg.norm(side)
        front = np.cross(side, normal)
        turn, rise = np.radians(AZIMUTH), np.radians(ELEVATION)
        level = np.cos(turn) * front + np.sin(turn) * side
        return np.cos(rise) * level + np.sin(rise) * normal, np.cos(rise) * normal - np.sin(rise) * level

    def _lines(self, points: Floats) -> Floats:
        """Edges of the cell. Of a slab's cell the vacuum is left out: base, and upright edges to just past the slab.

        A direction that is not periodic has no edges.
        """
        ends = np.array([np.zeros(3), np.ones(3)])
        base = 0
        if self.axis is not None and self.normal is not None:
            along = (points @ self.inverse)[:, self.axis] - self.origin[self.axis]
            rim = 2 * MARGIN / (self.cell[self.axis] @ self.normal)
            base = 0 if rim > 0 else 1
            ends[:, self.axis] = along.min() - abs(rim), along.max() + abs(rim)
        edges = []
        for axis, *corner in itertools.product(np.flatnonzero(self.pbc), (0, 1), (0, 1)):
            at = dict(zip((k for k in range(3) if k != axis), corner, strict=True))
            if any(k == self.axis and c != base for k, c in at.items()):
                continue
            if any(k != self.axis and c and not self.pbc[k] for k, c in at.items()):
                continue
            edge = np.empty((2, 3))
            edge[:, axis] = ends[:, axis]
            for k, c in at.items():
                edge[:, k] = ends[c, k]
            edges.append(edge)
        return (np.array(edges).reshape(-1, 2, 3) + self.origin) @ self.cell

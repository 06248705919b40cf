"""What plane-wave programs ask of a cell: k-points, where its vacuum is, and which image an answer lies in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlpath_core.structure import Structure

Floats = NDArray[np.float64]

VACUUM = 5.0
"""Å: a wider gap between the atoms along a lattice direction is vacuum."""


@dataclass(frozen=True)
class Gap:
    """The widest empty stretch along one lattice direction: where it begins and its size, fractions of the vector."""

    begin: float
    size: float

    @property
    def end(self) -> float:
        return (self.begin + self.size) % 1.0

    @property
    def middle(self) -> float:
        return (self.begin + self.size / 2) % 1.0


def fractions(structure: Structure) -> Floats:
    """[n_atoms, 3] fractional coordinates, not wrapped."""
    return np.asarray(np.linalg.solve(structure.cell.T, structure.positions.T).T, np.float64)


def gaps(structure: Structure) -> tuple[Gap, Gap, Gap]:
    """Along each lattice vector; the cell must have all three."""
    out = []
    for along in fractions(structure).T % 1.0:
        ordered = np.sort(along)
        between = np.diff(ordered, append=ordered[0] + 1.0)
        widest = int(between.argmax())
        out.append(Gap(float(ordered[widest]), float(between[widest])))
    return (out[0], out[1], out[2])


def vacuum_axes(structure: Structure) -> list[int]:
    """Lattice directions that are not periodic, or along which there is vacuum."""
    heights = 1 / np.linalg.norm(np.linalg.inv(structure.cell), axis=0)
    sizes = np.array([gap.size for gap in gaps(structure)]) * heights
    return [axis for axis in range(3) if not structure.pbc[axis] or sizes[axis] > VACUUM]


def slab_axis(structure: Structure) -> int | None:
    """The direction out of a slab; None for crystals, wires and molecules."""
    axes = vacuum_axes(structure)
    return axes[0] if len(axes) == 1 else None


def kpoint_grid(structure: Structure, length: float) -> tuple[int, int, int]:
    """ceil(``length`` / |a|) points along each lattice vector (Å), one along vacuum.

    Lengths that are whole divisors of ``length`` but for rounding do not get a point more.
    """
    vectors = np.linalg.norm(structure.cell, axis=1)
    points = np.maximum(1, np.ceil(length / vectors - 1e-6)).astype(int)
    points[vacuum_axes(structure)] = 1
    return (int(points[0]), int(points[1]), int(points[2]))


def centre_of_mass(structure: Structure) -> Floats:
    """[3] fractional. Where there is vacuum, of the atoms made whole, so that a slab that the cell's boundary cuts has
    its centre inside; along what fills the period any choice is as good as another.
    """
    from ase.data import atomic_masses

    whole = fractions(structure)
    for axis in vacuum_axes(structure):
        begin = gaps(structure)[axis].end
        # an atom a rounding error below the beginning is not a whole period above it
        whole[:, axis] = (whole[:, axis] - begin + 1e-9) % 1.0 - 1e-9 + begin
    return np.average(whole, axis=0, weights=atomic_masses[structure.numbers]) % 1.0


def same_image(structure: Structure, positions: Floats) -> Floats:
    """``positions`` [n_atoms, 3] (Å) of a program that wraps atoms into its cell, each in the image that was asked for.

    Atoms that the program has moved stay moved.
    """
    off = np.linalg.solve(structure.cell.T, (positions - structure.positions).T).T
    return positions - np.round(off) @ structure.cell


def no_cell(structure: Structure, program: str) -> str | None:
    """Why a program that repeats everything in three directions cannot calculate this structure, or None."""
    if abs(np.linalg.det(structure.cell)) < 1e-6:
        return f"{program} needs three lattice vectors: put the structure into a box with vacuum around it"
    return None

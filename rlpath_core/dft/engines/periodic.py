"""Cells for plane-wave programs: k-points, vacuum, and the periodic images of the atoms that a program returns."""

from __future__ import annotations

import numpy as np

from rlpath_core.geometry.cell import Floats, fractional
from rlpath_core.geometry.slab import VACUUM, Gap, above_gap, gap_widths, widest_gap
from rlpath_core.structure import Structure


def gap_along(structure: Structure, axis: int) -> Gap:
    """The widest gap along a lattice vector of a cell that has all three."""
    return widest_gap(fractional(structure.positions, structure.cell)[:, axis])


def vacuum_axes(structure: Structure) -> list[int]:
    """Lattice directions that are not periodic, or along which there is vacuum."""
    return np.flatnonzero(gap_widths(structure) > VACUUM).tolist()


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

    whole = fractional(structure.positions, structure.cell)
    for axis in vacuum_axes(structure):
        whole[:, axis] = gap_along(structure, axis).end + above_gap(whole[:, axis])
    return np.average(whole, axis=0, weights=atomic_masses[structure.numbers]) % 1.0


def same_image(structure: Structure, positions: Floats) -> Floats:
    """``positions`` [n_atoms, 3] (Å) of a program that wraps atoms into its cell, each in the image that was asked for.

    Atoms that the program has moved stay moved.
    """
    off = fractional(positions - structure.positions, structure.cell)
    return positions - np.round(off) @ structure.cell


def no_cell(structure: Structure, program: str) -> str | None:
    """Why a program that repeats everything in three directions cannot calculate this structure, or None."""
    if abs(np.linalg.det(structure.cell)) < 1e-6:
        return f"{program} needs three lattice vectors: put the structure into a box with vacuum around it"
    return None

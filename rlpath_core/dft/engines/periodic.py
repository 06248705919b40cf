"""Cells for programs that repeat everything in three directions: boxes, k-points, vacuum, periodic images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rlpath_core.dft.engines.base import Calculation
from rlpath_core.geometry.cell import Floats, complete_cell, fractional, thickness
from rlpath_core.geometry.slab import LITTLE_VACUUM, Gap, above_gap, gap_widths, vacuum_axes, widest_gap
from rlpath_core.structure import Structure

SOME_VACUUM = 4.0
"""Å: wider than the spacing of layers in any crystal, so that somebody must have meant a vacuum."""


def boxed(structure: Structure, vacuum: float, step: float, reduce: bool = False) -> Structure:
    """The structure in the cell that a program gets, which depends on the atoms and the periodic directions alone.

    What the file says of a direction that is not periodic has no meaning: it is at right angles to the others here, as
    long as the atoms reach and ``vacuum`` more, and the atoms lie in its middle. The box is right-handed, unless
    all three directions are periodic and it was not.

    Parameters
    ----------
    structure : Structure
    vacuum : float
        The least distance between the outermost atoms and their images across an open direction, Å.
    step : float
        Such a direction is a whole multiple of this long (Å), so that atoms may move without another box.
    reduce : bool
        Take the shortest lattice vectors of the same lattice (Minkowski's) where the given ones are not, so that all
        cells of one crystal are calculated with the same k-points.

    Returns
    -------
    Structure
        With three lattice vectors and the same atoms and ``pbc``; the same object if nothing has to change.
    """
    cell, moved = structure.cell, np.zeros(3)
    if not structure.pbc.all():
        cell = complete_cell(np.where(structure.pbc[:, None], cell, 0.0), structure.pbc)
        for axis in np.flatnonzero(~structure.pbc):
            along = structure.positions @ cell[axis]
            length = step * (np.floor((np.ptp(along) + vacuum) / step) + 1)  # a flat molecule that bends keeps its box
            moved = moved + (length / 2 - (along.min() + along.max()) / 2) * cell[axis]
            cell[axis] *= length
    if reduce:
        cell = _reduced(cell, structure)
    if cell is structure.cell:
        return structure
    return replace(structure, cell=cell, positions=structure.positions + moved)


def _reduced(cell: Floats, structure: Structure) -> Floats:
    """The shortest vectors of the lattice, if the given ones are longer; their order alone is left as it is."""
    from ase.geometry.minkowski_reduction import is_minkowski_reduced, minkowski_reduce

    order = np.argsort(np.linalg.norm(cell, axis=1))
    if is_minkowski_reduced(cell[order], structure.pbc[order]):
        return cell
    return np.array(minkowski_reduce(cell, structure.pbc)[0])


def unboxed(calculation: Calculation, structure: Structure, box: Structure) -> Calculation:
    """The answer to ``box`` as an answer to ``structure``. What the program changed remains changed."""
    if box is structure:
        return calculation
    positions, cell = calculation.positions, calculation.cell
    if positions is not None and positions.shape == box.positions.shape:
        positions = positions - (box.positions - structure.positions)
    if cell is not None:
        cell = cell - (box.cell - structure.cell)
    evidence = calculation.evidence | {"cell": box.cell.tolist()}
    return replace(calculation, positions=positions, cell=cell, evidence=evidence)


def little_vacuum(structure: Structure) -> str | None:
    """What to say of a periodic direction with so little vacuum that the images may feel each other, or None."""
    widths = gap_widths(structure)
    thin = (widths > SOME_VACUUM) & (widths < LITTLE_VACUUM)
    if not thin.any():
        return None
    where = " and ".join(f"{widths[axis]:.1f} Å along {'abc'[axis]}" for axis in np.flatnonzero(thin))
    return f"vacuum of {where} between periodic images, less than {LITTLE_VACUUM:g} Å: they may act on each other"


def charged_box(setting: str) -> str:
    """Why a charged structure with an open direction is refused, by the setting that charges it."""
    return (
        f"is charged (`{setting}`) and not periodic in all directions: the energy of a charged box grows or falls with "
        "its vacuum without end. Calculate it neutral, or give it a cell that is periodic in all three"
    )


def gap_along(structure: Structure, axis: int) -> Gap:
    """The widest gap along a lattice vector of a cell that has all three."""
    return widest_gap(fractional(structure.positions, structure.cell)[:, axis])


def slab_axis(structure: Structure) -> int | None:
    """The direction out of a slab; None for crystals, wires and molecules."""
    axes = vacuum_axes(structure)
    return axes[0] if len(axes) == 1 else None


def kpoint_grid(structure: Structure, length: float) -> tuple[int, int, int]:
    """ceil(``length`` x |b|) points along each reciprocal vector b (1/Å, without 2 pi), one along vacuum.

    1 / |b| is the distance between opposite faces of the cell, which is |a| where its angles are right. Distances that
    are whole divisors of ``length`` but for rounding do not get a point more.
    """
    points = np.maximum(1, np.ceil(length / thickness(structure.cell) - 1e-6)).astype(int)
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

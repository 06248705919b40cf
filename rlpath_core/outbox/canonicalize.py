"""The slab frame: the same slab, wherever it was shifted, turned or wrapped to, at the same coordinates.

Periodic directions keep fractional coordinates along the cell's own axes, so that turning the cell changes nothing.
If no direction is periodic, the frame is that of the principal axes. The origin is anchored on the fixed atoms, else
on the bottom layer, else (nothing is fixed and nothing is periodic) on the centre of all atoms. Where symmetry copies
are looked for, nothing anchors a periodic structure without fixed atoms: the comparison tries every shift.
Stored structures keep their raw coordinates; this form is only for comparing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from rlpath_core.geometry.cell import Floats, complete_cell
from rlpath_core.geometry.slab import above_gap, vacuum_axes
from rlpath_core.geometry.symmetry import atom_kinds
from rlpath_core.structure import Structure
from rlpath_core.structure.structure import CONTENT_DECIMALS


@dataclass(frozen=True, eq=False)
class Canonical:
    """A structure in the slab frame, atoms sorted: anchors first, then by element and moment, then as they came.

    id         content id of the raw structure
    numbers    [n_atoms]
    magmoms    [n_atoms], initial magnetic moments in Bohr magnetons, rounded
    positions  [n_atoms, 3], Å, in the standard cell (a along x, b in the xy plane), anchored
    cell       [3, 3], Å, lower triangular; unit vectors along directions that are not periodic
    pbc        [3]
    n_anchor   number of anchors (fixed atoms, or the bottom layer), which come first
    movable    [n_atoms] bool, the atoms that the RMSD is over
    held       whether the anchors are fixed atoms
    rigid      whether anchors fix the frame; False for free molecules and clusters, and where symmetry copies are
               looked for in a periodic structure without fixed atoms
    """

    id: str
    numbers: NDArray[np.int64]
    magmoms: Floats
    positions: Floats
    cell: Floats
    pbc: NDArray[np.bool_]
    n_anchor: int
    movable: NDArray[np.bool_]
    held: bool
    rigid: bool
    origin: Floats
    """[3], Å, position of the first anchor before it became the origin, in the standard cell."""

    @cached_property
    def key(self) -> tuple:
        """Structures with different keys are never duplicates: elements, moments, movable atoms, cell (to 0.01 Å)."""
        cell = tuple((np.round(self.cell[self.pbc], 2) + 0.0).ravel().tolist())
        return (
            tuple(self.numbers.tolist()),
            tuple(self.magmoms.tolist()) if self.magmoms.any() else (),
            tuple(self.movable.tolist()),
            self.n_anchor,
            tuple(self.pbc.tolist()),
            cell,
            self.rigid,
        )

    @cached_property
    def kinds(self) -> NDArray[np.int64]:
        """[n_atoms]: atoms of one element and moment have the same label."""
        return atom_kinds(self.numbers, self.magmoms)


def canonicalize(structure: Structure, bottom_layer: float = 1.0, symmetry: bool = False) -> Canonical:
    """A structure in the slab frame.

    Parameters
    ----------
    structure
        As it was sampled.
    bottom_layer
        Thickness in Å of the layer that anchors a structure without fixed atoms.
    symmetry
        For a `Memory` that looks for symmetry copies: such a layer anchors nothing, and a left-handed cell is mirrored.
    """
    cell, pbc = complete_cell(structure.cell, structure.pbc), structure.pbc
    fixed = structure.fixed
    movable = ~fixed if not fixed.all() else np.ones(len(structure), bool)
    standard, inverse = _frame(cell.tobytes(), mirror=symmetry)
    scaled = structure.positions @ inverse
    if fixed.any():
        anchors = fixed
    elif pbc.any() and symmetry:
        anchors = np.zeros(len(structure), bool)
    elif pbc.any():
        up = _up(structure)
        height = _heights(scaled[:, up], bool(pbc[up]), float(abs(standard[up, up])))
        anchors = height <= height.min() + bottom_layer
    else:
        anchors = np.ones(len(structure), bool)
    rigid = bool(fixed.any() or (pbc.any() and not symmetry))
    origin = np.zeros(3)
    magmoms = np.round(structure.magmoms, CONTENT_DECIMALS) + 0.0
    order = np.lexsort((np.arange(len(structure)), magmoms, structure.numbers, ~anchors))
    if pbc.any():
        origin = scaled[order[0]] @ standard
        positions = _anchored(scaled, order[0], pbc) @ standard
    else:
        around = structure.positions - structure.positions[anchors].mean(axis=0)
        positions = around if fixed.any() else around @ _principal_axes(around, structure.numbers)
    return Canonical(
        id=structure.id,
        numbers=structure.numbers[order],
        magmoms=magmoms[order],
        positions=positions[order],
        cell=standard,
        pbc=pbc,
        n_anchor=int(anchors.sum()) if rigid else 0,
        movable=movable[order],
        held=bool(fixed.any()),
        rigid=rigid,
        origin=origin,
    )


@lru_cache(maxsize=64)
def _frame(cell: bytes, mirror: bool) -> tuple[Floats, Floats]:
    """The standard cell, and the inverse of the cell as it is: nearly all structures of a call have the same."""
    own = np.frombuffer(cell).reshape(3, 3)
    frame = _standard(own, mirror), np.asarray(np.linalg.inv(own), np.float64)
    for array in frame:
        array.setflags(write=False)
    return frame


def _standard(cell: Floats, mirror: bool) -> Floats:
    """The cell turned so that it is lower triangular with a positive diagonal.

    A left-handed one keeps its hand, with a negative last entry, unless it may be mirrored.
    """
    _, r = np.linalg.qr(cell.T)
    lower = r.T * np.sign(np.diag(r))
    if np.linalg.det(cell) < 0 and not mirror:
        lower[:, 2] *= -1
    return lower


def _up(structure: Structure) -> int:
    """The direction that leads away from the slab: the one that is not periodic, else that with the vacuum, else c."""
    spare = np.flatnonzero(~structure.pbc)
    if len(spare):
        return int(spare[-1])
    vacuum = vacuum_axes(structure)
    return vacuum[0] if len(vacuum) == 1 else 2


def _heights(fractions: Floats, periodic: bool, length: float) -> Floats:
    """Heights in Å above the lowest atom; in a periodic direction, above the widest gap."""
    return (above_gap(fractions) if periodic else fractions - fractions.min()) * length


def _anchored(fractions: Floats, anchor: int, pbc: NDArray[np.bool_]) -> Floats:
    """Fractional coordinates with the first anchor at the origin, wrapped to [-0.5, 0.5) along periodic directions.

    The mean of periodic coordinates is not defined if the anchors fill the period evenly, as a slab's do; one
    atom's position always is. ``align`` in ``dedup.py`` then brings the mean over all anchors into agreement.
    """
    moved = fractions - fractions[anchor]
    return np.where(pbc, moved - np.floor(moved + 0.5), moved)


def _principal_axes(around: Floats, numbers: NDArray[np.int64]) -> Floats:
    """Columns are the principal axes, right-handed, moments rising. Signs stay open: the comparison tries all."""
    from ase.data import atomic_masses

    _, axes = np.linalg.eigh((around * atomic_masses[numbers][:, None]).T @ around)
    if np.linalg.det(axes) < 0:
        axes[:, 0] *= -1
    return axes

"""Slabs: where the vacuum is, the surface normal, which atoms move and which are adsorbed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlpath_core.errors import InputError
from rlpath_core.geometry.adsorbate import Told, by_layers, by_name, by_tags
from rlpath_core.geometry.cell import Floats, Mask, closed_cell, fractional, thickness
from rlpath_core.geometry.fragments import fragments, periodicity
from rlpath_core.geometry.roles import Roles, names
from rlpath_core.structure import Structure

VACUUM = 5.0
"""Å: a wider gap between the atoms along a lattice direction is vacuum."""
LITTLE_VACUUM = 10.0
"""Å: with less, a periodic slab and its next image may act on each other, and the user is told."""
LEAST_VACUUM = 3.0
"""Å: a narrower gap is no vacuum, even if the user gives a normal."""
AXES = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}
ALONG = 0.9
"""Smallest cosine between a normal that the user gives and the slab's own."""


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


def vacuum_axes(structure: Structure) -> list[int]:
    """Lattice directions that are not periodic, or along which there is vacuum."""
    return [int(axis) for axis in np.flatnonzero(gap_widths(structure) > VACUUM)]


def surface_axis(structure: Structure) -> int | None:
    """The lattice direction out of a slab.

    None for what is no slab: a crystal has no vacuum, a wire has it in two directions, a molecule in three; and a
    single molecule or chain is none in a box with less, either.
    """
    axes = vacuum_axes(structure)
    if len(axes) != 1 or not structure.pbc.any():
        return None
    everything = np.ones(len(structure), bool)
    if len(fragments(structure, everything)) == 1 and periodicity(structure).max() < 2:
        return None
    return axes[0]


def outward(structure: Structure, axis: int) -> Floats:
    """Unit vector at right angles to the other two lattice directions, on the side of this one: shape (3,)."""
    cell = closed_cell(structure)
    normal = np.cross(cell[(axis + 1) % 3], cell[(axis + 2) % 3])
    normal /= np.linalg.norm(normal)
    return np.asarray(normal * np.sign(normal @ cell[axis]), np.float64)


def heights(structure: Structure, axis: int, normal: Floats, slab: Mask | None = None) -> Floats:
    """Heights along ``normal`` above the lowest atom of the slab, whatever the cell's boundary cuts: shape (n_atoms,).

    Parameters
    ----------
    structure : Structure
    axis : int
        The lattice direction through the vacuum.
    normal : ndarray, shape (3,)
        ``outward`` of that direction, or its opposite.
    slab : ndarray of bool, shape (n_atoms,), optional
        The atoms that the vacuum is between; all if not given. Other atoms count from the face that they are nearer to,
        below the slab with negative heights.

    Returns
    -------
    ndarray, shape (n_atoms,)
        Å.
    """
    slab = np.ones(len(structure), bool) if slab is None else slab
    if not structure.pbc[axis]:
        along = structure.positions @ normal
        return np.asarray(along - along[slab].min(), np.float64)
    cell = closed_cell(structure)
    period = float(cell[axis] @ normal)
    fractions = fractional(structure.positions, cell)[:, axis] * np.sign(period)
    height = (fractions - widest_gap(fractions[slab]).end) % 1.0
    height = np.where(height > 1.0 - 1e-9, 0.0, height) * abs(period)
    top = height[slab].max()
    return np.where(height > (top + abs(period)) / 2, height - abs(period), height)


def infer_roles(
    structure: Structure,
    adsorbate: Sequence[int] | str | None = None,
    normal: Sequence[float] | str | None = None,
) -> Roles:
    """Movable and adsorbed atoms: as given, by ``fixed`` and ``tags`` if they say, else guessed.

    Without ``fixed``, the half of a slab that is away from the adsorbate stays (the middle half with adsorbates on both
    sides), and everything of a molecule or a bulk crystal moves. The normal points to the side of the adsorbate; on a
    clean slab to what moves, to the surface layer of the tags, or along the lattice vector.

    Parameters
    ----------
    structure : Structure
    adsorbate : sequence of int, or str, optional
        The adsorbate's atoms, counted from 0, or its formula; an empty list for none.
    normal : str or sequence of float, optional
        Direction out of the surface: x, y, z, a, b or c, with a minus or without, or three numbers.

    Returns
    -------
    Roles

    Raises
    ------
    InputError
        What the user gave cannot be, see ``by_name``; or ``normal`` leads through no vacuum or away from the adsorbate.
    """
    axis = surface_axis(structure) if normal is None else _axis_along(structure, normal)
    if axis is None:
        return _without_surface(structure, adsorbate)
    up = outward(structure, axis)
    told, tagged = _told(structure, axis, up, adsorbate)
    slab = ~told.mask
    if not slab.any():
        raise InputError("all atoms are the adsorbate, none is the slab", None, "adsorbate")
    height = heights(structure, axis, up, slab)
    side = _sides(structure, height, slab, told.mask)
    sign = _sign(structure, height, side, told.mask, tagged)
    notes: list[str] = []
    if normal is not None:
        wanted = 1 if up @ _direction(structure, normal) > 0 else -1
        notes += _on_the_other_side(structure, axis, height, slab, told.mask & (side != wanted), wanted)
        sign, side = wanted, np.where(told.mask, wanted, side)
    sides = np.where(told.mask, side * sign, 1)
    movable = ~structure.fixed
    because = f"{int(structure.fixed.sum())} are fixed in the structure"
    if not structure.fixed.any():
        movable, because = _upper(sign * height, slab, bool((sides < 0).any()))
    gap = float(gap_widths(structure)[axis])
    if gap <= VACUUM:
        notes.append(f"the vacuum along {'abc'[axis]} is {gap:.1f} Å, which would be taken for none without `normal`")
    elif gap < LITTLE_VACUUM:
        notes.append(f"the vacuum along {'abc'[axis]} is only {gap:.1f} Å: the slab and its next image may interact")
    return Roles(
        movable,
        told.mask & movable,
        up * sign,
        structure,
        axis,
        sides,
        because,
        told.because,
        tuple(notes),
        told.conflict,
    )


def _without_surface(structure: Structure, adsorbate: Sequence[int] | str | None) -> Roles:
    """Roles in a molecule, a wire or a crystal: everything that is not fixed moves, and is chosen from."""
    movable = ~structure.fixed
    chosen, because = movable, ""
    if adsorbate is not None:
        chosen, because, _, _ = by_name(structure, adsorbate, None)
    elif (movable & _tagged(structure)).any():
        chosen, because = movable & _tagged(structure), "by their tags"
    held = int(structure.fixed.sum())
    widths = gap_widths(structure)
    axes = vacuum_axes(structure)
    if not structure.pbc.any() or len(axes) == 3:
        note = "no surface: a molecule or a cluster"
    elif axes:
        note = f"no surface: there is vacuum along {' and '.join('abc'[k] for k in axes)}"
        note += ", as around a wire" if len(axes) == 2 else ", but it is a single molecule or chain"
    else:
        widest = int(widths.argmax())
        note = "no surface: no vacuum, as in a crystal"
        if widths[widest] > LEAST_VACUUM:
            gap = f"{widths[widest]:.1f} Å along {'abc'[widest]}"
            note += f" (the widest gap is {gap}; from {VACUUM:.0f} Å, or with `normal: {'abc'[widest]}`, it is a slab)"
    return Roles(
        movable,
        chosen,
        None,
        structure,
        None,
        np.ones(len(structure), np.int64),
        f"{held} are fixed in the structure" if held else "nothing is fixed",
        because,
        (note,),
    )


def _told(structure: Structure, axis: int, up: Floats, adsorbate: Sequence[int] | str | None) -> tuple[Told, int]:
    """The adsorbate, and the side that the tags name: 1, -1, or 0 for none."""
    height = heights(structure, axis, up)
    tags = by_tags(structure, height)
    tagged = 0 if tags is None else tags.up
    if isinstance(adsorbate, str):
        guessed = tags.mask if tags is not None and tags.mask.any() else by_layers(structure, height, up).mask
        return by_name(structure, adsorbate, guessed), tagged
    if adsorbate is not None:
        return by_name(structure, adsorbate, None), tagged
    if tags is not None and tags.because:
        return tags, tagged
    guess = by_layers(structure, height, up)
    if tags is None and structure.tags.any():
        guess = guess._replace(because=f"{guess.because}, because the tags follow no known convention")
    return guess, tagged


def _sides(structure: Structure, height: Floats, slab: Mask, adsorbate: Mask) -> NDArray[np.int64]:
    """1 for the atoms of molecules above the middle of the slab, -1 below; 1 for the slab: shape (n_atoms,)."""
    side = np.ones(len(structure), np.int64)
    middle = (height[slab].min() + height[slab].max()) / 2
    for piece in fragments(structure, adsorbate):
        side[piece] = 1 if height[piece].mean() >= middle else -1
    return side


def _sign(structure: Structure, height: Floats, side: NDArray[np.int64], adsorbate: Mask, tagged: int) -> int:
    """Whether the surface is at larger heights (1) or smaller ones (-1)."""
    if adsorbate.any():
        return 1 if side[adsorbate].sum() >= 0 else -1
    if 0 < structure.fixed.sum() < len(structure):
        return 1 if height[~structure.fixed].mean() >= height[structure.fixed].mean() else -1
    return tagged or 1


def _upper(height: Floats, slab: Mask, both: bool) -> tuple[Mask, str]:
    """What moves if nothing is fixed, and why the rest does not."""
    low, high = height[slab].min(), height[slab].max()
    middle = (low + high) / 2
    if both:
        movable = ~slab | (abs(height - middle) > (high - low) / 4 + 1e-6)
        because = "nothing is fixed: the middle half of the slab stays"
    else:
        movable, because = ~slab | (height > middle + 1e-6), "nothing is fixed: the lower half of the slab stays"
    if not movable.any():  # a single layer has no lower half
        return np.ones(len(height), bool), "nothing is fixed"
    return movable, "nothing is fixed" if movable.all() else because


def _direction(structure: Structure, normal: Sequence[float] | str) -> Floats:
    """The direction that a user gave: shape (3,), a unit vector."""
    if isinstance(normal, str):
        letter, sign = normal.removeprefix("-").removeprefix("+"), -1.0 if normal.startswith("-") else 1.0
        if letter in AXES:
            return sign * np.array(AXES[letter])
        if letter in ("a", "b", "c"):
            return sign * outward(structure, "abc".index(letter))
        raise InputError(
            f"{normal!r} is none of x, y, z, a, b, c, one of them with a minus, or three numbers", None, "normal"
        )
    direction = np.array(normal, np.float64)
    if direction.shape != (3,) or not np.isfinite(direction).all() or not direction.any():
        raise InputError("expected three numbers that are not all 0", None, "normal")
    return np.asarray(direction / np.linalg.norm(direction), np.float64)


def _axis_along(structure: Structure, normal: Sequence[float] | str) -> int:
    """The lattice direction through the vacuum that a user's normal means. Raises InputError if there is none."""
    direction = _direction(structure, normal)
    if structure.pbc.sum() < 2:
        raise InputError("the structure is periodic in fewer than two directions: it has no surface", None, "normal")
    widths = gap_widths(structure)
    cosines = np.array([abs(outward(structure, axis) @ direction) for axis in range(3)])
    axis = int(cosines.argmax())
    where = f"the widest gaps between atoms are {', '.join(f'{w:.1f}' for w in widths)} Å along a, b and c"
    if cosines[axis] < ALONG:
        raise InputError(f"is along none of the cell's directions a, b and c: {where}", None, "normal")
    if widths[axis] < LEAST_VACUUM or (structure.pbc[axis] and not structure.pbc.all()):
        raise InputError(f"there is no vacuum along {'abc'[axis]}: {where}", None, "normal")
    own = surface_axis(structure)
    if own is not None and own != axis:
        raise InputError(f"the slab's vacuum is along {'abc'[own]}, not {'abc'[axis]}: {where}", None, "normal")
    return axis


def _on_the_other_side(
    structure: Structure, axis: int, height: Floats, slab: Mask, other: Mask, wanted: int
) -> list[str]:
    """What is said of adsorbed atoms that are nearer to the side that a given normal points away from.

    Raises InputError if they are on that side, with nothing but vacuum around them on the other.
    """
    if not other.any():
        return []
    away = -height[other] if wanted > 0 else height[other] - height[slab].max()
    if not structure.pbc[axis] or away.min() <= VACUUM:
        told = f"{names(structure, other)} is on the other side of the slab, {away.min():.1f} Å from it"
        raise InputError(f"{told}: turn the normal round, or leave it out", None, "normal")
    return [f"{names(structure, other)} is nearer to the other side of the slab"]


def _tagged(structure: Structure) -> Mask:
    """The adsorbate of a molecule by tags: above 2, they are something else."""
    return (structure.tags == 2) & (structure.tags.max() <= 2)

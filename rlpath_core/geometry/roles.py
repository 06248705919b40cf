"""What each atom is in sampling: whether it moves, whether it is adsorbed, on which side; and what may be moved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlpath_core.geometry.bonds import Bonds, bonds
from rlpath_core.geometry.cell import Floats, Mask, closed_cell
from rlpath_core.geometry.fragments import Fragment, bond_sides, fragments, unwrap
from rlpath_core.structure import Structure


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
    axis : int or None
        The lattice direction that leads through the vacuum, None if there is no surface.
    sides : ndarray of int, shape (n_atoms,)
        1 for adsorbed atoms on the side that ``normal`` points to, -1 for those on the other; 1 for all others.
    core_because : str
        Why the atoms that do not move do not.
    adsorbate_because : str
        Why these atoms are the adsorbate, or why there is none.
    notes : tuple of str
        What else a user should know: what kind of structure this was taken for, and what looks wrong in it.
    conflict : str or None
        What the structure says of itself and cannot be: sampling refuses it.
    """

    movable: Mask
    adsorbate: Mask
    normal: Floats | None
    given: Structure
    axis: int | None
    sides: NDArray[np.int64]
    core_because: str
    adsorbate_because: str
    notes: tuple[str, ...] = ()
    conflict: str | None = None

    @property
    def active(self) -> Mask:
        """Atoms that actions on fragments choose from: the adsorbate, or if there is none everything movable."""
        return self.adsorbate if self.adsorbate.any() else self.movable

    @property
    def normals(self) -> Floats:
        """Unit vector out of the surface that each atom is on, shape (n_atoms, 3). Only if there is a surface."""
        assert self.normal is not None
        return self.normal * self.sides[:, None]

    def describe(self) -> str:
        """One line for people: how many atoms move, which are the adsorbate, where the normal points, and why."""
        n, moving = len(self.given), int(self.movable.sum())
        told = [f"{moving} of {n} atoms move ({self.core_because})"]
        if self.normal is None:
            if not self.adsorbate.all() and self.adsorbate_because:
                told.append(f"actions choose from {names(self.given, self.adsorbate)}, {self.adsorbate_because}")
        else:
            lower = self.adsorbate & (self.sides < 0)
            if lower.any():
                upper = names(self.given, self.adsorbate & ~lower)
                which = f"adsorbates on both sides: {upper} on the normal's, {names(self.given, lower)} on the other"
            elif self.adsorbate.any():
                which = f"the adsorbate is {names(self.given, self.adsorbate)}"
            else:
                which = "no adsorbate"
            told.append(f"{which}, {self.adsorbate_because}")
            told.append(f"the normal points along {self.direction}")
        return "; ".join([*told, *self.notes])

    @property
    def direction(self) -> str:
        """The normal in words: the lattice vector on its side, and its components."""
        assert self.normal is not None
        assert self.axis is not None
        sign = "-" if self.normal @ closed_cell(self.given)[self.axis] < 0 else "+"
        return f"{sign}{'abc'[self.axis]} ({' '.join(f'{x:.3g}' for x in np.round(self.normal, 3) + 0.0)})"


def names(structure: Structure, mask: Mask) -> str:
    """The molecules in ``mask`` by their formulas and atoms: ``2 H2O (atoms 16-21), CO (atoms 22 23)``."""
    found: dict[str, list[NDArray[np.int64]]] = {}
    for piece in fragments(structure, mask):
        found.setdefault(formula_of(structure, piece), []).append(piece)
    return ", ".join(
        f"{'' if len(pieces) == 1 else f'{len(pieces)} '}{name} ({_numbers(np.concatenate(pieces))})"
        for name, pieces in found.items()
    )


def formula_of(structure: Structure, atoms: NDArray[np.int64]) -> str:
    """Hill formula of some atoms."""
    from ase.formula import Formula
    from ase.symbols import Symbols

    return Formula.from_list(list(Symbols(structure.numbers[atoms]))).format("hill")


def _numbers(atoms: NDArray[np.int64]) -> str:
    """``atom 3``, ``atoms 3 5 8-10``, at most eight runs of them."""
    ordered = np.sort(atoms)
    runs = np.split(ordered, np.flatnonzero(np.diff(ordered) > 1) + 1)
    told = [str(run[0]) if len(run) == 1 else f"{run[0]}{'-' if len(run) > 2 else ' '}{run[-1]}" for run in runs]
    return f"atom{'s' if len(atoms) > 1 else ''} {' '.join(told[:8])}{' ...' if len(told) > 8 else ''}"


def choose_fragment(
    structure: Structure, roles: Roles, rng: np.random.Generator, bonded: Bonds | None = None, at_least: int = 1
) -> Fragment | None:
    """Draw a fragment that may be moved.

    Adsorbed molecules are drawn whole. Moving all of a free molecule changes nothing, so the smaller side of a random
    bond is drawn there; in a slab without an adsorbate, a single atom.

    Parameters
    ----------
    structure : Structure
    roles : Roles
    rng : numpy.random.Generator
    bonded : Bonds, optional
        ``bonds(structure)`` if not given.
    at_least : int
        Smallest number of atoms.

    Returns
    -------
    Fragment or None
        None if no fragment has ``at_least`` atoms.
    """
    bonded = bonds(structure) if bonded is None else bonded
    if roles.adsorbate.any():
        pieces = [piece for piece in fragments(structure, roles.adsorbate, bonded) if len(piece) >= at_least]
        if not pieces:
            return None
        piece = pieces[rng.integers(len(pieces))]
        if len(piece) < len(structure):
            return unwrap(structure, piece, bonded)
        sides = bond_sides(structure, bonded)
        movable = [sides[bond] for bond in zip(bonded.i.tolist(), bonded.j.tolist(), strict=True) if bond in sides]
        movable = [side for side in movable if at_least <= len(side) <= len(structure) / 2]
        if movable:
            return unwrap(structure, movable[rng.integers(len(movable))], bonded)
    if at_least > 1:
        return None
    atom = rng.choice(np.flatnonzero(roles.active))
    return Fragment(np.array([atom]), structure.positions[[atom]], False)

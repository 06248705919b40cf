"""What the constraints of ASE atoms say: which atoms are wholly fixed, and what is left of the others.

``Structure`` knows whole fixed atoms. Any constraint that holds an atom in all directions is read as that; what remains
(an atom that slides in a plane, a bond length, a spring) is put into words, for a message or a line of the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlpath_core.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms

log = logging.getLogger("rlpath.structure")
SHOWN = 6
"""So many indices of atoms are named in a message."""


class UnreadConstraint:
    """Stands for constraints of a file that ASE does not read, so that a structure that moves is refused."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __str__(self) -> str:
        return f"{self.mark} in the file holds atoms in a way that is not read here"

    def adjust_forces(self, atoms: Atoms, forces: Any) -> None:
        """Nothing is adjusted."""

    adjust_positions = adjust_momenta = adjust_forces

    def copy(self) -> UnreadConstraint:
        return self


def fixed_atoms(atoms: Atoms) -> tuple[NDArray[np.bool_], list[str]]:
    """Which atoms cannot move at all, and what the other constraints say.

    Parameters
    ----------
    atoms
        ASE atoms with any constraints. Several on one atom count together: two planes are a line, three are a point.

    Returns
    -------
    fixed : [n_atoms] bool
        Atoms that are held in all three directions.
    rest : list of str
        One phrase for each other kind of constraint, such as ``"atom 16 is free along z only"``; empty if none.
        Constraints that hold nothing, and those between atoms that are fixed anyhow, are left out.
    """
    from ase.constraints import FixAtoms

    fixed = np.zeros(len(atoms), bool)
    held: NDArray[np.float64] | None = None
    others = []
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            fixed[constraint.get_indices()] = True
        elif (normals := _held_directions(constraint, atoms)) is not None:
            held = np.zeros((len(atoms), 3, 3)) if held is None else held
            held[constraint.get_indices()] += normals.T @ normals
        else:
            others.append(constraint)
    rest = [] if held is None else _partly_held(held, fixed, atoms.cell.array)
    for constraint in others:
        if isinstance(constraint, UnreadConstraint):
            rest.append(str(constraint))
            continue
        indices = _indices(constraint, len(atoms))
        if not len(indices) or not fixed[indices].all():
            rest.append(f"{type(constraint).__name__} acts on {_named(indices) if len(indices) else 'the structure'}")
    return fixed, rest


def whole_rows(mask: Any) -> tuple[NDArray[np.bool_], list[str]]:
    """The same of a mask [n_atoms, 3] that says in which Cartesian directions an atom is held (true: held)."""
    rows = np.array(mask, dtype=bool)
    fixed = np.array(rows.all(axis=1))
    return fixed, _partly_held(rows[:, :, None] * np.eye(3), fixed, np.zeros((3, 3)))


def refuse(rest: Sequence[str], where: str | Path | None = None) -> None:
    """Raise the InputError for a structure that is to move and has constraints other than whole fixed atoms."""
    if rest:
        raise InputError(
            f"{'; '.join(rest)} (atoms counted from 0). Only whole atoms can be held here: fix each of them in all "
            "directions, or free it, and remove other constraints",
            where,
        )


def say_ignored(images: Iterable[Atoms], where: str | Path) -> None:
    """One line of the log on constraints that labelled data and single points have no use for, since nothing moves."""
    n, example = 0, ""
    for image in images:
        if image.constraints and (rest := fixed_atoms(image)[1]):
            n, example = n + 1, example or rest[0]
    if n:
        what = "one structure" if n == 1 else f"{n} structures"
        log.info("%s: constraints of %s do not apply, since nothing moves (%s)", where, what, example)


def _held_directions(constraint: Any, atoms: Atoms) -> NDArray[np.float64] | None:
    """[k, 3] unit vectors along which the constraint holds each of its atoms; None if it is of another kind."""
    from ase.constraints import FixCartesian, FixedLine, FixedPlane, FixScaled

    if isinstance(constraint, FixCartesian):
        return np.eye(3)[constraint.mask]
    if isinstance(constraint, FixedPlane):
        return np.asarray(constraint.dir, float)[None]
    if isinstance(constraint, FixedLine):
        return np.linalg.svd(np.asarray(constraint.dir, float)[None])[2][1:]
    if isinstance(constraint, FixScaled):  # a fractional coordinate is held along its reciprocal vector
        normals = atoms.cell.reciprocal()[constraint.mask]
        return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    return None


def _partly_held(held: NDArray[np.float64], fixed: NDArray[np.bool_], cell: NDArray[np.float64]) -> list[str]:
    """Marks wholly held atoms in ``fixed``, and says of which atoms some directions are held and some free.

    ``held`` [n_atoms, 3, 3] is the sum of n n^T over the unit vectors n along which an atom is held.
    """
    touched = np.flatnonzero(held.any(axis=(1, 2)) & ~fixed)
    values, vectors = np.linalg.eigh(held[touched])
    free = values < 1e-6
    fixed[touched[~free.any(axis=1)]] = True
    said: dict[str, list[int]] = {}
    for atom, directions, columns in zip(touched, free, vectors, strict=True):
        if not directions.any():
            continue
        one = directions.sum() == 1
        name = _direction(columns[:, directions if one else ~directions][:, 0], cell)
        said.setdefault(f"free along {name} only" if one else f"held along {name} only", []).append(int(atom))
    return [f"{_named(indices)} {'is' if len(indices) == 1 else 'are'} {how}" for how, indices in said.items()]


def _direction(vector: NDArray[np.float64], cell: NDArray[np.float64]) -> str:
    lengths = np.linalg.norm(cell, axis=1)
    for name, known in [*zip("xyz", np.eye(3), strict=True), *zip("abc", cell, strict=True)]:
        length = 1.0 if name in "xyz" else lengths["abc".index(name)]
        if length and abs(abs(known @ vector) / length - 1) < 1e-6:
            return name
    vector = vector * np.sign(vector[np.argmax(np.abs(vector))])
    return f"({', '.join(f'{x:.3g}' for x in np.round(vector, 3) + 0.0)})"


def _indices(constraint: Any, n_atoms: int) -> NDArray[np.int64]:
    """The atoms that a constraint of another kind names; none if it does not say."""
    for name in ("get_indices", "pairs", "indices", "index"):
        value = getattr(constraint, name, None)
        try:
            value = value() if callable(value) else value
            flat = np.asarray(np.arange(n_atoms)[value] if isinstance(value, slice) else value).ravel()
        except (TypeError, ValueError, NotImplementedError):
            continue
        if value is not None and flat.dtype.kind in "iu" and len(flat):
            return np.unique(flat.astype(np.int64))
    return np.zeros(0, np.int64)


def _named(indices: Sequence[int] | NDArray[np.int64]) -> str:
    shown = ", ".join(str(int(i)) for i in indices[:SHOWN])
    more = len(indices) - SHOWN
    return f"{'atom' if len(indices) == 1 else 'atoms'} {shown}{f' and {more} more' if more > 0 else ''}"

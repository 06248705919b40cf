"""``Structure``: what every layer passes around. Å, row-vector cells, float64, never changed in place."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlpath_core.errors import InputError
from rlpath_core.structure.constraints import fixed_atoms, refuse

if TYPE_CHECKING:
    from ase import Atoms

CONTENT_DECIMALS = 4
"""Positions and cells (Å) and moments (Bohr magnetons) that agree to this many decimals are the same content."""

FIELDS = ("numbers", "positions", "cell", "pbc", "tags", "fixed")
"""What every structure has. Files and the content id name ``magmoms`` only where a moment is not zero."""


def _frozen(value: Any, dtype: Any, shape: tuple[int, ...], name: str) -> NDArray[Any]:
    try:
        given = np.asarray(value)
        array = np.array(given, dtype=dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{name} is not an array of {np.dtype(dtype).name}: {error}") from error
    if array.shape != shape:
        raise InputError(f"{name} has shape {array.shape}, expected {shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"{name} holds a value that is not a finite number")
    if array.dtype.kind != "f" and array.dtype != given.dtype and not np.array_equal(array, given):
        raise InputError(f"{name} holds a value that is no {'0 or 1' if dtype is bool else 'whole number'}")
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class Structure:
    """Atoms in a cell. The arrays are copies and read-only; structures with the same content id are equal.

    Attributes
    ----------
    numbers
        [n_atoms] int64, atomic numbers from 1 to 118.
    positions
        [n_atoms, 3] float64, Å.
    cell
        [3, 3] float64, Å, lattice vectors as rows; zeros for a molecule.
    pbc
        [3] bool, which directions are periodic.
    tags
        [n_atoms] int64: 0 slab, 1 surface layer, 2 adsorbate; all 0 if unknown.
    fixed
        [n_atoms] bool, atoms that do not move.
    magmoms
        [n_atoms] float64, initial magnetic moments in Bohr magnetons; all 0 if none are given.

    Raises
    ------
    InputError
        A wrong shape or type, a number that is not finite, or a periodic direction without a lattice vector.
    """

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, 3)))
    pbc: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(3, bool))
    tags: NDArray[np.int64] = None  # type: ignore[assignment]
    fixed: NDArray[np.bool_] = None  # type: ignore[assignment]
    magmoms: NDArray[np.float64] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        n = len(np.atleast_1d(np.asarray(self.numbers)))
        keep = object.__setattr__
        keep(self, "numbers", _frozen(self.numbers, np.int64, (n,), "numbers"))
        keep(self, "positions", _frozen(self.positions, np.float64, (n, 3), "positions"))
        keep(self, "cell", _frozen(self.cell, np.float64, (3, 3), "cell"))
        keep(self, "pbc", _frozen(self.pbc, bool, (3,), "pbc"))
        keep(self, "tags", _frozen(np.zeros(n) if self.tags is None else self.tags, np.int64, (n,), "tags"))
        keep(self, "fixed", _frozen(np.zeros(n) if self.fixed is None else self.fixed, bool, (n,), "fixed"))
        if np.ndim(self.magmoms) == 2:
            raise InputError(
                "has magnetic moments of three components (non-collinear): give one number per atom, its moment along z"
            )
        keep(self, "magmoms", _frozen(np.zeros(n) if self.magmoms is None else self.magmoms, float, (n,), "magmoms"))
        if n == 0:
            raise InputError("a structure needs at least one atom")
        if self.numbers.min() < 1 or self.numbers.max() > 118:
            raise InputError("atomic numbers lie between 1 and 118")
        if self.pbc.any() and np.linalg.matrix_rank(self.cell[self.pbc]) < self.pbc.sum():
            raise InputError("a periodic direction has no lattice vector of its own: the cell is singular")

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def id(self) -> str:
        """sha256 over framed canonical bytes: field name, dtype, shape and values, each with its length.

        Positions and cell are rounded to 4 decimals and -0.0 becomes 0.0, so an id survives a round trip through
        text files and does not depend on the machine. Magnetic moments count, to 4 decimals, where one is not zero.
        """
        digest = hashlib.sha256(b"rlpath-structure-1")
        magnetic = np.round(self.magmoms, CONTENT_DECIMALS).any()
        for name in (*FIELDS, "magmoms") if magnetic else FIELDS:
            array = getattr(self, name)
            if array.dtype.kind == "f":
                array = np.round(array, CONTENT_DECIMALS) + 0.0
            little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
            for part in (name.encode(), little.dtype.str.encode(), repr(array.shape).encode(), little.tobytes()):
                digest.update(len(part).to_bytes(8, "little") + part)
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def formula(self) -> str:
        """Hill formula, such as ``H2Mg8O9``."""
        from ase.formula import Formula
        from ase.symbols import Symbols

        return Formula.from_list(list(Symbols(self.numbers))).format("hill")

    def moved(self, positions: NDArray[np.float64]) -> Structure:
        """The same atoms at other positions ([n_atoms, 3], Å). What does not change is shared and not checked again."""
        out = object.__new__(type(self))
        known = {name: getattr(self, name) for name in ("numbers", "cell", "pbc", "tags", "fixed", "magmoms")}
        out.__dict__.update(known, positions=_frozen(positions, np.float64, (len(self), 3), "positions"))
        return out

    def displaced(self, atoms: NDArray[Any], step: NDArray[np.float64]) -> Structure:
        """Some atoms (a mask or numbers) moved by ``step``, Å: [n, 3], or the same in one row."""
        positions = self.positions.copy()
        positions[atoms] += step.reshape(-1, 3)
        return self.moved(positions)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What describes the structure, by field name: every field, ``magmoms`` only where a moment is not zero."""
        return {name: getattr(self, name) for name in (*FIELDS, *(("magmoms",) if self.magmoms.any() else ()))}

    def to_ase(self) -> Atoms:
        """ASE atoms with tags; a FixAtoms constraint where anything is fixed, initial magnetic moments where given."""
        from ase import Atoms
        from ase.constraints import FixAtoms

        atoms = Atoms(self.numbers, self.positions, cell=self.cell, pbc=self.pbc, tags=self.tags)
        if self.fixed.any():
            atoms.set_constraint(FixAtoms(mask=self.fixed))
        if self.magmoms.any():
            atoms.set_initial_magnetic_moments(self.magmoms)
        return atoms

    @classmethod
    def from_ase(cls, atoms: Atoms, will_move: bool = True) -> Structure:
        """From ASE atoms; ``magmoms`` are their initial magnetic moments.

        Parameters
        ----------
        will_move
            Constraints that hold an atom in all directions become ``fixed``. Others, such as an atom that slides in a
            plane, are refused if the structure is to be moved; they do not matter to labelled data and single points.
            Neither do moments of three components, which are refused or left out.

        Raises
        ------
        InputError
            The atoms are no structure, or have constraints that cannot be kept.
        """
        fixed, rest = fixed_atoms(atoms)
        magmoms = atoms.get_initial_magnetic_moments()
        if will_move:
            refuse(rest)
        elif magmoms.ndim == 2:
            magmoms = None
        return cls(
            numbers=atoms.numbers,
            positions=atoms.positions,
            cell=atoms.cell.array,
            pbc=atoms.pbc,
            tags=atoms.get_tags(),
            fixed=fixed,
            magmoms=magmoms,
        )

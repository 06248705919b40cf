"""Frequencies and normal modes of the movable atoms, and the rigid motions of what nothing holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import units
from ase.data import atomic_masses

from rlpath_core.geometry.cell import Floats, Mask
from rlpath_core.structure import Structure

WAVENUMBER = units._hbar * units.m / np.sqrt(units._e * units._amu) / units.invcm
"""cm⁻¹ of a harmonic oscillator of 1 eV/Å² and 1 u."""
FREE = 0.05
"""eV/Å²: below it a rigid motion meets no resistance, and is no vibration."""
ROUNDING = 2e-3
"""The same as a fraction of the largest curvature: errors of finite differences grow with it."""


@dataclass(frozen=True, eq=False)
class Vibrations:
    """Harmonic vibrations of the movable atoms.

    Attributes
    ----------
    frequencies
        [n_modes], cm⁻¹, sorted; imaginary ones are negative. There are 3 n_movable of them, less the rigid motions of
        a structure that nothing holds: 6 for a free molecule, 3 for a slab without a fixed atom.
    modes
        [n_modes, n_atoms, 3]: displacements in Å of an amplitude that has norm 1 once weighted by the roots of the
        masses (u); zero for atoms that are held.
    """

    frequencies: Floats
    modes: Floats


def vibrations(structure: Structure, movable: Mask, hessian: Floats) -> Vibrations:
    """Frequencies and normal modes.

    Parameters
    ----------
    structure : Structure
        Its elements have their standard masses.
    movable : ndarray of bool, shape (n_atoms,)
        All other atoms are held.
    hessian : ndarray, shape (3 n_movable, 3 n_movable)
        eV/Å², as ``numerical_hessian`` returns it.

    Returns
    -------
    Vibrations
    """
    roots = np.sqrt(np.repeat(atomic_masses[structure.numbers[movable]], 3))
    weighted = (hessian + hessian.T) / 2 / np.outer(roots, roots)
    rigid = rigid_motions(structure, movable)
    free = max(FREE, ROUNDING * float(np.linalg.norm(hessian, 2)))
    if len(rigid) and np.linalg.norm(hessian @ rigid.T, axis=0).max() > free:
        rigid = rigid[:0]
    inside = _complement(rigid * roots)
    squares, vectors = np.linalg.eigh(inside @ weighted @ inside.T)
    modes = np.zeros((len(squares), len(structure), 3))
    modes[:, movable] = (vectors.T @ inside / roots).reshape(len(squares), -1, 3)
    return Vibrations(WAVENUMBER * np.sign(squares) * np.sqrt(np.abs(squares)), modes)


def rigid_motions(structure: Structure, movable: Mask) -> Floats:
    """Translations and rotations of a structure of which no atom is held.

    Parameters
    ----------
    structure : Structure
    movable : ndarray of bool, shape (n_atoms,)

    Returns
    -------
    ndarray, shape (n_motions, 3 n_movable)
        Orthonormal. Three translations, and the rotations that leave the lattice as it is: about three axes for a
        molecule (two if it is linear, none of an atom), about that of a wire. None if an atom is held.
    """
    if not movable.all():
        return np.zeros((0, 3 * int(movable.sum())))
    n, pbc = len(structure), structure.pbc
    arms = structure.positions - structure.positions.mean(axis=0)
    axes = np.eye(3) if not pbc.any() else structure.cell[pbc] if pbc.sum() == 1 else np.zeros((0, 3))
    motions = [np.tile(axis, n) / np.sqrt(n) for axis in np.eye(3)]
    motions += [np.cross(axis / np.linalg.norm(axis), arms).ravel() for axis in axes]
    _, lengths, basis = np.linalg.svd(np.array(motions), full_matrices=False)
    return np.asarray(basis[lengths > 1e-3], np.float64)


def _complement(rows: Floats) -> Floats:
    """Orthonormal rows that span all directions at right angles to ``rows`` (shape (k, n)): shape (n - k, n)."""
    k, n = rows.shape
    if k == 0:
        return np.eye(n)
    return np.asarray(np.linalg.qr(rows.T, mode="complete")[0][:, k:].T, np.float64)

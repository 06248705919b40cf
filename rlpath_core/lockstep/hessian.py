"""Hessians: a model force field's, to begin a relaxation with, and that of the potential, by finite differences.

The model Hessian tells stiff directions from soft ones before the first step. It has stretches alone, by the force
constants of Lindh, Bernhardsson, Karlström and Malmqvist (Chem. Phys. Lett. 241, 423 (1995),
doi:10.1016/0009-2614(95)00646-L), for every pair of near atoms, bonded or not. Bends and torsions, which are an order
of magnitude softer, are one constant for all directions.
"""

from __future__ import annotations

import numpy as np
from ase import units

from rlpath_core.geometry.cell import Floats, Mask
from rlpath_core.geometry.neighbours import neighbours
from rlpath_core.lockstep.hub import Evaluator
from rlpath_core.structure import Structure

REACH = 5.0
"""Å: beyond it a stretch is softer than ``SOFT`` for every pair of rows."""
SOFT = 2.0
"""eV/Å²: least curvature in any direction."""
STIFF = 60.0
"""eV/Å²: about that of an O-H bond; the largest force constant, also of pairs that were pressed together."""
AT_ONCE = 100_000
"""Atoms in one list of displaced structures, at most."""
STRETCH = 0.45 * units.Hartree / units.Bohr**2
# rows of the periodic table: first, second, third and below; Bohr^-2 and Bohr
ALPHA = np.array([[1.0, 0.3949, 0.3949], [0.3949, 0.28, 0.28], [0.3949, 0.28, 0.28]]) / units.Bohr**2
LENGTH = np.array([[1.35, 2.10, 2.53], [2.10, 2.87, 3.40], [2.53, 3.40, 3.40]]) * units.Bohr


def model_hessian(structure: Structure, movable: Mask) -> Floats:
    """Lindh's model Hessian of the movable atoms.

    Parameters
    ----------
    structure : Structure
    movable : ndarray of bool, shape (n_atoms,)
        All other atoms are fixed walls.

    Returns
    -------
    ndarray, shape (3 n_movable, 3 n_movable)
        eV/Å²: symmetric and positive definite.
    """
    i, j, d, vector = neighbours(structure, "ijdD", REACH)
    place = np.cumsum(movable) - 1
    keep = movable[i] & (i != j)
    i, j, d, vector = i[keep], j[keep], d[keep], vector[keep]
    row = np.digitize(structure.numbers, [3, 11])
    exponent = ALPHA[row[i], row[j]] * (LENGTH[row[i], row[j]] ** 2 - d**2)
    k = np.minimum(STRETCH * np.exp(exponent), STIFF)
    along = vector / d[:, None]
    block = k[:, None, None] * along[:, :, None] * along[:, None, :]
    n = int(movable.sum())
    hessian = np.zeros((n, n, 3, 3))
    np.add.at(hessian, (place[i], place[i]), block)
    both = movable[j]
    np.add.at(hessian, (place[i[both]], place[j[both]]), -block[both])
    return hessian.transpose(0, 2, 1, 3).reshape(3 * n, 3 * n) + SOFT * np.eye(3 * n)


def numerical_hessian(structure: Structure, movable: Mask, evaluate: Evaluator, step: float = 0.01) -> Floats:
    """Hessian of the potential by central differences of forces: 6 n_movable structures.

    Parameters
    ----------
    structure : Structure
    movable : ndarray of bool, shape (n_atoms,)
        All other atoms are held.
    evaluate : Evaluator
        Asked for lists of ``AT_ONCE`` atoms at most.
    step : float
        Displacement of each coordinate to either side, Å.

    Returns
    -------
    ndarray, shape (3 n_movable, 3 n_movable)
        eV/Å², symmetrised.
    """
    hessian = force_derivatives(structure, movable, evaluate, step)
    return (hessian + hessian.T) / 2


def force_derivatives(structure: Structure, movable: Mask, evaluate: Evaluator, step: float = 0.01) -> Floats:
    """Minus the derivatives of the forces, as they come: ``numerical_hessian`` before it is made symmetric.

    Row k has the derivatives along coordinate k. They are symmetric if the forces are the gradient of an energy, up to
    numerical errors; see ``asymmetry``.
    """
    rows = np.flatnonzero(movable)
    coordinates = [(atom, axis, sign) for atom in rows for axis in range(3) for sign in (1, -1)]
    at_once = max(1, AT_ONCE // len(structure))
    forces = []
    for start in range(0, len(coordinates), at_once):
        displaced = []
        for atom, axis, sign in coordinates[start : start + at_once]:
            positions = structure.positions.copy()
            positions[atom, axis] += sign * step
            displaced.append(structure.moved(positions))
        forces += [np.asarray(prediction.forces)[rows].ravel() for prediction in evaluate(displaced)]
    both = np.array(forces).reshape(-1, 2, 3 * len(rows))
    return (both[:, 1] - both[:, 0]) / (2 * step)


def asymmetry(derivatives: Floats) -> float:
    """How far a square matrix is from symmetric: the norm of its antisymmetric part over that of its symmetric part."""
    symmetric = float(np.linalg.norm(derivatives + derivatives.T))
    return float(np.linalg.norm(derivatives - derivatives.T)) / symmetric if symmetric else 0.0

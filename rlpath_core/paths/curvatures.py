"""Curvatures at a stationary point: of a whole Hessian, or the two lowest from a few displacements.

The two lowest modes are looked for by ``lowest_modes``, by differences to one side. What counts in the end are pairs of
structures displaced along both modes to either side, one list. A curvature within a few directions is an upper bound of
the true one: a second negative one is proven, while a positive one is as good as its residual is small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlpath_core.backends.base import Prediction
from rlpath_core.geometry.cell import Floats, Mask
from rlpath_core.lockstep.hessian import asymmetry
from rlpath_core.lockstep.hub import Evaluator
from rlpath_core.paths.lowest_mode import lowest_modes
from rlpath_core.structure import Structure


@dataclass(frozen=True, eq=False)
class Curvatures:
    """What is known of the second derivatives at a point.

    Attributes
    ----------
    values
        [k], eV/Å², sorted: all of a Hessian, or the two lowest as far as they were found.
    modes
        [k, 3 n_movable], orthonormal.
    asymmetry
        How far the derivatives are from symmetric; see ``lockstep.hessian.asymmetry``.
    prefactor
        Root of the ratio of two determinants, of the derivatives as they came and of their symmetric part: a prefactor
        depends by this factor on which of them is taken. 1 if forces are a gradient; None without a whole Hessian.
    """

    values: Floats
    modes: Floats
    asymmetry: float
    prefactor: float | None = None

    @property
    def two(self) -> tuple[float, float]:
        """The two lowest; infinite where there is no second direction."""
        return float(self.values[0]), float(self.values[1]) if len(self.values) > 1 else float("inf")


def of_hessian(derivatives: Floats, rigid: Floats) -> Curvatures:
    """All curvatures of second derivatives (shape (n, n), as they came) but for ``rigid`` motions (shape (k, n))."""
    hessian = (derivatives + derivatives.T) / 2
    outside = np.eye(len(hessian)) - rigid.T @ rigid
    # rigid motions come last
    lift = 2 * np.abs(hessian).sum(axis=1).max() + 1.0
    values, vectors = np.linalg.eigh(outside @ hessian @ outside + lift * rigid.T @ rigid)
    count = len(values) - len(rigid)
    inside = vectors[:, :count]
    with_all = np.linalg.slogdet(inside.T @ derivatives @ inside)[1]
    with np.errstate(divide="ignore"):
        ratio = float(np.exp((with_all - np.log(np.abs(values[:count])).sum()) / 2))
    return Curvatures(values[:count], inside.T, asymmetry(derivatives), ratio if np.isfinite(ratio) else None)


def two_lowest(
    structure: Structure,
    movable: Mask,
    evaluate: Evaluator,
    prediction: Prediction,
    begin: Floats | None,
    tolerance: float = 0.1,
    step: float = 0.01,
) -> Curvatures:
    """The two lowest curvatures; rigid motions of what nothing holds are left out.

    Parameters
    ----------
    structure : Structure
    movable : ndarray of bool, shape (n_atoms,)
        All other atoms are held.
    evaluate : Evaluator
    prediction : Prediction
        The model's prediction of ``structure``.
    begin : ndarray, shape (n_atoms, 3), optional
        Where the lowest mode is expected.
    tolerance : float
        Sine of the angle that modes are known to; see ``lowest_modes``.
    step : float
        Å: the largest displacement of an atom in the pairs.

    Returns
    -------
    Curvatures
    """
    found = lowest_modes(structure, movable, evaluate, prediction, begin, count=2, tolerance=tolerance)
    modes = found.modes[:, movable].reshape(len(found.modes), -1)
    inner = modes @ derivatives_along(structure, movable, evaluate, modes, step).T
    values, vectors = np.linalg.eigh((inner + inner.T) / 2)
    return Curvatures(values, vectors.T @ modes, asymmetry(inner))


def derivatives_along(
    structure: Structure, movable: Mask, evaluate: Evaluator, directions: Floats, step: float
) -> Floats:
    """Second derivatives of the energy along ``directions`` (shape (k, 3 n_movable), of norm 1): the same shape, eV/Å².

    Central differences of forces, 2 k structures as one list; the largest displacement of an atom is ``step`` Å.
    """
    displaced, sizes = [], []
    for direction in directions:
        move = np.zeros_like(structure.positions)
        move[movable] = direction.reshape(-1, 3)
        sizes.append(step / np.linalg.norm(move, axis=1).max())
        displaced += [structure.moved(structure.positions + sign * sizes[-1] * move) for sign in (1, -1)]
    forces = np.array([np.asarray(one.forces)[movable].ravel() for one in evaluate(displaced)])
    return np.asarray((forces[1::2] - forces[::2]) / (2 * np.array(sizes)[:, None]), np.float64)

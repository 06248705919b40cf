"""The two lowest curvatures at a stationary point, by few displacements: enough to tell what order a saddle has.

Block Davidson: the potential's second derivatives along a growing set of directions, from pairs of displaced structures
which are evaluated as one list; new directions are the residuals of the two lowest modes, over a model Hessian. A
curvature within the set is an upper bound of the true one, so that a second negative one is proven, while a positive
one is as good as its residual is small.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlpath_core.geometry.cell import Floats, Mask
from rlpath_core.lockstep.hessian import asymmetry, model_hessian
from rlpath_core.lockstep.hub import Evaluator
from rlpath_core.structure import Structure

ROUNDS = 14
"""Lists of displacements at most, of two directions each."""
SETTLED = 0.15
"""The lowest mode is known well enough when its residual is below this fraction of its curvature."""


@dataclass(frozen=True, eq=False)
class Curvatures:
    """What is known of the second derivatives at a point.

    Attributes
    ----------
    values
        [k], eV/Å², sorted: curvatures within the directions that were looked at, or of the whole Hessian.
    modes
        [k, 3 n_movable], orthonormal.
    residuals
        [k], eV/Å²: a true curvature lies within this of each value. Zeros for a Hessian.
    asymmetry
        How far the derivatives are from symmetric; see ``lockstep.hessian.asymmetry``.
    """

    values: Floats
    modes: Floats
    residuals: Floats
    asymmetry: float

    @property
    def two(self) -> tuple[float, float]:
        """The two lowest; infinite where there is no second direction."""
        return float(self.values[0]), float(self.values[1]) if len(self.values) > 1 else float("inf")


def of_hessian(derivatives: Floats, rigid: Floats) -> Curvatures:
    """All curvatures of second derivatives (shape (n, n), as they came) but for ``rigid`` motions (shape (k, n))."""
    hessian = (derivatives + derivatives.T) / 2
    outside = np.eye(len(hessian)) - rigid.T @ rigid
    # rigid motions come last
    values, vectors = np.linalg.eigh(outside @ hessian @ outside + 1e6 * rigid.T @ rigid)
    count = len(values) - len(rigid)
    return Curvatures(values[:count], vectors[:, :count].T, np.zeros(count), asymmetry(derivatives))


def lowest_curvatures(
    structure: Structure,
    movable: Mask,
    evaluate: Evaluator,
    begin: Floats,
    rigid: Floats,
    threshold: float,
    step: float = 0.01,
) -> Curvatures:
    """Look for the two lowest curvatures until it is clear which of them are negative.

    Parameters
    ----------
    structure : Structure
    movable : ndarray of bool, shape (n_atoms,)
        All other atoms are held.
    evaluate : Evaluator
    begin : ndarray, shape (k, 3 n_movable)
        Directions to begin with: the mode of a search, and a random one.
    rigid : ndarray, shape (n_rigid, 3 n_movable)
        Orthonormal directions that are left out.
    threshold : float
        eV/Å²: curvatures below minus this are negative.
    step : float
        Å: the largest displacement of an atom, to either side.

    Returns
    -------
    Curvatures
        Sorted; after ``ROUNDS`` lists even if it is not clear yet.
    """
    n = begin.shape[1]
    stiffness = model_hessian(structure, movable)
    basis, images = np.zeros((0, n)), np.zeros((0, n))
    new = begin
    found: Curvatures | None = None
    for _ in range(ROUNDS):
        new = _orthonormal(new, np.vstack((rigid, basis)))
        if not len(new):
            break
        images = np.vstack((images, derivatives_along(structure, movable, evaluate, new, step)))
        basis = np.vstack((basis, new))
        inner = basis @ images.T
        values, vectors = np.linalg.eigh((inner + inner.T) / 2)
        modes = vectors.T @ basis
        rest = vectors.T @ images - values[:, None] * modes
        rest -= rest @ rigid.T @ rigid
        residuals = np.linalg.norm(rest, axis=1)
        found = Curvatures(values, modes, residuals, asymmetry(inner))
        if _clear(found, threshold):
            break
        new = np.array(
            [np.linalg.solve(stiffness - min(values[k], 0.0) * np.eye(n), rest[k]) for k in (0, 1)[: len(values)]]
        )
    assert found is not None, "no direction is left to look along"
    return found


def _clear(found: Curvatures, threshold: float) -> bool:
    """Whether it is clear how many of the two lowest are negative, and what the lowest mode is."""
    if len(found.values) < 2:
        return False
    (first, second), (off, off_second) = found.two, found.residuals[:2]
    if second < -threshold:
        return True
    if second - off_second <= -threshold:
        return False
    return bool(off < SETTLED * abs(first) if first < -threshold else first - off > -threshold)


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


def _orthonormal(new: Floats, known: Floats) -> Floats:
    """``new`` rows at right angles to ``known`` (orthonormal rows) and to each other; those within are left out."""
    out: list[Floats] = []
    for row in new:
        size = np.linalg.norm(row)
        for _ in range(2):  # once more, for what rounding left
            for base in (known, np.array(out).reshape(-1, len(row))):
                row = row - base.T @ (base @ row)
        length = np.linalg.norm(row)
        if length > 1e-6 * size and size > 0:
            out.append(row / length)
    return np.array(out).reshape(-1, new.shape[1])

"""The lowest modes of a structure without its Hessian: force differences along a few directions.

Every direction costs one structure. The next one is where a Hessian that is fitted to all force differences so far
(``PairHessian``) expects the lowest mode (Davidson's method with a preconditioner that learns,
doi:10.1016/0021-9991(75)90065-0).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from rlpath_core.backends.base import Prediction
from rlpath_core.geometry.cell import Floats, Mask
from rlpath_core.lockstep.hub import Evaluator
from rlpath_core.lockstep.vibrations import rigid_motions
from rlpath_core.paths.pair_hessian import PairHessian
from rlpath_core.structure import Structure


class LowestMode(NamedTuple):
    """``curvature`` in eV/Å², ``mode`` [n_atoms, 3] of norm 1, zero on held atoms; ``calls`` structures evaluated."""

    curvature: float
    mode: Floats
    calls: int


class LowestModes(NamedTuple):
    """``curvatures`` [k] ascending, ``modes`` [k, n_atoms, 3], ``calls``; ``converged`` whether all k are."""

    curvatures: Floats
    modes: Floats
    calls: int
    converged: bool


def rigid(structure: Structure, movable: Mask) -> Floats:
    """``rigid_motions`` as columns: shape (3 n_movable, k); none of a single atom, which moves in a field."""
    motions = rigid_motions(structure, movable).T
    return motions[:, :0] if len(structure) == 1 else motions


def lowest_mode(
    structure: Structure,
    movable: Mask,
    evaluate: Evaluator,
    prediction: Prediction,
    start: Floats | None = None,
    *,
    tolerance: float = 0.1,
    max_calls: int = 30,
    step: float = 0.005,
) -> LowestMode:
    """The direction of lowest curvature.

    Parameters
    ----------
    structure : Structure
    movable : ndarray of bool, shape (n_atoms,)
        All other atoms are held.
    evaluate : Evaluator
    prediction : Prediction
        The model's prediction of ``structure``.
    start : ndarray, shape (n_atoms, 3), optional
        Where the mode is expected; the forces' direction if not given.
    tolerance : float
        Ends when the learnt Hessian expects the mode within this angle (its sine) of what was displaced along.
    max_calls : int
        Ends after so many structures, whatever the residual.
    step : float
        Displacement along a direction of norm 1, Å.

    Returns
    -------
    LowestMode
    """
    found = lowest_modes(
        structure, movable, evaluate, prediction, start, tolerance=tolerance, max_calls=max_calls, step=step
    )
    return LowestMode(float(found.curvatures[0]), found.modes[0], found.calls)


def lowest_modes(
    structure: Structure,
    movable: Mask,
    evaluate: Evaluator,
    prediction: Prediction,
    start: Floats | None = None,
    *,
    count: int = 1,
    tolerance: float = 0.1,
    max_calls: int = 30,
    step: float = 0.005,
) -> LowestModes:
    """The ``count`` lowest curvatures and their directions. The other parameters are those of ``lowest_mode``.

    Rigid motions of a free cluster or molecule, whose curvature is zero, are left out.
    """
    assert prediction.forces is not None
    rows = np.flatnonzero(movable)
    gradient = -prediction.forces[rows].ravel()
    search = Subspace(PairHessian(structure, movable), rigid(structure, movable))
    new = search.outside(gradient if start is None else start[rows].ravel())
    calls, converged = 0, False
    while True:
        if new is None:
            new = search.arbitrary()
        search.probe(new, structure, rows, gradient, evaluate, step)
        calls += 1
        new, angle = search.expected(count, structure.positions)
        converged = angle < tolerance
        if converged or calls >= max_calls:
            break
    k = min(count, len(search.values))
    modes = np.zeros((k, len(structure), 3))
    modes[:, rows] = search.vectors[:, :k].T.reshape(k, -1, 3)
    return LowestModes(search.values[:k], modes, calls, converged)


class Subspace:
    """Directions with known products with the Hessian, and the Ritz pairs in their span, ascending.

    Parameters
    ----------
    model : PairHessian
        Learns from every product.
    rigid : ndarray, shape (n, k)
        Directions to leave out.
    """

    def __init__(self, model: PairHessian, rigid: Floats) -> None:
        self.model, self.rigid = model, rigid
        self.basis = np.zeros((model.size, 0))
        self.products = np.zeros((model.size, 0))
        self.values = np.zeros(0)
        self.vectors = np.zeros((model.size, 0))
        self.free = model.size - rigid.shape[1]

    def outside(self, direction: Floats) -> Floats | None:
        """The part of a direction outside the basis, of norm 1; None if there is none."""
        norm = np.linalg.norm(direction)
        if norm == 0:
            return None
        direction = direction / norm
        for _ in range(2):
            direction = direction - self.rigid @ (self.rigid.T @ direction)
            direction = direction - self.basis @ (self.basis.T @ direction)
        norm = np.linalg.norm(direction)
        return direction / norm if norm > 1e-6 else None

    def arbitrary(self) -> Floats:
        """Some direction outside the basis, the same each time."""
        wave = self.outside(np.sin(np.sqrt(2.0) * np.arange(1, self.model.size + 1)))
        assert wave is not None
        return wave

    def expected(self, count: int, positions: Floats) -> tuple[Floats | None, float]:
        """Where the learnt Hessian, corrected to agree with all products that are known, has its lowest modes.

        Returns
        -------
        direction : ndarray or None
            The part outside the basis, of norm 1, of that of the ``count`` lowest modes which has the largest.
        angle : float
            The norm of that part: the sine of the angle between mode and basis. 0 where the basis is complete.
        """
        if self.basis.shape[1] >= self.free:
            return None, 0.0
        matrix = self.model.matrix(positions)
        miss = self.products - matrix @ self.basis
        inner = self.basis.T @ miss
        matrix += miss @ self.basis.T + self.basis @ miss.T - self.basis @ ((inner + inner.T) / 2) @ self.basis.T
        lift = 2 * np.abs(matrix).sum(axis=1).max()
        matrix -= self.rigid @ (self.rigid.T @ matrix)
        matrix -= (matrix @ self.rigid) @ self.rigid.T
        matrix += lift * self.rigid @ self.rigid.T
        modes = eigh(matrix, subset_by_index=[0, min(count, self.free) - 1])[1]
        parts = modes - self.basis @ (self.basis.T @ modes)
        norms = np.linalg.norm(parts, axis=0)
        worst = int(np.argmax(norms))
        return self.outside(parts[:, worst]), float(norms[worst])

    def probe(
        self,
        direction: Floats,
        structure: Structure,
        rows: NDArray[np.int64],
        gradient: Floats,
        evaluate: Evaluator,
        step: float,
    ) -> None:
        """Take in the product of the Hessian with a direction that ``expected`` returned, by one structure displaced
        along it by ``step`` Å; ``gradient`` is that of the atoms ``rows`` of ``structure``."""
        if direction @ gradient > 0:  # downhill is where a structure is safer to displace to
            direction = -direction
        forces = evaluate(structure.displaced(rows, step * direction)).forces
        assert forces is not None
        self.add(direction, (-forces[rows].ravel() - gradient) / step, structure.positions)

    def add(self, direction: Floats, product: Floats, positions: Floats) -> None:
        """Take in the product of the Hessian with a direction that ``next`` returned."""
        features = self.model.features(positions, direction)
        self.model.learn(features, direction, product)
        self.model.fit()
        self.basis = np.column_stack([self.basis, direction])
        self.products = np.column_stack([self.products, product])
        small = self.basis.T @ self.products
        self.values, turn = np.linalg.eigh((small + small.T) / 2)
        self.vectors = self.basis @ turn

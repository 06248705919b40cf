"""A Hessian that is learnt from force differences: springs between near atoms, whose stiffness depends on distance.

A sum over pairs of atoms has the Hessian ``-(k e e^T + t (1 - e e^T))`` between two atoms, with e the unit vector that
joins them. Here k and t are, for each pair of elements, sums of exponentials of the distance, whose coefficients are
fitted to force differences by linear least squares: one force call gives 3 n equations for a few dozen coefficients.
What the fit leaves, secants correct.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from rlpath_core.geometry.cell import Floats, Mask
from rlpath_core.geometry.neighbours import neighbours
from rlpath_core.structure import Structure

EXPONENTS = np.array([3.0, 6.0, 12.0])
"""Decay of the springs' stiffness, per nearest distance of the two elements."""
REACH = 2.2
"""Springs end at this many times the nearest distance of the two elements."""
LONGEST = 7.0
"""Å: nor are there longer ones."""
MEMORY = 30
"""So many force differences are reproduced beyond the fit, each the better the nearer it was taken."""
DOUBT = 1e-3
"""How far one is doubted: 0 reproduces it whatever the others say, 1 halves what it says about its direction."""
FADING = 0.3
"""Å: at this distance (norm over all atoms) it is doubted by 1 more."""
RIDGE = 1e-4
"""Weight of small coefficients, relative to the mean weight of the data."""


class PairHessian:
    """Springs between the movable atoms of a structure, and from them to the others.

    Parameters
    ----------
    structure : Structure
        Its elements and nearest distances fix the form of the springs.
    movable : ndarray of bool, shape (n_atoms,)
    curvature : float
        eV/Å²: what all directions have before there are data.

    Attributes
    ----------
    size : int
        3 n_movable.
    """

    def __init__(self, structure: Structure, movable: Mask, curvature: float = 5.0) -> None:
        self.structure, self.movable = structure, movable
        self.rows = np.flatnonzero(movable)
        self.size = 3 * len(self.rows)
        self.place = np.cumsum(movable) - 1
        elements, self.element = np.unique(structure.numbers, return_inverse=True)
        n = len(elements)
        i, j, d = neighbours(structure, "ijd", LONGEST)
        keep = (i != j) & movable[i]
        i, j, d = i[keep], j[keep], d[keep]
        first = np.minimum(self.element[i], self.element[j])
        second = np.maximum(self.element[i], self.element[j])
        nearest = np.full(n * n, LONGEST)
        np.minimum.at(nearest, first * n + second, d)
        kinds = np.unique(first * n + second)
        self.kind = np.full((n, n), -1)
        self.kind[kinds // n, kinds % n] = self.kind[kinds % n, kinds // n] = np.arange(len(kinds))
        self.nearest = nearest[kinds]
        self.reach = np.minimum(REACH * self.nearest, LONGEST)
        self.count = 2 * len(EXPONENTS) * len(kinds) + 1
        self.normal = np.zeros((self.count, self.count))
        self.right = np.zeros(self.count)
        self.coefficients = np.zeros(self.count)
        self.coefficients[-1] = curvature
        self.secants: deque[tuple[Floats, Floats, Floats, Floats]] = deque(maxlen=MEMORY)

    def _pairs(self, positions: Floats) -> tuple[Floats, ...]:
        """Movable first atoms, second atoms, unit vectors, kinds, and the springs [n_pairs, n_exponents]."""
        i, j, d, vector = neighbours(self.structure.moved(positions), "ijdD", float(self.reach.max(initial=1.0)))
        kind = self.kind[self.element[i], self.element[j]]
        keep = self.movable[i] & (i != j) & (kind >= 0)
        keep &= d < self.reach[kind]
        i, j, d, vector, kind = i[keep], j[keep], d[keep], vector[keep], kind[keep]
        end = (1 - (d / self.reach[kind]) ** 2) ** 2
        springs = end[:, None] * np.exp(EXPONENTS * (1 - d / self.nearest[kind])[:, None])
        return i, j, vector / d[:, None], kind, springs

    def features(self, positions: Floats, step: Floats) -> Floats:
        """Change of the gradient along ``step`` (shape (3 n_movable,), Å) per coefficient: shape (3 n_movable, k)."""
        i, j, unit, kind, springs = self._pairs(positions)
        moved = np.zeros((len(self.movable), 3))
        moved[self.rows] = step.reshape(-1, 3)
        relative = moved[i] - moved[j]
        along = (relative * unit).sum(axis=1)[:, None] * unit
        values = np.stack([along, relative - along])  # [2, n_pairs, 3]
        n, kinds, exponents = len(self.rows), len(self.nearest), len(EXPONENTS)
        out = np.empty((self.size, self.count))
        out[:, -1] = step
        target = (self.place[i] * kinds + kind)[:, None] * 3 + np.arange(3)
        column = 0
        for part in values:
            for b in range(exponents):
                summed = np.bincount(target.ravel(), (part * springs[:, b, None]).ravel(), 3 * n * kinds)
                block = summed.reshape(n, kinds, 3).transpose(0, 2, 1).reshape(self.size, kinds)
                out[:, column : column + kinds] = block
                column += kinds
        return out

    def learn(self, features: Floats, step: Floats, change: Floats) -> None:
        """Take in one change of the gradient: shape (3 n_movable,), eV/Å."""
        scale = float(step @ step)
        self.normal += features.T @ features / scale
        self.right += features.T @ change / scale

    def fit(self) -> None:
        """Fit the coefficients to all data."""
        weight = RIDGE * np.trace(self.normal) / self.count
        self.coefficients = np.linalg.solve(self.normal + weight * np.eye(self.count), self.right)

    def matrix(self, positions: Floats) -> Floats:
        """The Hessian at ``positions`` ([n_atoms, 3], Å): shape (3 n_movable, 3 n_movable), eV/Å²."""
        i, j, unit, kind, springs = self._pairs(positions)
        exponents = len(EXPONENTS)
        table = self.coefficients[:-1].reshape(2, exponents, len(self.nearest))
        along, across = (np.einsum("pb,bp->p", springs, half[:, kind]) for half in table)
        block = (along - across)[:, None, None] * unit[:, :, None] * unit[:, None, :]
        block += across[:, None, None] * np.eye(3)
        n = len(self.rows)
        inner = self.movable[j]
        a = np.concatenate([self.place[i], self.place[i[inner]]])
        b = np.concatenate([self.place[i], self.place[j[inner]]])
        values = np.concatenate([block, -block[inner]])
        target = (a * n + b)[:, None] * 9 + np.arange(9)
        blocks = np.bincount(target.ravel(), values.ravel(), 9 * n * n).astype(float, copy=False).reshape(n, n, 3, 3)
        dense = blocks.transpose(0, 2, 1, 3).reshape(self.size, self.size)
        dense[np.diag_indices(self.size)] += self.coefficients[-1]
        return (dense + dense.T) / 2

    def add(self, positions: Floats, step: Floats, change: Floats) -> None:
        """Learn from a change of the gradient (eV/Å) along ``step`` (Å), both of shape (3 n_movable,).

        ``positions`` ([n_atoms, 3], Å) are those in the middle of the step.
        """
        features = self.features(positions, step)
        self.learn(features, step, change)
        self.secants.append((features, step, change, positions))
        self.fit()

    def at(self, positions: Floats) -> Floats:
        """``matrix``, corrected by what the fit has left of the last changes of the gradient.

        The smallest symmetric correction that reproduces them (Powell's symmetric Broyden update, of many secants),
        weighed by ``DOUBT`` and ``FADING``.
        """
        matrix = self.matrix(positions)
        if not self.secants:
            return matrix
        steps = np.array([step for _, step, _, _ in self.secants]).T
        lengths = np.linalg.norm(steps, axis=0)
        steps = steps / lengths
        away = np.array([np.linalg.norm((positions - middle)[self.rows]) for *_, middle in self.secants])
        miss = np.array([change - features @ self.coefficients for features, _, change, _ in self.secants]).T / lengths
        doubt = DOUBT + (away / FADING) ** 2
        weights = np.linalg.inv(steps.T @ steps + np.diag(doubt))
        left = miss @ weights
        inner = steps.T @ miss
        inner = weights @ ((inner + inner.T) / 2) @ weights
        matrix += left @ steps.T + steps @ (left - steps @ inner).T
        return matrix

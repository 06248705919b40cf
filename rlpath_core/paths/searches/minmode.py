"""Our own search: up along the lowest mode and down along all others, by a Hessian that learns from every force.

The Hessian is ``PairHessian``: springs fitted to all force differences of the search, corrected by the latest of them.
Its lowest mode is looked for by displacements (``lowest_mode``) at the start, and again while the curvature is positive
or where the search would end. Each step goes up along that mode and minimises along all others, no atom further than a
trust radius, which follows how well the forces were foretold.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import eigh

from rlpath_core.backends.base import Prediction
from rlpath_core.geometry.cell import Floats
from rlpath_core.paths.lowest_mode import Subspace, rigid
from rlpath_core.paths.options import MinModeOptions
from rlpath_core.paths.pair_hessian import PairHessian
from rlpath_core.paths.searches.base import SEARCHES, Found, Guess, Search, Surface
from rlpath_core.paths.searches.limited import LimitedEvaluator, OutOfCalls
from rlpath_core.structure import Structure

SHORT = 2.0
"""Å: steps are as the options say where no two atoms are nearer than this, and in proportion shorter otherwise."""
SHORTEST = 0.5
"""Of the option ``trust``: the trust radius does not fall below."""
GOOD, BAD = 0.5, 0.9
"""The trust radius grows or shrinks where the error of the foretold forces is below or above this (see ``_error``)."""
GROW, SHRINK = 1.5, 0.6
SOFT = 0.05
"""Curvatures count as at least this fraction of the median."""
CLIMB = 0.7
"""Length of a step up where the curvature is positive, as a fraction of the trust radius."""
PATIENCE = 3
"""Steps with a positive curvature before the mode is looked for again."""
VALLEY = 0.25
"""Along the floor of a valley the mode has at least this part of the squared force."""
HARDENED = 1.2
"""A way up whose curvature has risen to this multiple is given up for that down the other side."""


@dataclass
class _Point:
    """Where a search is: ``gradient`` is that of the movable atoms, shape (3 n_movable,), eV/Å."""

    structure: Structure
    prediction: Prediction
    gradient: Floats

    @property
    def fmax(self) -> float:
        return _longest(self.gradient)


@dataclass
class _Way:
    """The way up along a valley of positive curvature: where it began, in which direction, and the curvatures on it."""

    begin: _Point
    heading: Floats
    curvatures: list[float] = field(default_factory=list)

    def hardens(self) -> bool:
        last = self.curvatures[-4:]
        return (
            len(self.curvatures) > 4
            and all(a < b for a, b in itertools.pairwise(last))
            and last[-1] > HARDENED * min(self.curvatures)
        )


@SEARCHES.register("minmode")
class MinMode(Search):
    """Min-mode following with a learnt Hessian. Follows ``guess.mode`` while the curvature is positive."""

    Options = MinModeOptions

    def run(self, guess: Guess, surface: Surface) -> Found:
        climb = _Climb(self.options, guess, surface)
        reason = None
        try:
            climb.run()
        except OutOfCalls:
            reason = "max_calls"
        return climb.found(reason)


class _Climb:
    """The state of one search."""

    def __init__(self, options: MinModeOptions, guess: Guess, surface: Surface) -> None:
        self.options, self.surface = options, surface
        self.rows = np.flatnonzero(surface.movable)
        self.evaluate = LimitedEvaluator(surface.evaluate, options.max_calls)
        self.model = PairHessian(guess.structure, surface.movable)
        self.scale = min(1.0, float(self.model.nearest.min(initial=SHORT)) / SHORT)
        self.trust = options.trust * self.scale
        self.steps = 0
        self.mode: Floats | None = None if guess.mode is None else guess.mode[self.rows].ravel()
        self.curvature: float | None = None
        self.point = self._move(guess.structure)

    def _move(self, structure: Structure) -> _Point:
        prediction = self.evaluate(structure)
        self.surface.watch(structure, prediction)
        assert prediction.forces is not None
        return _Point(structure, prediction, -prediction.forces[self.rows].ravel())

    def _displaced(self, step: Floats) -> Structure:
        return self.point.structure.displaced(self.rows, step)

    def probe(self, start: Floats) -> None:
        """Look for the lowest mode from ``start``; the model learns from it."""
        search = Subspace(self.model, rigid(self.point.structure, self.surface.movable))
        new = search.outside(start)
        gradient, step = self.point.gradient, self.options.probe * self.scale
        for _ in range(self.options.max_probes):
            if new is None:
                break
            search.probe(new, self.point.structure, self.rows, gradient, self.evaluate, step)
            new, angle = search.expected(1, self.point.structure.positions)
            if angle < self.options.angle:
                break

    def modes(self) -> tuple[Floats, Floats]:
        """Curvatures and modes of the model's Hessian here, rigid motions last."""
        structure = self.point.structure
        matrix = self.model.at(structure.positions)
        still = rigid(structure, self.surface.movable)
        if still.shape[1]:
            matrix -= still @ (still.T @ matrix)
            matrix -= (matrix @ still) @ still.T
            matrix += 2 * np.abs(matrix).sum(axis=1).max() * still @ still.T
        values, vectors = eigh(matrix)
        return values, vectors

    def run(self) -> None:
        """Walk to a saddle."""
        heading, way, turned = self.mode, None, False
        self.probe(self.point.gradient if self.mode is None else self.mode)
        looked = 0  # steps since the mode was looked for
        while True:
            values, vectors = self.modes()
            if values[0] > 0 and looked >= (1 if self.point.fmax < self.options.fmax else PATIENCE):
                self.probe(vectors[:, 0] if heading is None else heading)
                looked = 0
                continue
            if values[0] > 0 and heading is not None:
                values, vectors = _first(values, vectors, int(np.argmax(np.abs(vectors.T @ heading))))
            mode, curvature = vectors[:, 0], float(values[0])
            self.mode, self.curvature = mode, curvature
            if self.point.fmax < self.options.fmax and curvature < 0:
                return
            if curvature < 0:
                heading, way = None, None
            else:
                slope = mode @ self.point.gradient
                along = slope if heading is None or self.steps == 0 else mode @ heading
                heading = mode if along >= 0 else -mode
                if slope**2 < VALLEY * self.point.gradient @ self.point.gradient:
                    way = None
                else:
                    way = _Way(self.point, heading) if way is None else way
                    way.curvatures.append(curvature)
                    if way.hardens() and not turned:
                        self.point, heading, way, turned = way.begin, -way.heading, None, True
                        self.trust, looked = self.options.trust * self.scale, PATIENCE
                        continue
            self.step(values, vectors, heading)
            looked += 1

    def step(self, values: Floats, vectors: Floats, heading: Floats | None) -> None:
        """One step; the model and the trust radius learn from it."""
        sizes = np.maximum(np.abs(values), SOFT * np.median(np.abs(values)))
        step = _step(vectors.T @ self.point.gradient, values, sizes, vectors, self.trust, heading)
        before, self.point = self.point, self._move(self._displaced(step))
        change = self.point.gradient - before.gradient
        error = _error(vectors.T @ change, values, sizes, vectors.T @ step)
        options = self.options
        if error < GOOD:
            self.trust = min(max(self.trust, GROW * _longest(step)), options.max_step * self.scale)
        elif error > BAD:
            self.trust = max(SHRINK * _longest(step), SHORTEST * options.trust * self.scale)
        middle = (before.structure.positions + self.point.structure.positions) / 2
        self.model.add(middle, step, change)
        self.steps += 1

    def found(self, reason: str | None) -> Found:
        """What came out."""
        converged = self.point.fmax < self.options.fmax
        mode = None
        if self.mode is not None:
            mode = np.zeros((len(self.surface.movable), 3))
            mode[self.rows] = self.mode.reshape(-1, 3)
        point = self.point
        return Found(
            point.structure,
            point.prediction,
            converged,
            mode,
            self.curvature,
            self.steps,
            None if converged else reason,
        )


def _longest(step: Floats) -> float:
    return float(np.linalg.norm(step.reshape(-1, 3), axis=1).max())


def _first(values: Floats, vectors: Floats, k: int) -> tuple[Floats, Floats]:
    order = np.r_[k, np.delete(np.arange(len(values)), k)]
    return values[order], vectors[:, order]


def _error(change: Floats, values: Floats, sizes: Floats, step: Floats) -> float:
    """How far the change of the gradient is from what was foretold, both by the lengths of the steps they lead to.

    All in the modes; ``sizes`` are the curvatures' absolute values.
    """
    miss = change - values * step
    return float(np.sqrt((miss**2 / sizes).sum() / (step**2 * sizes).sum()))


def _step(
    slopes: Floats, values: Floats, sizes: Floats, vectors: Floats, trust: float, heading: Floats | None
) -> Floats:
    """Up along the first mode, down along the others; no atom further than ``trust`` by either."""
    up = vectors[:, 0]
    if values[0] < 0:
        up = up * (slopes[0] / sizes[0])
        up = up * min(1.0, trust / max(_longest(up), 1e-12))
    else:
        up = up if heading is None or up @ heading >= 0 else -up
        up = up * (CLIMB * trust / _longest(up))
    others, slopes, sizes = vectors[:, 1:], slopes[1:], sizes[1:]

    def down(shift: float) -> Floats:
        return -others @ (slopes / (sizes + shift))

    if _longest(down(0.0)) <= trust:
        return up + down(0.0)
    low, high = 0.0, float(sizes.max())
    while _longest(down(high)) > trust:
        low, high = high, 4 * high
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if _longest(down(middle)) > trust else (low, middle)
    return up + down(high)

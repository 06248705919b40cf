"""Quench: relaxation to a minimum by ASE's own optimizers, inside the walker."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase.optimize import BFGS, FIRE, LBFGS
from ase.optimize.optimize import Optimizer
from ase.optimize.sciopt import OptimizerConvergenceError, SciPyFminCG

from rlpath_core.backends.base import Prediction
from rlpath_core.lockstep.ase import Movable
from rlpath_core.lockstep.hessian import model_hessian
from rlpath_core.lockstep.hub import Ask, NotFiniteError
from rlpath_core.lockstep.options import Quench
from rlpath_core.structure import Structure


class _Silent:
    """For optimizers without a log file: ASE works out what it would write in one, at every step."""

    def log(self, gradient: np.ndarray) -> None:
        pass


class SilentBFGS(_Silent, BFGS): ...


class SilentLBFGS(_Silent, LBFGS): ...


class SilentFIRE(_Silent, FIRE): ...


class RationalBFGS(SilentBFGS):
    """BFGS whose steps minimise a rational function instead of a parabola (doi:10.1021/j100247a015).

    Where the Hessian says that the way is long or leads over a ridge, the step is damped, and never uphill. As ASE's
    RFO, but by a dense eigenvalue solver: the same to the last bit in every run, and faster for some tens of atoms.
    ``DAMPING`` (1/Å) is the reciprocal of the length at which it begins.
    """

    DAMPING = 0.5
    pos0: np.ndarray | None
    forces0: np.ndarray | None

    def prepare_step(self, pos: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.update(pos, -gradient, self.pos0, self.forces0)
        self.pos0, self.forces0 = pos, -gradient.copy()
        n = len(gradient)
        augmented = np.zeros((n + 1, n + 1))
        augmented[:n, :n] = self.H / self.DAMPING**2
        augmented[n, :n] = augmented[:n, n] = gradient / self.DAMPING
        vectors = np.linalg.eigh(augmented)[1]
        # a downhill direction that the gradient has no part in, by symmetry, is an eigenvector without a step
        lowest = vectors[:, np.flatnonzero(np.abs(vectors[n]) > 1e-8)[0]]
        step = lowest[:n] / lowest[n] / self.DAMPING
        return step, self.optimizable.gradient_norm(step)


Watch = Callable[[int, Structure, Prediction], None]
"""``watch(step, structure, prediction)`` sees every step after the first structure."""

EXPLODED = 100.0
"""A quench that meets a force above this (eV/Å) has left everything that the model knows."""


@dataclass(frozen=True)
class Quenched:
    """Where a quench ended: ``fmax`` is the largest force on a movable atom, eV/Å."""

    structure: Structure
    energy: float
    fmax: float
    converged: bool
    steps: int


class StopQuench(Exception):
    """Raised by a watch: this way leads nowhere that is worth more steps."""


class Relaxation:
    """A relaxation of the movable atoms that can be taken further: what the optimizer has learned is kept.

    ``known`` is the model's answer for ``structure``. ``watch`` may be changed between two parts of the way.
    """

    def __init__(
        self,
        structure: Structure,
        movable: np.ndarray,
        known: Prediction,
        ask: Ask,
        options: Quench,
        watch: Watch | None = None,
    ) -> None:
        self.options, self.movable, self.watch = options, movable, watch
        self.structure, self.last = structure, known
        self.ask = ask
        self.optimizer: Optimizer | None = None

    @property
    def fmax(self) -> float:
        """Largest force on a movable atom now, eV/Å."""
        assert self.last.forces is not None
        return float(np.linalg.norm(self.last.forces[self.movable], axis=1).max()) if self.movable.any() else 0.0

    @property
    def steps(self) -> int:
        return 0 if self.optimizer is None else int(self.optimizer.nsteps)

    def to(self, fmax: float) -> Quenched:
        """Relax until no force on a movable atom is above ``fmax`` eV/Å, or ``options.steps`` more are done.

        With method ``none`` nothing moves, and the structure counts as converged if its forces are below fmax.
        """
        if self.options.method == "none" or self.fmax < fmax:
            return Quenched(self.structure, self.last.energy, self.fmax, self.fmax < fmax, self.steps)
        if self.optimizer is None:
            self.optimizer = self._begin()
        try:
            converged = bool(self.optimizer.run(fmax=fmax, steps=self.options.steps))
        except (StopQuench, OptimizerConvergenceError, NotFiniteError):
            converged = False
        return Quenched(self.structure, self.last.energy, self.fmax, converged, self.steps)

    def _begin(self) -> Optimizer:
        place = Movable(self.structure, self.movable, self.ask, self.last)
        optimizer = _optimizer(place, self.structure, self.movable, self.options)
        # weak: in a cycle, Hessians and answers of finished quenches would wait in memory for a full collection
        me = weakref.proxy(self)
        optimizer.attach(lambda: me._look(place), interval=1)
        return optimizer

    def _look(self, place: Movable) -> None:
        if self.steps > 0:
            place.answer()  # an optimizer with a line search may have asked for other places since
            self.structure, self.last = place.structure, place.last
            if self.watch is not None:
                self.watch(self.steps, self.structure, self.last)
        assert self.last.forces is not None
        if np.abs(self.last.forces[self.movable]).max() > EXPLODED:
            raise StopQuench


def _optimizer(place: Movable, structure: Structure, movable: np.ndarray, options: Quench) -> Optimizer:
    informed = options.method == "bfgs" and options.hessian == "lindh"
    max_step = options.max_step or (0.3 if informed else 0.1)
    if options.method == "fire":
        return SilentFIRE(place, logfile=None, maxstep=max_step)
    if options.method == "bfgs":
        if not informed:
            return SilentBFGS(place, logfile=None, maxstep=max_step)
        optimizer = RationalBFGS(place, logfile=None, maxstep=max_step)
        optimizer.H0 = model_hessian(structure, movable)
        return optimizer
    if options.method == "lbfgs":
        return SilentLBFGS(place, logfile=None, maxstep=max_step)
    return SciPyFminCG(place, logfile=None)


def quench(
    structure: Structure, movable: np.ndarray, known: Prediction, ask: Ask, options: Quench, watch: Watch | None = None
) -> Quenched:
    """Relax the movable atoms until no force on them is above ``options.fmax``, or ``options.steps`` are done."""
    return Relaxation(structure, movable, known, ask, options, watch).to(options.fmax)

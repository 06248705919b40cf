"""Quenches: relaxations to a minimum by ASE's own optimizers, inside the walker."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase.optimize import BFGS, FIRE, LBFGS
from ase.optimize.optimize import Optimizer
from ase.optimize.sciopt import OptimizerConvergenceError, SciPyFminCG
from numpy.typing import NDArray

from rlpath_core.backends.base import Prediction
from rlpath_core.lockstep.ase import MovableAtoms
from rlpath_core.lockstep.hessian import model_hessian
from rlpath_core.lockstep.hub import Evaluator, NotFiniteError
from rlpath_core.lockstep.options import QuenchOptions
from rlpath_core.structure import Structure


class _Silent:
    """For optimizers without a log file: ASE would compute its contents at every step all the same."""

    def log(self, gradient: np.ndarray) -> None:
        pass


class SilentBFGS(_Silent, BFGS): ...


class SilentLBFGS(_Silent, LBFGS): ...


class SilentFIRE(_Silent, FIRE): ...


class RationalBFGS(SilentBFGS):
    """BFGS whose steps minimise a rational function instead of a parabola (doi:10.1021/j100247a015).

    Long steps are damped, and no step leads uphill if the Hessian has negative curvatures. The same steps as ASE's RFO,
    but by a dense eigenvalue solver: reproducible to the last bit, and faster for some tens of atoms. ``DAMPING`` (1/Å)
    is the reciprocal of the step length at which damping begins.
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
        # a direction of negative curvature that is orthogonal to the gradient, by symmetry, gives no step
        lowest = vectors[:, np.flatnonzero(np.abs(vectors[n]) > 1e-8)[0]]
        step = lowest[:n] / lowest[n] / self.DAMPING
        return step, self.optimizable.gradient_norm(step)


Callback = Callable[[int, Structure, Prediction], None]
"""``callback(step, structure, prediction)`` is called at every step but the first structure's."""

EXPLODED = 100.0
"""eV/Å: a quench that meets a larger force has left the range of the model and ends."""


@dataclass(frozen=True)
class Quenched:
    """Where a quench ended: ``energy`` is in eV, ``fmax`` the largest force on a movable atom, eV/Å."""

    structure: Structure
    energy: float
    fmax: float
    converged: bool
    steps: int


class StopQuench(Exception):
    """Raised by a callback to end the quench, which then counts as not converged."""


class Relaxation:
    """A relaxation of the movable atoms that can be continued: the optimizer keeps its Hessian between two runs.

    Parameters
    ----------
    structure : Structure
    movable : ndarray of bool, shape (n_atoms,)
        All other atoms are held.
    prediction : Prediction
        The model's prediction of ``structure``.
    evaluate : Evaluator
    options : QuenchOptions
    callback : callable, optional
        Called as ``callback(step, structure, prediction)`` after every step. It may raise ``StopQuench``, and may be
        replaced between two runs.
    """

    def __init__(
        self,
        structure: Structure,
        movable: NDArray[np.bool_],
        prediction: Prediction,
        evaluate: Evaluator,
        options: QuenchOptions,
        callback: Callback | None = None,
    ) -> None:
        self.options, self.movable, self.callback = options, movable, callback
        self.structure, self.prediction = structure, prediction
        self.evaluate = evaluate
        self.optimizer: Optimizer | None = None

    @property
    def fmax(self) -> float:
        """Largest force on a movable atom now, eV/Å."""
        return self.prediction.largest_force(self.movable)

    @property
    def steps(self) -> int:
        return 0 if self.optimizer is None else int(self.optimizer.nsteps)

    def run(self, fmax: float) -> Quenched:
        """Relax until no force on a movable atom exceeds ``fmax``.

        Parameters
        ----------
        fmax : float
            eV/Å.

        Returns
        -------
        Quenched
            Not converged after ``options.steps`` further steps, after ``StopQuench``, or after a force that is not
            finite or exceeds ``EXPLODED``. With method ``none`` nothing moves.
        """
        if self.options.method == "none" or self.fmax < fmax:
            return Quenched(self.structure, self.prediction.energy, self.fmax, self.fmax < fmax, self.steps)
        if self.optimizer is None:
            self.optimizer = self._start_optimizer()
        try:
            converged = bool(self.optimizer.run(fmax=fmax, steps=self.options.steps))
        except (StopQuench, OptimizerConvergenceError, NotFiniteError):
            converged = False
        return Quenched(self.structure, self.prediction.energy, self.fmax, converged, self.steps)

    def _start_optimizer(self) -> Optimizer:
        atoms = MovableAtoms(self.structure, self.movable, self.evaluate, self.prediction)
        optimizer = _optimizer(atoms, self.structure, self.movable, self.options)
        # weak: in a reference cycle, Hessians and predictions of finished quenches would wait for a full collection
        relaxation = weakref.proxy(self)
        optimizer.attach(lambda: relaxation._observe(atoms), interval=1)
        return optimizer

    def _observe(self, atoms: MovableAtoms) -> None:
        if self.steps > 0:
            # an optimizer with a line search may have evaluated other positions since
            self.prediction = atoms.prediction()
            self.structure = atoms.structure
            if self.callback is not None:
                self.callback(self.steps, self.structure, self.prediction)
        assert self.prediction.forces is not None
        if np.abs(self.prediction.forces[self.movable]).max() > EXPLODED:
            raise StopQuench


def _optimizer(
    atoms: MovableAtoms, structure: Structure, movable: NDArray[np.bool_], options: QuenchOptions
) -> Optimizer:
    informed = options.method == "bfgs" and options.hessian == "lindh"
    max_step = options.max_step or (0.3 if informed else 0.1)
    if options.method == "fire":
        return SilentFIRE(atoms, logfile=None, maxstep=max_step)
    if options.method == "bfgs":
        if not informed:
            return SilentBFGS(atoms, logfile=None, maxstep=max_step)
        optimizer = RationalBFGS(atoms, logfile=None, maxstep=max_step)
        optimizer.H0 = model_hessian(structure, movable)
        return optimizer
    if options.method == "lbfgs":
        return SilentLBFGS(atoms, logfile=None, maxstep=max_step)
    return SciPyFminCG(atoms, logfile=None)


def quench(
    structure: Structure,
    movable: NDArray[np.bool_],
    prediction: Prediction,
    evaluate: Evaluator,
    options: QuenchOptions,
    callback: Callback | None = None,
) -> Quenched:
    """Relax until no force on a movable atom exceeds ``options.fmax``, or ``options.steps`` are done.

    The parameters are those of ``Relaxation``.
    """
    return Relaxation(structure, movable, prediction, evaluate, options, callback).run(options.fmax)

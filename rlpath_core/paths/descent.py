"""Descents from a saddle by a Hessian of springs that learns from every force on the way.

Beside a saddle the plain BFGS update fails: along its own step it meets a negative curvature, which spoils all other
directions. Springs that are fitted to all force changes (``PairHessian``) tell stiff directions from soft ones there,
too. A step that leads uphill is taken back and teaches all the same, so that no descent leaps over a barrier unseen.
"""

from __future__ import annotations

import numpy as np

from rlpath_core.backends.base import Prediction
from rlpath_core.geometry.cell import Mask
from rlpath_core.lockstep.hub import Evaluator, NotFiniteError
from rlpath_core.lockstep.relax import EXPLODED, Callback, Quenched, StopQuench
from rlpath_core.paths.pair_hessian import PairHessian
from rlpath_core.structure import Structure

SOFTEST = 0.1
"""eV/Å²: softer directions are treated as this stiff."""
RISE = 1e-4
"""eV: a step that raises the energy by more is taken back, if the forces say the same."""
LEAST = 1e-3
"""Å: shorter steps are not taken back."""


def descend(
    structure: Structure,
    prediction: Prediction,
    movable: Mask,
    evaluate: Evaluator,
    springs: PairHessian,
    fmax: float,
    steps: int,
    max_step: float,
    callback: Callback,
) -> Quenched:
    """Relax until the largest force is below ``fmax``.

    Parameters
    ----------
    structure, prediction
        Where it begins.
    movable : ndarray of bool, shape (n_atoms,)
        All other atoms are held.
    evaluate : Evaluator
    springs : PairHessian
        What is known already; it learns.
    fmax : float
        eV/Å.
    steps : int
        At most, those that are taken back included.
    max_step : float
        Å: the longest step of an atom.
    callback : callable
        As of a relaxation: called with every structure that is kept.

    Returns
    -------
    Quenched
        Not converged after ``steps``, after ``StopQuench``, or after a force that is not finite or too large.
    """
    rows, radius, taken = np.flatnonzero(movable), max_step, 0
    for taken in range(1, steps + 1):
        if (force := prediction.largest_force(movable)) < fmax:
            return Quenched(structure, prediction.energy, force, True, taken - 1)
        gradient = -np.asarray(prediction.forces)[rows].ravel()
        values, vectors = np.linalg.eigh(springs.at(structure.positions))
        step = -vectors @ ((vectors.T @ gradient) / np.maximum(np.abs(values), SOFTEST))
        step *= min(1.0, radius / np.linalg.norm(step.reshape(-1, 3), axis=1).max())
        trial = structure.displaced(rows, step)
        try:
            told = evaluate(trial)
            change = -np.asarray(told.forces)[rows].ravel() - gradient
            springs.add((structure.positions + trial.positions) / 2, step, change)
            longest = float(np.linalg.norm(step.reshape(-1, 3), axis=1).max())
            # where forces are no gradient, energies alone might refuse every step
            rise = min(told.energy - prediction.energy, float((gradient + change / 2) @ step))
            if rise > RISE and longest > LEAST:
                radius = longest / 3
                continue
            radius = min(max_step, 2 * radius)
            structure, prediction = trial, told
            callback(taken, structure, prediction)
            if np.abs(np.asarray(told.forces)[rows]).max() > EXPLODED:
                break
        except (StopQuench, NotFiniteError):
            break
    fmax_now = prediction.largest_force(movable)
    return Quenched(structure, prediction.energy, fmax_now, fmax_now < fmax, taken)

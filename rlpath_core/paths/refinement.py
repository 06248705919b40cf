"""The last steps to a saddle whose forces are small already, by a Newton-like method with an updated Hessian."""

from __future__ import annotations

import numpy as np

from rlpath_core.backends.base import Prediction
from rlpath_core.lockstep.hessian import model_hessian
from rlpath_core.paths.curvatures import Curvatures
from rlpath_core.paths.searches.base import Surface
from rlpath_core.structure import Structure

STEPS = 15
"""At most."""
LONGEST = 0.05
"""Å: the largest displacement of an atom in a step."""
STIFF = 0.1
"""eV/Å²: softer directions are treated as this stiff, so that no step goes far along them."""


def refine(
    structure: Structure, prediction: Prediction, surface: Surface, known: Curvatures, fmax: float
) -> tuple[Structure, Prediction]:
    """Move uphill along the lowest mode and downhill along all others, until the largest force is below ``fmax``.

    Parameters
    ----------
    structure, prediction
        Where it begins: the forces should be small already.
    surface : Surface
    known : Curvatures
        At ``structure``: what is known replaces the model Hessian.
    fmax : float
        eV/Å.

    Returns
    -------
    tuple of Structure and Prediction
        Of the steps, the one with the smallest forces.

    Raises
    ------
    SearchEnded
        From ``surface.watch``.
    NotFiniteError
        From ``surface.evaluate``.
    """
    movable = surface.movable
    hessian = model_hessian(structure, movable)
    outside = np.eye(len(hessian)) - known.modes.T @ known.modes
    hessian = outside @ hessian @ outside + known.modes.T @ (known.values[:, None] * known.modes)
    best = structure, prediction
    for _ in range(STEPS):
        if best[1].largest_force(movable) < fmax:
            break
        gradient = -np.asarray(prediction.forces)[movable].ravel()
        values, vectors = np.linalg.eigh(hessian)
        stiffness = np.maximum(np.abs(values), STIFF)
        stiffness[0] *= -1
        step = -vectors @ ((vectors.T @ gradient) / stiffness)
        step *= min(1.0, LONGEST / np.linalg.norm(step.reshape(-1, 3), axis=1).max())
        structure = structure.displaced(movable, step)
        prediction = surface.evaluate(structure)
        surface.watch(structure, prediction)
        change = -np.asarray(prediction.forces)[movable].ravel() - gradient
        # Powell's symmetric update: the Hessian may stay indefinite
        missed = change - hessian @ step
        unit = step / (step @ step)
        hessian += np.outer(missed, unit) + np.outer(unit, missed) - (missed @ step) * np.outer(unit, unit)
        if prediction.largest_force(movable) < best[1].largest_force(movable):
            best = structure, prediction
    return best

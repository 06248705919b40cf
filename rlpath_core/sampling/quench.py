"""Quench: relaxation to a minimum by ASE's own optimizers, inside the walker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase.optimize import BFGS, FIRE, LBFGS
from ase.optimize.optimize import Optimizer
from ase.optimize.sciopt import OptimizerConvergenceError, SciPyFminCG

from rlpath_core.backends.base import Prediction
from rlpath_core.sampling.lockstep import Ask, NotFiniteError, attach
from rlpath_core.spec.sampling import Quench
from rlpath_core.structure import Structure

Watch = Callable[[int, Structure, Prediction], None]

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


class _StopQuench(Exception):
    pass


def _optimizer(atoms: object, options: Quench) -> Optimizer:
    if options.method == "fire":
        return FIRE(atoms, logfile=None, maxstep=options.max_step)
    if options.method == "bfgs":
        return BFGS(atoms, logfile=None, maxstep=options.max_step)
    if options.method == "lbfgs":
        return LBFGS(atoms, logfile=None, maxstep=options.max_step)
    return SciPyFminCG(atoms, logfile=None)


def quench(
    structure: Structure, movable: np.ndarray, known: Prediction, ask: Ask, options: Quench, watch: Watch | None = None
) -> Quenched:
    """Relax the movable atoms until no force on them is above ``options.fmax``, or ``options.steps`` are done.

    ``known`` is the model's answer for ``structure``; ``watch(step, structure, prediction)`` sees every step after it.
    With method ``none`` nothing moves, and the structure counts as converged if its forces are below fmax.
    """
    assert known.forces is not None
    largest = float(np.linalg.norm(known.forces[movable], axis=1).max()) if movable.any() else 0.0
    if options.method == "none" or largest < options.fmax:
        return Quenched(structure, known.energy, largest, largest < options.fmax, 0)
    atoms = attach(structure, movable, ask, known)
    optimizer = _optimizer(atoms, options)
    last = known

    def look() -> None:
        nonlocal last
        last = Prediction(float(atoms.calc.results["energy"]), atoms.calc.results["forces"])
        if watch is not None and optimizer.nsteps > 0:
            watch(optimizer.nsteps, structure.moved(atoms.positions), last)
        assert last.forces is not None
        if np.abs(last.forces[movable]).max() > EXPLODED:
            raise _StopQuench

    optimizer.attach(look, interval=1)
    try:
        converged = bool(optimizer.run(fmax=options.fmax, steps=options.steps))
    except (_StopQuench, OptimizerConvergenceError, NotFiniteError):
        converged = False
    assert last.forces is not None
    largest = float(np.linalg.norm(last.forces[movable], axis=1).max())
    return Quenched(structure.moved(atoms.positions), last.energy, largest, converged, optimizer.nsteps)

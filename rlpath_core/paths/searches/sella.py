"""Sella (doi:10.1021/acs.jctc.2c00395), unchanged, on the movable atoms alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlpath_core.errors import InputError
from rlpath_core.geometry.cell import Floats
from rlpath_core.lockstep.ase import attach_movable
from rlpath_core.lockstep.hessian import model_hessian
from rlpath_core.paths.options import SellaOptions
from rlpath_core.paths.searches.base import SEARCHES, Found, Guess, Search, Surface
from rlpath_core.paths.searches.limited import LimitedEvaluator, OutOfCalls

MISSING = (
    "the search `sella` needs the package sella: pip install 'rlpath[sella]', or take the search `minmode` instead"
)


def sella() -> Any:
    """The library's class; InputError if it is not installed."""
    try:
        from sella import Sella
    except ImportError as error:
        raise InputError(f"{MISSING} ({error})") from error
    return Sella


@SEARCHES.register("sella")
class SellaSearch(Search):
    """Partitioned rational function optimisation by the library. Its own linear algebra is dense: for few atoms.

    It begins with the curvature along ``guess.mode``. Where the first Hessian has no negative curvature it may end in a
    minimum: what it found says so by its curvature.
    """

    Options = SellaOptions

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.kind = sella()

    def run(self, guess: Guess, surface: Surface) -> Found:
        options: SellaOptions = self.options
        movable = surface.movable
        evaluate = LimitedEvaluator(surface.evaluate, options.max_calls)
        structure, prediction, steps, reason = guess.structure, evaluate(guess.structure), 0, None
        surface.watch(structure, prediction)
        atoms = attach_movable(structure, movable, evaluate, prediction)
        free = bool(movable.all()) and len(movable) > 1
        optimizer = self.kind(
            atoms,
            logfile=None,
            order=1,
            eta=options.probe,
            gamma=options.gamma,
            delta0=options.trust,
            H0=model_hessian(structure, movable) if options.hessian == "lindh" else None,
            proj_trans=free,
            proj_rot=free and not structure.pbc.any(),
        )
        if guess.mode is not None:
            optimizer.pes.v0 = guess.mode[movable].ravel() @ optimizer.pes.get_Ufree()
        try:
            for _ in optimizer.irun(fmax=options.fmax, steps=options.max_calls):
                if np.array_equal(atoms.positions, structure.positions[movable]):
                    continue
                structure = atoms.calc.structure_of(atoms)
                prediction = evaluate.at(structure)
                steps += 1
                surface.watch(structure, prediction)
                evaluate.recent.clear()
        except OutOfCalls:
            reason = "max_calls"
        except (np.linalg.LinAlgError, ArithmeticError, ValueError, RuntimeError) as error:
            reason = f"sella:{type(error).__name__}"
        converged = prediction.largest_force(movable) < options.fmax
        mode, curvature = _lowest(optimizer, movable)
        return Found(structure, prediction, converged, mode, curvature, steps, None if converged else reason or "steps")


def _lowest(optimizer: Any, movable: Any) -> tuple[Floats | None, float | None]:
    """The lowest mode of the library's approximate Hessian, [n_atoms, 3], and its curvature."""
    basis = optimizer.pes.get_Ufree()
    projected = optimizer.pes.get_HL_projected(basis) if optimizer.pes.H.B is not None else None
    if projected is None or projected.evals is None:
        return None, None
    mode = np.zeros((len(movable), 3))
    mode[movable] = (basis @ projected.evecs[:, 0]).reshape(-1, 3)
    return mode / np.linalg.norm(mode), float(projected.evals[0])

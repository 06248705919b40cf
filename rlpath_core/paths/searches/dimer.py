"""ASE's dimer (doi:10.1063/1.480097) on the movable atoms alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlpath_core.lockstep.ase import attach_movable
from rlpath_core.paths.options import DimerOptions
from rlpath_core.paths.searches.base import SEARCHES, Found, Guess, Search, Surface
from rlpath_core.paths.searches.limited import LimitedEvaluator, OutOfCalls


@SEARCHES.register("dimer")
class Dimer(Search):
    """The force along the lowest mode is turned round; the mode is found by rotating a pair of structures.

    Without ``guess.mode`` it begins with a random direction.
    """

    Options = DimerOptions

    def run(self, guess: Guess, surface: Surface) -> Found:
        from ase.mep import DimerControl, MinModeAtoms, MinModeTranslate

        options: DimerOptions = self.options
        movable = surface.movable
        evaluate = LimitedEvaluator(surface.evaluate, options.max_calls)
        structure, prediction, steps, reason = guess.structure, evaluate(guess.structure), 0, None
        surface.watch(structure, prediction)
        mode = surface.rng.normal(size=(len(structure), 3)) if guess.mode is None else guess.mode
        mode = mode[movable] / np.linalg.norm(mode[movable])
        control = DimerControl(
            logfile=None,
            eigenmode_logfile=None,
            dimer_separation=options.separation,
            max_num_rot=options.rotations,
            maximum_translation=options.max_step,
        )
        atoms = attach_movable(structure, movable, evaluate, prediction)
        pair: Any = MinModeAtoms(atoms, control, eigenmodes=[mode], random_seed=0)
        try:
            for _ in MinModeTranslate(pair, logfile=None).irun(fmax=1e-9, steps=options.max_calls):
                if not np.array_equal(atoms.positions, structure.positions[movable]):
                    structure = atoms.calc.structure_of(atoms)
                    prediction = evaluate.at(structure)
                    steps += 1
                    surface.watch(structure, prediction)
                evaluate.recent.clear()
                if prediction.largest_force(movable) < options.fmax and pair.get_curvature() < 0:
                    break
        except OutOfCalls:
            reason = "max_calls"
        except RuntimeError as error:
            reason = f"dimer:{error}"
        whole = np.zeros((len(structure), 3))
        whole[movable] = pair.get_eigenmode()
        curvature = pair.get_curvature()
        converged = prediction.largest_force(movable) < options.fmax
        return Found(
            structure,
            prediction,
            converged,
            whole / np.linalg.norm(whole),
            float(curvature) if steps or converged else None,
            steps,
            None if converged else reason or "steps",
        )

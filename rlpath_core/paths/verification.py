"""Verification: what a converged search must show, rung by rung, before it counts as a saddle.

Every rung costs more than the one before: the force costs nothing, the two lowest curvatures a few dozen structures,
the descent to both sides a hundred, the Hessian six structures per movable atom. What can be evaluated at once is one
list: a walker that verifies waits as seldom as it can. Whether a saddle is known already is not asked here; whoever
keeps the known ones does that first.

Forces that are no gradient (EquiformerV2 and other networks that predict them directly) vanish where the energy has no
stationary point. Curvatures are those of the symmetric part of the forces' derivatives, and a verdict says how large
the antisymmetric part is. Both ends must have lower energies all the same.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from rlpath_core.backends.base import Prediction
from rlpath_core.geometry.cell import Floats
from rlpath_core.lockstep.hessian import force_derivatives, model_hessian
from rlpath_core.lockstep.hub import Evaluator, NotFiniteError
from rlpath_core.lockstep.relax import Quenched, quench
from rlpath_core.lockstep.together import side_by_side
from rlpath_core.lockstep.vibrations import rigid_motions
from rlpath_core.paths.curvatures import Curvatures, lowest_curvatures, of_hessian
from rlpath_core.paths.identity import SAME, furthest
from rlpath_core.paths.options import VerifyOptions
from rlpath_core.paths.refinement import largest_force, refine
from rlpath_core.paths.searches.base import Found, SearchEnded, Surface
from rlpath_core.paths.verdict import State, Verdict
from rlpath_core.structure import Structure

FEW = 6
"""With this number of movable atoms or fewer, the whole Hessian costs less than a look for its two lowest modes."""
REFINED_FROM = 20.0
"""A force above this multiple of ``verify.fmax`` is too far from a saddle for a refinement."""
KICK = 0.01
"""Å (norm over all atoms): a random displacement that a descent begins with, so that it leaves symmetric ridges.
Stiff directions have little of it."""
TRIALS = 4
"""How often the push to a side is halved or doubled until it is a descent that a relaxation can follow."""
FREE = 1e-3
"""eV/Å: forces of a structure that nothing holds turn and move with it to this accuracy."""


class _Rejected(Exception):
    def __init__(self, reason: str, figure: float | None = None, limit: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.figure, self.limit = reason, figure, limit


def verify(found: Found, surface: Surface, options: VerifyOptions) -> Verdict:
    """Climb the ladder as far as a stationary point bears it.

    Parameters
    ----------
    found : Found
        Where a search ended. Searches that ended without convergence are refined if their forces are small.
    surface : Surface
        The evaluator counts every structure; the random stream is drawn from.
    options : VerifyOptions

    Returns
    -------
    Verdict
        Of state ``connected`` at most, with the Hessian from which frequencies follow, or with a rejection, its figure
        and the limit that it broke.
    """
    return _Ladder(found, surface, options).climb()


class _Ladder:
    """One verification: ``verdict`` is what is known by now."""

    def __init__(self, found: Found, surface: Surface, options: VerifyOptions) -> None:
        self.found, self.surface, self.options = found, surface, options
        self.prediction = found.prediction
        self.rigid = np.zeros((0, 3 * int(surface.movable.sum())))
        self.verdict = Verdict(
            State.GUESS, found.structure, found.prediction.energy, largest_force(found.prediction, surface.movable)
        )

    def climb(self) -> Verdict:
        try:
            self.force()
            self.order()
            self.descend()
            if self.verdict.hessian is None and self.options.hessian != "never":
                self.hessian()
        except _Rejected as rejected:
            self._know(rejection=rejected.reason, figure=rejected.figure, limit=rejected.limit)
        except SearchEnded as ended:
            desorbed = ended.reason.startswith("detached")
            self._know(rejection="desorbed" if desorbed else ended.reason, figure=ended.figure, limit=ended.limit)
        except NotFiniteError:
            self._know(rejection="not_finite")
        return self.verdict

    def _know(self, **facts: object) -> None:
        self.verdict = replace(self.verdict, **facts)  # type: ignore[arg-type]

    def force(self) -> None:
        """The largest force is small, if need be after a few steps more."""
        limit, movable = self.options.fmax, self.surface.movable
        if not movable.any():
            raise _Rejected("not_converged", 0.0, 0.0)
        self.surface.watch(self.verdict.structure, self.prediction)
        if self.verdict.fmax > REFINED_FROM * limit:
            raise _Rejected("not_converged", self.verdict.fmax, limit)
        self.rigid = self._rigid()
        if self.verdict.fmax >= limit:
            known = self._look(self.verdict.structure)
            structure, self.prediction = refine(self.verdict.structure, self.prediction, self.surface, known, limit)
            fmax = largest_force(self.prediction, movable)
            self._know(structure=structure, energy=self.prediction.energy, fmax=fmax)
            self.found = replace(self.found, mode=self._per_atom(known.modes[0]))
            if fmax >= limit:
                raise _Rejected("not_converged", fmax, limit)
        self._know(state=State.CONVERGED)

    def order(self) -> None:
        """Exactly one curvature is negative."""
        if self.options.hessian == "all" or self.surface.movable.sum() <= FEW:
            self.hessian()
        else:
            self._judge(self._look(self.verdict.structure))

    def hessian(self) -> None:
        """The Hessian of the movable atoms, which decides on the order."""
        surface, options = self.surface, self.options
        derivatives = force_derivatives(self.verdict.structure, surface.movable, surface.evaluate, options.hessian_step)
        self._know(hessian=(derivatives + derivatives.T) / 2)
        self._judge(of_hessian(derivatives, self.rigid))

    def descend(self) -> None:
        """Both sides of the mode relax into minima which differ, and lie lower."""
        options, verdict, movable = self.options, self.verdict, self.surface.movable
        starts = self._pushed()

        def relaxed(side: int, evaluate: Evaluator) -> Quenched | SearchEnded:
            structure, prediction = starts[side]
            try:
                return quench(
                    structure, movable, prediction, evaluate, options.quench, lambda step, *at: self.surface.watch(*at)
                )
            except SearchEnded as ended:
                return ended

        first, second = side_by_side([partial(relaxed, 0), partial(relaxed, 1)], self.surface.evaluate)
        for end in (first, second):
            if isinstance(end, SearchEnded):
                raise end
        assert isinstance(first, Quenched)
        assert isinstance(second, Quenched)
        self._know(ends=(first, second))
        for end in (first, second):
            if not end.converged:
                raise _Rejected("end_not_converged", end.fmax, options.quench.fmax)
        for end in (first, second):
            if end.energy >= verdict.energy:
                raise _Rejected("uphill", end.energy - verdict.energy, 0.0)
        apart = furthest(first.structure, second.structure, movable, len(self.rigid) > 0)
        if apart <= SAME:
            raise _Rejected("disconnected", apart, SAME)
        barrier = verdict.energy - min(first.energy, second.energy)
        if barrier > options.max_barrier:
            raise _Rejected("barrier", barrier, options.max_barrier)
        self._know(state=State.CONNECTED)

    def _judge(self, known: Curvatures) -> None:
        limit = -self.options.curvature
        mode = self._per_atom(known.modes[0])
        before = self.verdict.mode if self.verdict.mode is not None else self.found.mode
        if before is not None and (mode * before).sum() < 0:
            mode = -mode
        structure, by = self.verdict.structure, self.options.displacement * mode
        sides = structure.moved(structure.positions - by), structure.moved(structure.positions + by)
        self._know(curvatures=known.two, mode=mode, sides=sides, asymmetry=known.asymmetry)
        first, second = known.two
        if first >= limit:
            self._know(state=State.CONVERGED)
            raise _Rejected("minimum", first, limit)
        if second < limit:
            self._know(state=State.CONVERGED)
            raise _Rejected("second_order", second, limit)
        if self.verdict.state == State.CONVERGED:
            self._know(state=State.FIRST_ORDER)

    def _look(self, structure: Structure) -> Curvatures:
        """The two lowest curvatures, beginning with the search's own mode and a random direction."""
        surface, options = self.surface, self.options
        begin = surface.rng.normal(size=(2, 3 * int(surface.movable.sum())))
        if self.found.mode is not None and np.linalg.norm(self.found.mode[surface.movable]) > 0:
            begin[0] = self.found.mode[surface.movable].ravel()
        return lowest_curvatures(
            structure, surface.movable, surface.evaluate, begin, self.rigid, options.curvature, options.hessian_step
        )

    def _per_atom(self, direction: Floats) -> Floats:
        mode = np.zeros_like(self.verdict.structure.positions)
        mode[self.surface.movable] = direction.reshape(-1, 3)
        return mode

    def _rigid(self) -> Floats:
        """Rigid motions, if nothing holds the structure: two structures, moved and turned, tell whether that is so."""
        surface, structure = self.surface, self.verdict.structure
        rigid = rigid_motions(structure, surface.movable)
        if not len(rigid):
            return rigid
        shift = surface.rng.normal(size=3)
        shifted = structure.moved(structure.positions + shift / np.linalg.norm(shift))
        small = rigid.T @ surface.rng.normal(size=len(rigid))
        turned = structure.moved(structure.positions + 1e-2 * small.reshape(-1, 3) / np.abs(small).max())
        for moved in surface.evaluate([shifted, turned]):
            if np.abs(np.asarray(moved.forces) - np.asarray(self.prediction.forces)).max() > self.options.fmax + FREE:
                return rigid[:0]
        return rigid

    def _pushed(self) -> list[tuple[Structure, Prediction]]:
        """A structure on either side of the mode from which a relaxation leads down, with its prediction."""
        verdict, surface = self.verdict, self.surface
        assert verdict.mode is not None
        kick = np.linalg.solve(
            model_hessian(verdict.structure, surface.movable), surface.rng.normal(size=self.rigid.shape[1])
        )
        along = verdict.mode[surface.movable].ravel()
        kick -= along * (along @ kick) + self.rigid.T @ (self.rigid @ kick)
        kick *= KICK / max(float(np.linalg.norm(kick)), 1e-3)
        sizes, good = [self.options.push] * 2, [False, False]
        starts: dict[int, tuple[Structure, Prediction]] = {}
        highest = 0.0
        for _ in range(TRIALS):
            sides = [side for side in (0, 1) if not good[side]]
            trials = []
            for side in sides:
                away = self._per_atom(along * (sizes[side] if side else -sizes[side]) + kick)
                trials.append(verdict.structure.moved(verdict.structure.positions + away))
            for side, trial, prediction in zip(sides, trials, surface.evaluate(trials), strict=True):
                starts[side] = trial, prediction
                if prediction.energy >= verdict.energy:
                    sizes[side] /= 2
                    highest = prediction.energy - verdict.energy
                elif largest_force(prediction, surface.movable) < self.options.quench.fmax:
                    sizes[side] *= 2
                else:
                    good[side] = True
            if all(good):
                break
        for side in (0, 1):
            if starts[side][1].energy >= verdict.energy:
                raise _Rejected("uphill", highest, 0.0)
            if not good[side]:
                raise _Rejected("flat", largest_force(starts[side][1], surface.movable), self.options.quench.fmax)
        return [starts[0], starts[1]]

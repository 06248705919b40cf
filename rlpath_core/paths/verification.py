"""Verification: what a converged search must show, rung by rung, before it counts as a saddle.

Every rung costs more than the one before: the force costs nothing, the two lowest curvatures a dozen structures or two,
the descent to both sides a hundred, the Hessian six structures per movable atom. What can be evaluated at once is one
list: a walker that verifies waits as seldom as it can. Whether a saddle is known already is not asked here; whoever
keeps the known ones does that first.

Forces that are no gradient (EquiformerV2 and other networks that predict them directly) vanish where the energy has no
stationary point, and following them down need not lower the energy. There the forces decide: they must do work on the
way down to both sides. Curvatures are those of the symmetric part of their derivatives. A verdict says how large the
antisymmetric part is, and by how much the work of the forces and the fall of the energy differ, which is how uncertain
the barrier is; a saddle where they differ by more than ``disagreement`` is rejected.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from rlpath_core.backends.base import Prediction
from rlpath_core.geometry.cell import Floats
from rlpath_core.lockstep.hessian import force_derivatives
from rlpath_core.lockstep.hub import Evaluator, NotFiniteError
from rlpath_core.lockstep.options import QuenchOptions
from rlpath_core.lockstep.relax import Quenched, Relaxation, StopQuench
from rlpath_core.lockstep.together import side_by_side
from rlpath_core.lockstep.vibrations import rigid_motions
from rlpath_core.paths.curvatures import Curvatures, of_hessian, two_lowest
from rlpath_core.paths.descent import descend
from rlpath_core.paths.identity import SAME, furthest
from rlpath_core.paths.options import VerifyOptions
from rlpath_core.paths.pair_hessian import PairHessian
from rlpath_core.paths.refinement import refine
from rlpath_core.paths.searches.base import Found, SearchEnded, Surface
from rlpath_core.paths.verdict import State, Verdict
from rlpath_core.structure import Structure

FEW = 2
"""With this number of movable atoms or fewer, the whole Hessian costs less than a look for its two lowest modes."""
SURE = 0.02
"""Sine of the angle that modes are known to before a search is told that it found a minimum."""
REFINED_FROM = 20.0
"""A force above this multiple of ``verify.fmax`` is too far from a saddle for a refinement."""
KICK = 0.003
"""Å (norm over all atoms): a random displacement that a descent begins with, so that it leaves symmetric ridges."""
HIGH = 0.05
"""eV: where the energy is this far above the saddle's, the path is too curved for the push, which is halved."""
HALVED = 3
"""How often, at most."""
UPHILL = 0.5
"""eV: a descent that is this far above the saddle is taken back."""
ASTRAY = 1.0
"""Å (norm over all atoms): a descent that is nearer to the saddle than this has not left its own side of it."""
CAREFUL = QuenchOptions(method="fire", max_step=0.03, steps=1000)
"""How a side is relaxed once more, from the same place, where longer steps went uphill or over the saddle."""
LONGEST = 0.1
"""Å: the longest step of an atom on a descent, if ``quench.max_step`` is null."""
SOFTER = 0.2
"""A relaxation that comes to rest beside the saddle goes on to this fraction of its largest force."""
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
        self.work = [0.0, 0.0]
        self.prediction = found.prediction
        self.rigid = np.zeros((0, 3 * int(surface.movable.sum())))
        self.verdict = Verdict(
            State.GUESS, found.structure, found.prediction.energy, found.prediction.largest_force(surface.movable)
        )

    def climb(self) -> Verdict:
        try:
            self.force()
            self.order()
            self.descend()
            if not self._falls():
                self._know(hessian=None)
            elif self.verdict.hessian is None and self.options.hessian != "never":
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
            known = self._look(self.found.mode)
            structure, self.prediction = refine(self.verdict.structure, self.prediction, self.surface, known, limit)
            fmax = self.prediction.largest_force(movable)
            self._know(structure=structure, energy=self.prediction.energy, fmax=fmax)
            self.found = replace(self.found, mode=self._per_atom(known.modes[0]))
            if fmax >= limit:
                raise _Rejected("not_converged", fmax, limit)
        self._know(state=State.CONVERGED)

    def order(self) -> None:
        """Exactly one curvature is negative."""
        if self.options.hessian == "all" or self._whole():
            self.hessian()
            return
        known = self._look(self.found.mode)
        if known.two[0] >= -self.options.curvature:
            known = self._look(self._per_atom(known.modes[0]), SURE)
        self._judge(known)

    def hessian(self) -> None:
        """The Hessian of the movable atoms, which decides on the order."""
        derivatives = self._derivatives()
        self._know(hessian=(derivatives + derivatives.T) / 2)
        self._judge(of_hessian(derivatives, self.rigid))

    def descend(self) -> None:
        """Both sides of the mode relax into minima which differ, and lie lower."""
        options, verdict, surface = self.options, self.verdict, self.surface
        movable = surface.movable
        starts = self._pushed()
        first, second = side_by_side([partial(self._relaxed, side, *starts[side]) for side in (0, 1)], surface.evaluate)
        for end in (first, second):
            if isinstance(end, SearchEnded):
                raise end
        assert isinstance(first, Quenched)
        assert isinstance(second, Quenched)
        self._know(ends=(first, second))
        for end in (first, second):
            if not end.converged:
                raise _Rejected("end_not_converged", end.fmax, options.quench.fmax)
        if surface.conservative:
            for end in (first, second):
                if end.energy >= verdict.energy:
                    raise _Rejected("uphill", end.energy - verdict.energy, 0.0)
        else:
            self._compare(first, second)
        apart = furthest(first.structure, second.structure, movable, len(self.rigid) > 0)
        if apart <= SAME:
            raise _Rejected("disconnected", apart, SAME)
        barrier = verdict.energy - min(first.energy, second.energy)
        if barrier > options.max_barrier:
            raise _Rejected("barrier", barrier, options.max_barrier)
        self._know(state=State.CONNECTED)

    def _falls(self) -> bool:
        """Whether both ends have lower energies: without a barrier there are no rates, so no Hessian either."""
        assert self.verdict.ends is not None
        return all(end.energy < self.verdict.energy for end in self.verdict.ends)

    def _compare(self, *ends: Quenched) -> None:
        """For forces that are no gradient: they do work to both sides, about as much as the energy falls."""
        if min(self.work) <= 0:
            raise _Rejected("uphill", -min(self.work), 0.0)
        falls = [self.verdict.energy - end.energy for end in ends]
        apart = max(abs(done - fall) for done, fall in zip(self.work, falls, strict=True))
        self._know(disagreement=apart)
        if self.options.disagreement is not None and apart > self.options.disagreement:
            raise _Rejected("inconsistent", apart, self.options.disagreement)

    def _relaxed(
        self, side: int, structure: Structure, prediction: Prediction, evaluate: Evaluator
    ) -> Quenched | SearchEnded:
        """Where a side comes to rest, or the limit that it breaks."""
        try:
            end = self._relax(side, structure, prediction, evaluate, self.options.quench)
            up = end.energy >= self.verdict.energy if self.surface.conservative else self.work[side] <= 0
            if not end.converged or up:
                careful = CAREFUL.model_copy(update={"fmax": self.options.quench.fmax})
                end = self._relax(side, structure, prediction, evaluate, careful)
        except SearchEnded as ended:
            return ended
        return end

    def _relax(
        self, side: int, structure: Structure, prediction: Prediction, evaluate: Evaluator, options: QuenchOptions
    ) -> Quenched:
        """One relaxation, which ends early where it goes uphill or over the saddle."""
        verdict = self.verdict
        assert verdict.mode is not None
        saddle, own = verdict.structure.positions, verdict.mode if side else -verdict.mode
        reached: list[Prediction] = []
        ceiling = max(prediction.energy, verdict.energy) + UPHILL
        conservative = self.surface.conservative
        self.work[side] = _work(verdict.structure, self.prediction, structure, prediction)
        before = structure, prediction

        def look(step: int, now: Structure, told: Prediction) -> None:
            nonlocal before
            self.work[side] += _work(*before, now, told)
            before = now, told
            away = now.positions - saddle
            too_high = told.energy > ceiling if conservative else self.work[side] < -UPHILL
            if too_high or ((away * own).sum() < 0 and np.linalg.norm(away) < ASTRAY):
                raise StopQuench
            self.surface.watch(now, told)
            reached[:] = [told]

        movable, springs = self.surface.movable, self._springs(structure, prediction)
        relaxation = Relaxation(structure, movable, prediction, evaluate, options, look)

        def to(place: Structure, known: Prediction, fmax: float) -> Quenched:
            if self.options.descent == "quench" or options.method != "bfgs":
                return relaxation.run(fmax)
            longest = options.max_step or LONGEST
            return descend(place, known, movable, evaluate, springs, fmax, options.steps, longest, look)

        end = to(structure, prediction, options.fmax)
        beside = np.linalg.norm(end.structure.positions - saddle) < 2 * np.linalg.norm(structure.positions - saddle)
        if end.converged and beside:
            end = to(end.structure, reached[-1] if reached else prediction, SOFTER * options.fmax)
            end = replace(end, converged=end.fmax < options.fmax)
        return end

    def _springs(self, structure: Structure, prediction: Prediction) -> PairHessian:
        """What the push has shown."""
        rows, saddle = np.flatnonzero(self.surface.movable), self.verdict.structure
        springs = PairHessian(saddle, self.surface.movable)
        step = (structure.positions - saddle.positions)[rows].ravel()
        change = (np.asarray(self.prediction.forces) - np.asarray(prediction.forces))[rows].ravel()
        springs.add((saddle.positions + structure.positions) / 2, step, change)
        return springs

    def _judge(self, known: Curvatures) -> None:
        limit = -self.options.curvature
        mode = self._per_atom(known.modes[0])
        before = self.verdict.mode if self.verdict.mode is not None else self.found.mode
        if before is not None and (mode * before).sum() < 0:
            mode = -mode
        structure, by = self.verdict.structure, self.options.displacement * mode
        sides = structure.moved(structure.positions - by), structure.moved(structure.positions + by)
        self._know(curvatures=known.two, mode=mode, sides=sides, asymmetry=known.asymmetry, prefactor=known.prefactor)
        first, second = known.two
        if first >= limit:
            self._know(state=State.CONVERGED)
            raise _Rejected("minimum", first, limit)
        if second < limit:
            self._know(state=State.CONVERGED)
            raise _Rejected("second_order", second, limit)
        if self.verdict.state == State.CONVERGED:
            self._know(state=State.FIRST_ORDER)

    def _derivatives(self) -> Floats:
        surface, structure = self.surface, self.verdict.structure
        return force_derivatives(structure, surface.movable, surface.evaluate, self.options.hessian_step)

    def _whole(self) -> bool:
        """Whether the two lowest modes are not looked for alone: few atoms move, or what is no atom holds them."""
        movable = self.surface.movable
        return bool(movable.sum() <= FEW) or len(self.rigid) < len(rigid_motions(self.verdict.structure, movable))

    def _look(self, begin: Floats | None, tolerance: float = 0.1) -> Curvatures:
        """The two lowest curvatures."""
        if self._whole():
            return of_hessian(self._derivatives(), self.rigid)
        surface, step = self.surface, self.options.hessian_step
        structure, prediction = self.verdict.structure, self.prediction
        return two_lowest(structure, surface.movable, surface.evaluate, prediction, begin, tolerance, step)

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
        along = verdict.mode[surface.movable].ravel()
        kick = surface.rng.normal(size=len(along))
        kick -= along * (along @ kick) + self.rigid.T @ (self.rigid @ kick)
        kick *= KICK / max(float(np.linalg.norm(kick)), 1e-3)
        sizes = [-self.options.push, self.options.push]
        starts: dict[int, tuple[Structure, Prediction]] = {}
        sides = [0, 1]
        for _ in range(HALVED + 1):
            trials = [
                verdict.structure.moved(verdict.structure.positions + self._per_atom(along * sizes[side] + kick))
                for side in sides
            ]
            starts.update(zip(sides, zip(trials, surface.evaluate(trials), strict=True), strict=True))
            sides = [side for side in sides if self._rise(*starts[side]) > HIGH]
            for side in sides:
                sizes[side] /= 2
            if not sides:
                break
        return [starts[0], starts[1]]

    def _rise(self, structure: Structure, prediction: Prediction) -> float:
        """How far a structure beside the saddle lies above it, eV: by the forces if they are no gradient."""
        if self.surface.conservative:
            return prediction.energy - self.verdict.energy
        return -_work(self.verdict.structure, self.prediction, structure, prediction)


def _work(start: Structure, there: Prediction, end: Structure, here: Prediction) -> float:
    """Work of the forces on the straight way from ``start`` to ``end``, by the trapezoidal rule, eV."""
    assert there.forces is not None
    assert here.forces is not None
    return float(((there.forces + here.forces) / 2 * (end.positions - start.positions)).sum())

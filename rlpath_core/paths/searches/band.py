"""A nudged elastic band of few images by ASE, which hands its highest point over to a search for a single saddle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from ase.mep import NEB
from ase.optimize.lbfgs import LBFGSMethod

from rlpath_core.backends.base import Prediction
from rlpath_core.config.base import check
from rlpath_core.errors import InputError
from rlpath_core.geometry.cell import Floats, Mask
from rlpath_core.geometry.interpolation import interpolate
from rlpath_core.geometry.matching import matched
from rlpath_core.lockstep.ase import attach_movable, evaluate_together
from rlpath_core.lockstep.hessian import model_hessian
from rlpath_core.lockstep.relax import quench
from rlpath_core.paths.options import BandOptions
from rlpath_core.paths.searches.base import SEARCHES, Found, Guess, Search, Surface
from rlpath_core.paths.searches.limited import LimitedEvaluator, OutOfCalls
from rlpath_core.paths.searches.profile import Profile
from rlpath_core.structure import Structure

MEMORY = 20
SAME = 0.3
"""Å: structures no atom of which lies further apart are the same minimum."""
GROWN = 1.2
"""Forces on a band that are so many times what they were have grown."""
PATIENCE = 12
"""Steps after which a band with few images gets more."""
MANY = 7
"""Images, ends and all, of a band that gets no more."""
PROBE = 0.01
"""Å: displacement along the path for the curvature at its end."""


class _Astray(Exception):
    """The search for a single saddle has left the band."""


@SEARCHES.register("band")
class Band(Search):
    """ASE's nudged elastic band: improved tangent, climbing image, all images in one list, one optimizer per band.

    Where the force on the climbing image is below ``hand_over_force``, a search for a single saddle goes on from the
    highest point of a curve through the images, with the curve's direction as its mode. If that leaves the band, the
    band goes on itself until its force is half of what it was; then the search may go twice as far, and so on. A
    minimum between the images ends a band there: the part with the highest image is continued, the other is in
    ``Found.further``.
    """

    Options = BandOptions
    double_ended = True

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.single: type[Search] | None = None
        if options.hand_over is not None:
            self.single = SEARCHES[options.hand_over]
            if self.single.double_ended:
                raise InputError("a band hands over to a search that begins with one structure", key="hand_over")
            self.single_options = check(self.single.Options, options.then, options.hand_over)
            self.single(self.single_options)  # it may need a package that is missing

    def run(self, guess: Guess, surface: Surface) -> Found:
        """Search between the first and the last image of ``guess.path``; images between them are used as they are.

        Raises
        ------
        InputError
            ``guess.path`` has no two structures.
        SearchEnded, NotFiniteError
            As every search.
        """
        options: BandOptions = self.options
        if len(guess.path) < 2:
            raise InputError("a band needs a guess with a path: both minima, with images between them or without")
        path = guess.path
        if len(path) == 2:
            path = interpolate(path[0], path[1], options.images, options.start, surface.movable)
        if surface.movable.all() and len(path[0]) > 1:  # rigid motions are no part of the path
            path = (path[0], *(matched(path[0], image, surface.movable, exchange=False) for image in path[1:]))
        evaluate = LimitedEvaluator(surface.evaluate, options.max_calls)
        if len(path) > options.max_calls:
            path = (path[len(path) // 2],)
        predictions = evaluate(path)
        for structure, prediction in list(zip(path, predictions, strict=True))[1:-1] or [(path[0], predictions[0])]:
            surface.watch(structure, prediction)
        if len(path) == 1:
            return _found(path[0], predictions[0], surface.movable, options.fmax, 0, "max_calls")
        return _Run(self, guess, surface, evaluate, path, predictions).run()


def _found(
    structure: Structure, prediction: Prediction, movable: Mask, fmax: float, steps: int, reason: str, **rest: Any
) -> Found:
    converged = prediction.largest_force(movable) < fmax
    return Found(structure, prediction, converged, steps=steps, reason=None if converged else reason, **rest)


class _Run:
    """One search with a band, as far as it has come."""

    def __init__(
        self,
        search: Band,
        guess: Guess,
        surface: Surface,
        evaluate: LimitedEvaluator,
        path: tuple[Structure, ...],
        predictions: list[Prediction],
    ) -> None:
        self.search, self.guess, self.surface, self.evaluate = search, guess, surface, evaluate
        self.options: BandOptions = search.options
        self.steps = 0
        self.further: list[Guess] = []
        self.looked: list[Structure] = []
        self.threshold, self.reach = self.options.hand_over_force, self.options.reach
        self.begin(path, predictions)

    def begin(self, path: tuple[Structure, ...], predictions: list[Prediction]) -> None:
        """Begin a band with these images, the ends among them."""
        movable = self.surface.movable
        self.images = [
            attach_movable(structure, movable, self.evaluate, prediction)
            for structure, prediction in zip(path, predictions, strict=True)
        ]
        self.band = NEB(self.images, k=self.options.spring, climb=True, method="improvedtangent")
        self.optimizer = _Steps(path[len(path) // 2], movable, self.options.max_step)
        self.since = self.steps

    def refine(self) -> None:
        """Put an image between any two: with few, the path's direction at the highest one is far from the mode."""
        between = Profile(self.path, self.predictions, self.surface.movable).middles()
        predictions = self.evaluate(between)
        for structure, prediction in zip(between, predictions, strict=True):
            self.surface.watch(structure, prediction)
        path = [self.path[0]], [self.predictions[0]]
        for k, (structure, prediction) in enumerate(zip(between, predictions, strict=True)):
            path[0].extend((structure, self.path[k + 1]))
            path[1].extend((prediction, self.predictions[k + 1]))
        self.begin(tuple(path[0]), path[1])

    @property
    def path(self) -> tuple[Structure, ...]:
        """The images where they were evaluated last."""
        return tuple(image.calc.structure for image in self.images)

    @property
    def predictions(self) -> list[Prediction]:
        return [image.calc.prediction for image in self.images]

    def run(self) -> Found:
        options, movable = self.options, self.surface.movable
        reason = "steps"
        try:
            for _ in range(options.max_calls):
                self.split()
                forces = self.band.get_forces()
                top = self.band.imax
                if self.predictions[top].largest_force(movable) < options.fmax:
                    return self.climbed(top)
                if self.search.single is not None and self.climbing(forces, top) < self.threshold:
                    found = self.handed_over()
                    if found is not None:
                        return found
                if self.steps - self.since >= PATIENCE and len(self.images) <= MANY:
                    self.refine()
                    continue
                self.move(self.optimizer.step(self.positions(), forces, top))
        except OutOfCalls:
            reason = "max_calls"
        energies = [prediction.energy for prediction in self.predictions[1:-1]]
        top = 1 + int(np.argmax(energies))
        return self.described(_found(self.path[top], self.predictions[top], movable, options.fmax, 0, reason))

    def positions(self) -> Floats:
        """[n_images, n_movable, 3] without the ends."""
        return np.array([image.positions for image in self.images[1:-1]])

    def move(self, step: Floats) -> None:
        """Move the images between the ends, and evaluate them as one list."""
        for image, by in zip(self.images[1:-1], step, strict=True):
            image.positions += by
        evaluate_together(self.images)
        self.steps += 1
        for structure, prediction in list(zip(self.path, self.predictions, strict=True))[1:-1]:
            self.surface.watch(structure, prediction)

    def climbing(self, forces: Floats, top: int) -> float:
        """The largest force on an atom of the climbing image, its part along the path turned round, eV/Å."""
        return float(np.linalg.norm(forces.reshape(len(self.images) - 2, -1, 3)[top - 1], axis=1).max())

    def described(self, found: Found) -> Found:
        """With the band, its steps and the minima on the way."""
        return replace(
            found,
            steps=self.steps + found.steps,
            path=self.path,
            further=tuple(self.further),
        )

    def climbed(self, top: int) -> Found:
        """The climbing image is the saddle: its mode is the direction of the path."""
        structure, prediction = self.path[top], self.predictions[top]
        mode = Profile(self.path, self.predictions, self.surface.movable).direction(top)
        curvature: float | None = None
        if self.evaluate.left:
            beside = self.evaluate(structure.moved(structure.positions + PROBE * mode))
            change = np.asarray(beside.forces) - np.asarray(prediction.forces)
            curvature = -float((change * mode).sum()) / PROBE
        return self.described(Found(structure, prediction, True, mode, curvature))

    def handed_over(self) -> Found | None:
        """What a search for a single saddle finds from the highest point; None if it is not the band's."""
        assert self.search.single is not None
        profile = Profile(self.path, self.predictions, self.surface.movable)
        highest = profile.highest()
        if highest is None:
            return None
        structure, mode = highest
        reach = self.reach * profile.spacing
        self.reach *= 2
        known = {image.positions.tobytes(): one for image, one in zip(self.path, self.predictions, strict=True)}
        limit = self.evaluate.left + (structure.positions.tobytes() in known)
        if not limit:
            raise OutOfCalls
        evaluate = LimitedEvaluator(self.evaluate, limit, known)

        def watch(at: Structure, prediction: Prediction) -> None:
            self.surface.watch(at, prediction)
            if np.linalg.norm(at.positions - structure.positions) > reach:
                raise _Astray

        options = self.search.single_options.model_copy(update={"fmax": self.options.fmax, "max_calls": limit})
        try:
            found = self.search.single(options).run(
                replace(self.guess, structure=structure, mode=mode, path=()),
                replace(self.surface, evaluate=evaluate, watch=watch),
            )
        except _Astray:
            found = None
        if found is not None and found.converged and (found.curvature is None or found.curvature < 0):
            return self.described(found)
        self.threshold = min(self.threshold, self.climbing(self.band.get_forces(), self.band.imax)) / 2
        return None

    def split(self) -> None:
        """End the band at a minimum between its images, if there is one."""
        if self.options.split is None:
            return
        energies = np.array([prediction.energy for prediction in self.predictions])
        inner = np.arange(1, len(energies) - 1)
        depth = np.minimum(energies[inner - 1], energies[inner + 1]) - energies[inner]
        if depth.max() < self.options.split:
            return
        at = int(inner[np.argmax(depth)])
        image = self.path[at]
        if any(_apart(image, other) < SAME for other in self.looked):
            return
        self.looked.append(image)
        settled = quench(
            image,
            self.surface.movable,
            self.predictions[at],
            self.evaluate,
            self.options.quench,
            lambda _, structure, prediction: self.surface.watch(structure, prediction),
        )
        path, predictions = self.path, self.predictions
        if not settled.converged or min(_apart(settled.structure, end) for end in (path[0], path[-1])) < SAME:
            return
        prediction = self.evaluate.at(settled.structure)
        parts = [
            ((*path[:at], settled.structure), [*predictions[:at], prediction]),
            ((settled.structure, *path[at + 1 :]), [prediction, *predictions[at + 1 :]]),
        ]
        if int(np.argmax(energies)) > at:
            parts.reverse()
        (path, predictions), (other, _) = parts
        self.further.append(replace(self.guess, structure=other[len(other) // 2], mode=None, path=other))
        if len(path) == 2:
            path = interpolate(path[0], path[1], self.options.images, self.options.start, self.surface.movable)
            predictions = [predictions[0], *self.evaluate(path[1:-1]), predictions[1]]
            for structure, one in zip(path[1:-1], predictions[1:-1], strict=True):
                self.surface.watch(structure, one)
        self.begin(path, predictions)


def _apart(one: Structure, other: Structure) -> float:
    """Å: the largest distance of an atom from where it is in the other."""
    return float(np.linalg.norm(one.positions - other.positions, axis=1).max())


class _Inverse:
    """The same inverse Hessian for every image, times a factor."""

    def __init__(self, inverse: Floats) -> None:
        self.inverse, self.factor = inverse, 1.0

    def __matmul__(self, vector: Floats) -> Floats:
        return np.asarray(self.factor * (vector.reshape(-1, len(self.inverse)) @ self.inverse).ravel())


class _Steps:
    """ASE's L-BFGS for the images of a band together, which begins with the curvatures of a model force field.

    Forces of a band are no gradient: where they grow, another image climbs or the curvature along the last step is
    negative, what was learnt is forgotten; where they grow, steps become shorter, too.
    """

    def __init__(self, structure: Structure, movable: Mask, max_step: float) -> None:
        self.inverse = _Inverse(np.asarray(np.linalg.inv(model_hessian(structure, movable)), np.float64))
        self.longest = self.max_step = max_step
        self.last: tuple[Floats, Floats, int] | None = None
        self.method = LBFGSMethod(memory=MEMORY, initial_inverse_hessian=self.inverse)

    def learn(self, x: Floats, gradient: Floats, top: int) -> None:
        """Take in what the last step has changed."""
        if self.last is None:
            return
        moved, change = x - self.last[0], gradient - self.last[1]
        grown = np.linalg.norm(gradient) > GROWN * np.linalg.norm(self.last[1])
        self.max_step = self.max_step / 2 if grown else min(self.longest, 1.5 * self.max_step)
        along = float(moved @ change)
        if along > 1e-3 * float(moved @ moved):
            self.inverse.factor *= float(np.clip(along / (change @ (self.inverse @ change)), 0.2, 2.0))
        if grown or self.last[2] != top or along <= 1e-3 * float(moved @ moved):
            self.method = LBFGSMethod(memory=MEMORY, initial_inverse_hessian=self.inverse)
        else:
            self.method.update(x, gradient, self.last[0], self.last[1])

    def step(self, positions: Floats, forces: Floats, top: int) -> Floats:
        """Displacements of the images, shape of ``positions`` [n_images, n_movable, 3]."""
        x, gradient = positions.ravel(), -forces.ravel()
        self.learn(x, gradient, top)
        self.last = x.copy(), gradient.copy(), top
        step = self.method.compute_step(gradient).reshape(positions.shape)
        longest = np.linalg.norm(step, axis=2).max()
        return np.asarray(step * min(1.0, self.max_step / longest) if longest else step)

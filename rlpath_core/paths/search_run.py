"""One saddle search from its guess to what verification says of it, as straight-line code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from rlpath_core.backends.base import Prediction
from rlpath_core.config import check
from rlpath_core.geometry.cell import Floats
from rlpath_core.geometry.roles import Roles
from rlpath_core.kinetics.modes import modes
from rlpath_core.lockstep.hessian import numerical_hessian
from rlpath_core.lockstep.hub import Evaluator, NotFiniteError
from rlpath_core.lockstep.relax import Quenched
from rlpath_core.lockstep.vibrations import vibrations
from rlpath_core.paths.catalogue import Catalogue
from rlpath_core.paths.drawing import Draw
from rlpath_core.paths.options import PathsConfig
from rlpath_core.paths.searches import SEARCHES, Guess, Search, SearchEnded, Surface
from rlpath_core.paths.verdict import State, Verdict
from rlpath_core.paths.verification import verify
from rlpath_core.paths.watch import Watch
from rlpath_core.sampling.attempt import round_positions

Ask = Callable[[Callable[[], Any]], Any]
"""What a search learns of the catalogue while it runs goes through this: see ``Journal.remembering``."""


@dataclass(frozen=True)
class Plan:
    """What is decided before a search: its number from 1, the walker that runs it, its guess, the search's name."""

    n: int
    walker: int
    guess: Guess
    search: str


@dataclass(frozen=True)
class SearchResult:
    """How a search ended.

    Attributes
    ----------
    plan
        As it was, but for what ``Proposal.refine`` made of the guess.
    verdict
        None for a search that ended before there was anything to verify.
    rejection, figure, limit
        Why it goes no further, and the value and the limit of a hard limit that it broke.
    known
        The name of the saddle of the catalogue that it converged to, if it is one: it was not verified again.
    frequencies
        Of the saddle, and of both ends as far as the catalogue did not have them.
    sides
        The model's predictions of ``verdict.sides``.
    further
        Guesses of further searches, as a band has them that met a minimum on its way.
    steps, calls
        Steps of the search; structures that were evaluated in all.
    """

    plan: Plan
    verdict: Verdict | None = None
    rejection: str | None = None
    figure: float | None = None
    limit: float | None = None
    known: str | None = None
    frequencies: Floats | None = None
    end_frequencies: tuple[Floats | None, Floats | None] = (None, None)
    sides: tuple[Prediction, ...] = ()
    further: tuple[Guess, ...] = ()
    steps: int = 0
    calls: int = 0

    @property
    def state(self) -> State:
        """How far it came."""
        return State.GUESS if self.verdict is None else self.verdict.state

    @property
    def connected(self) -> bool:
        """Whether it found an elementary step that nobody knew."""
        return self.verdict is not None and self.rejection is None and self.verdict.ends is not None

    def turned(self) -> SearchResult:
        """The same step from its other end."""
        verdict = self.verdict
        assert verdict is not None
        assert verdict.mode is not None
        assert verdict.sides is not None
        assert verdict.ends is not None
        back = replace(verdict, mode=-verdict.mode, sides=verdict.sides[::-1], ends=verdict.ends[::-1])
        return replace(self, verdict=back, end_frequencies=self.end_frequencies[::-1], sides=self.sides[::-1])


class Searcher:
    """Runs searches by a config.

    Parameters
    ----------
    config
        The config of the run.
    roles
        Roles of the atoms.
    draw
        Whose proposals refine their guesses.
    conservative
        Whether the model's forces are minus the gradient of its energy.
    """

    def __init__(self, config: PathsConfig, roles: Roles, draw: Draw, conservative: bool = True) -> None:
        self.config, self.roles, self.draw, self.conservative = config, roles, draw, conservative
        self.searches: dict[str, Search] = {}
        for name, options in config.searches.items():
            kind = SEARCHES[name]
            self.searches[name] = kind(check(kind.Options, options, f"searches.{name}"))

    def choose(self, guess: Guess, rng: np.random.Generator) -> tuple[str, Guess]:
        """The search that a guess goes to, and the guess as that search takes it.

        A guess with a path goes to a double-ended search. Where there is none, its middle image and the tangent there
        go to a single-ended one.

        Raises
        ------
        LookupError
            There is no search for it: it has no path, and all searches are double-ended.
        """
        ends = {name: search.double_ended for name, search in self.searches.items() if search.options.weight > 0}
        names = [name for name, double in ends.items() if double] if guess.path else []
        if not names:
            names = [name for name, double in ends.items() if not double]
            guess = _from_the_middle(guess) if guess.path else guess
        if not names:
            raise LookupError(f"no search begins from a single structure: {', '.join(self.searches)}")
        weights = np.array([self.searches[name].options.weight for name in names])
        return names[int(rng.choice(len(names), p=weights / weights.sum()))], guess

    def run(
        self, plan: Plan, evaluate: Evaluator, rng: np.random.Generator, catalogue: Catalogue, ask: Ask
    ) -> SearchResult:
        """Run a search to its end.

        Parameters
        ----------
        plan
            What was decided.
        evaluate
            The search's own: its ``calls`` are counted.
        rng
            The search's own random stream.
        catalogue
            What is known; it is only asked, through ``ask``.
        ask
            Repeats answers in a search that is run again.
        """
        result = SearchResult(plan)
        try:
            guess = self.draw.refine(plan.guess, evaluate, rng)
            result = replace(result, plan=replace(plan, guess=guess))
            result = self._run(result, self._surface(guess, evaluate, rng, catalogue), catalogue, ask)
        except SearchEnded as error:
            result = replace(result, rejection=error.reason, figure=error.figure, limit=error.limit)
        except NotFiniteError:
            result = replace(result, rejection="model:not_finite")
        return replace(result, calls=evaluate.calls)

    def _surface(self, guess: Guess, evaluate: Evaluator, rng: np.random.Generator, catalogue: Catalogue) -> Surface:
        """What the search sees; hard limits are counted from the minimum that it began in, if that is known."""
        if guess.start is not None:
            start, energy = catalogue.minima[guess.start].structure, catalogue.minima[guess.start].energy
        else:
            start, energy = guess.structure, evaluate(guess.structure).energy
        watch = Watch(self.roles, start, energy, self.config.limits)
        return Surface(evaluate, self.roles.movable, self.roles, rng, watch, self.conservative)

    def _run(self, result: SearchResult, surface: Surface, catalogue: Catalogue, ask: Ask) -> SearchResult:
        found = self.searches[result.plan.search].run(result.plan.guess, surface)
        result = replace(result, steps=found.steps, further=found.further)
        if found.converged:
            known = ask(lambda: catalogue.known_saddle(found.structure, found.prediction.energy))
            if known is not None:
                fmax = found.prediction.largest_force(surface.movable)
                verdict = Verdict(State.CONVERGED, found.structure, found.prediction.energy, fmax)
                return replace(result, verdict=verdict, known=known)
        verdict = verify(found, surface, self.config.verify)
        result = replace(result, verdict=verdict, figure=verdict.figure, limit=verdict.limit)
        if verdict.rejection is not None or verdict.ends is None or verdict.sides is None:
            untouched = verdict.rejection == "not_converged" and found.reason is not None
            return replace(result, rejection=found.reason if untouched else verdict.rejection)
        verdict = rounded_verdict(verdict)
        result = replace(result, verdict=verdict, sides=tuple(surface.evaluate(list(verdict.sides or ()))))
        if verdict.hessian is None:
            return result
        return self._with_frequencies(result, verdict, surface, catalogue, ask)

    def _with_frequencies(
        self, result: SearchResult, verdict: Verdict, surface: Surface, catalogue: Catalogue, ask: Ask
    ) -> SearchResult:
        """With frequencies of the saddle and of ends that have none yet; ``rate_ready`` if they are as they must be."""
        assert verdict.ends is not None
        assert verdict.hessian is not None
        at_saddle = vibrations(verdict.structure, surface.movable, verdict.hessian).frequencies
        ready = len(modes(verdict.structure, at_saddle).imaginary) == 1
        of_ends: list[Floats | None] = []
        for end in verdict.ends:
            known = ask(partial(_frequencies_of, catalogue, end))
            if known is None:
                step = self.config.verify.hessian_step
                hessian = numerical_hessian(end.structure, surface.movable, surface.evaluate, step)
                of_ends.append(vibrations(end.structure, surface.movable, hessian).frequencies)
            else:
                of_ends.append(None)
            values = np.array(known) if known is not None else of_ends[-1]
            assert values is not None
            ready &= len(modes(end.structure, values).imaginary) == 0
        state = State.RATE_READY if ready else verdict.state
        return replace(
            result,
            verdict=replace(verdict, state=state),
            frequencies=at_saddle,
            end_frequencies=(of_ends[0], of_ends[1]),
        )


def _frequencies_of(catalogue: Catalogue, end: Quenched) -> list[float] | None:
    name = catalogue.minimum_of(end.structure, end.energy)
    known = None if name is None else catalogue.minima[name].frequencies
    return None if known is None else known.tolist()


def rounded_verdict(verdict: Verdict) -> Verdict:
    """With positions to the precision of the content id: what is stored and labelled is then one structure."""
    assert verdict.ends is not None
    assert verdict.sides is not None
    first, second = (replace(end, structure=round_positions(end.structure)) for end in verdict.ends)
    minus, plus = (round_positions(side) for side in verdict.sides)
    return replace(verdict, structure=round_positions(verdict.structure), ends=(first, second), sides=(minus, plus))


def _from_the_middle(guess: Guess) -> Guess:
    """A path's middle and the tangent there, for a search that begins from one structure."""
    images = guess.path
    if len(images) > 2:
        k = len(images) // 2
        structure, tangent = images[k], images[k + 1].positions - images[k - 1].positions
    else:
        structure, tangent = guess.structure, images[-1].positions - images[0].positions
    norm = np.linalg.norm(tangent)
    return replace(guess, structure=structure, mode=tangent / norm if norm > 0 else guess.mode, path=())

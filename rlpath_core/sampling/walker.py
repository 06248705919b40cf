"""One attempt, as straight-line code: draw, act, validate, ask the model, gate, quench, identify, trigger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlpath_core.backends.base import Prediction
from rlpath_core.config.load import Section, check
from rlpath_core.errors import InputError
from rlpath_core.geometry.slab import Roles, infer_roles
from rlpath_core.lockstep.hub import Evaluator, NotFiniteError
from rlpath_core.lockstep.relax import Quenched, Relaxation, StopQuench
from rlpath_core.sampling.actions import ACTIONS, Action, Setting
from rlpath_core.sampling.film import Film, Frame
from rlpath_core.sampling.options import ACTION_OPTIONS, SamplingConfig, VizOptions
from rlpath_core.sampling.plugins import PLUGINS, Plugin
from rlpath_core.sampling.policies import Site
from rlpath_core.sampling.seen import Seen
from rlpath_core.sampling.triggers import TRIGGERS, Candidate, Collector
from rlpath_core.sampling.validators import VALIDATORS, Attempted, Rejection, Validator
from rlpath_core.structure import Structure
from rlpath_core.structure.structure import CONTENT_DECIMALS

WIDEN = 1.3
"""A move that is drawn again reaches so many times as far."""
GLANCE = 8
"""Every so many steps a quench is held to the hard limits: a molecule that flies off is not followed to the end."""


@dataclass
class Outcome:
    """Everything that an attempt left behind. ``n`` counts from 1; relaxing the given structures is 0, -1, ...

    ``known`` is the index of the basin reached (its number in the run), None without one. ``chances`` and ``scales``
    [n_actions] are what the action is drawn by, and how far each would reach; None for what is configured. ``spared``:
    passed all validators and was not relaxed, for it met more force than ``calm`` (eV/Å). ``turn``: which of its
    draws it set out with, None where there was one alone. ``cut``: the quench ended early, on its way down into a known
    basin.
    """

    n: int
    walker: int
    start: Site
    action: str
    parameters: dict[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    chances: NDArray[np.float64] | None = None
    scales: NDArray[np.float64] | None = None
    calm: float | None = None
    turn: int | None = None
    spared: bool = False
    rejection: Rejection | None = None
    structure: Structure | None = None
    magnitude: float | None = None
    energy: float | None = None
    max_force: float | None = None
    top_mean: float | None = None
    quenched: Quenched | None = None
    quench_rejection: Rejection | None = None
    cut: bool = False
    known: int | None = None
    new_basin: bool = False
    candidates: list[Candidate] = field(default_factory=list)
    film: list[Frame] = field(default_factory=list)
    force_calls: int = 0

    @property
    def accepted(self) -> bool:
        return self.rejection is None


def settle(structure: Structure) -> Structure:
    """Positions as the content id sees them, so that what is stored, labelled and walked on from is one thing."""
    return structure.moved(np.round(structure.positions, CONTENT_DECIMALS) + 0.0)


@dataclass(frozen=True)
class Drawn:
    """A displaced structure that the model has not seen yet, and how it came about."""

    attempted: Attempted
    parameters: dict[str, Any]
    scale: float
    rejection: Rejection | None


Identify = Callable[[Outcome, Quenched, bool], bool]
"""``identify(outcome, quenched, found_new)``: notes the basin that was reached and says whether there is one.

An unknown minimum becomes a new basin only where ``found_new`` says so.
"""


class Attempts:
    """Runs attempts by a config. What one does comes from (seed, n), and from ``seen``: where others have been."""

    def __init__(self, config: SamplingConfig, origins: list[Structure], seed: int) -> None:
        self.config = config
        self.seed = seed
        self.roles: list[Roles] = [infer_roles(structure) for structure in origins]
        for k, roles in enumerate(self.roles):
            if not roles.movable.any():
                raise InputError(f"no atom of starting structure {k} may move: all are fixed", "structure")
        self.actions: dict[str, Action] = {}
        weights: list[float] = []
        blocks = {name: getattr(config, name) for name in ACTION_OPTIONS}
        if not config.md.enabled:
            del blocks["md"]
        for name, given in (blocks | config.actions).items():
            kind = ACTIONS[name]
            options = check(kind.Options, given, name) if isinstance(given, dict) else given
            if options.weight > 0:
                self.actions[name] = kind(options)
                weights.append(options.weight)
        self.names = list(self.actions)
        self.seen: list[Seen] = []
        """One for each given structure; none where nothing is drawn again."""
        self.chances = np.array(weights) / sum(weights)
        pipeline = config.pipeline
        self.plugins: list[Plugin] = [_made(PLUGINS, n, o) for n, o in pipeline.action_plugins.items()]
        validators: list[Validator] = [_made(VALIDATORS, n, o) for n, o in pipeline.validators.items()]
        self.before = [v for v in validators if v.stage == "before"]
        self.after = [v for v in validators if v.stage == "after"]
        finer = config.basin.refine_fmax
        refining = finer is not None and finer < config.quench.fmax and config.quench.method != "none"
        self.refine = finer if refining else None
        viz = pipeline.recorders.get("viz")
        self.viz = None if viz is None else check(VizOptions, viz, "viz")
        trigger = pipeline.trigger
        self.triggers = [None if trigger is None else TRIGGERS[trigger.name](trigger, r) for r in self.roles]

    def generator(self, n: int, turn: int = 0) -> np.random.Generator:
        """The attempt's own stream, one for each of its draws: the same whichever walker runs it, after any resume."""
        return np.random.default_rng([self.seed, n, turn] if turn else [self.seed, n])

    def relax_origin(self, outcome: Outcome, evaluate: Evaluator, identify: Identify) -> None:
        """Quench a given structure, so that the walk knows the basin that it begins in."""
        try:
            known = evaluate(outcome.start.structure)
            outcome.structure = outcome.start.structure
            roles = self.roles[outcome.start.origin]
            self._measure(outcome, Attempted(outcome.structure, outcome.structure, roles, outcome.action, known))
            self._relax(outcome, known, evaluate, identify, None)
        except NotFiniteError:
            outcome.rejection = Rejection("model:not_finite", float("nan"), 0.0)
        outcome.force_calls = evaluate.calls

    def run(self, outcome: Outcome, evaluate: Evaluator, rng: np.random.Generator, identify: Identify) -> None:
        """One attempt from ``outcome.start``; fills in the outcome."""
        try:
            self._run(outcome, evaluate, rng, identify)
        except NotFiniteError:
            outcome.rejection = Rejection("model:not_finite", float("nan"), 0.0)
        outcome.force_calls = evaluate.calls

    def _run(self, outcome: Outcome, evaluate: Evaluator, rng: np.random.Generator, identify: Identify) -> None:
        start, roles = outcome.start.structure, self.roles[outcome.start.origin]
        drawn = self._draw(outcome, evaluate, rng)
        if drawn is None:
            outcome.rejection = Rejection("action:not_applicable", 0.0, 0.0)
            return
        outcome.action, outcome.parameters, outcome.scale = drawn.attempted.action, drawn.parameters, drawn.scale
        structure = outcome.structure = drawn.attempted.structure
        outcome.magnitude = drawn.attempted.magnitude
        outcome.rejection = drawn.rejection
        if outcome.rejection:
            return
        known = evaluate(structure)
        attempted = Attempted(start, structure, roles, outcome.action, known)
        self._measure(outcome, attempted)
        outcome.rejection = _first_rejection(self.after, attempted)
        if outcome.rejection:
            return
        collector = Collector(self.triggers[outcome.start.origin], outcome.start.energy)
        collector.offer(structure, known, "sample")
        if self._spare(outcome, evaluate.calls):
            outcome.candidates = collector.found
            return
        film = None if self.viz is None else Film(self.viz)
        if film is not None:
            film.show(structure, known, collector.found)
        self._relax(outcome, known, evaluate, identify, collector, film)
        outcome.candidates = collector.found
        if film is not None and self.viz is not None:
            keep = (outcome.new_basin or self.viz.keep == "accepted") and outcome.n % self.viz.every == 0
            film.finish(outcome.known is not None and not outcome.cut, keep)
            outcome.film = film.frames

    def _draw(self, outcome: Outcome, evaluate: Evaluator, rng: np.random.Generator) -> Drawn | None:
        """What the attempt sets out with: drawn again, and wider, while it leads to where attempts have been.

        None where no action means anything here. An attempt that a resume begins anew takes the turn that it took: by
        then more has been seen. What an action that asks the model leads to is kept: it has cost calls already.
        """
        begun_anew, before = outcome.turn is not None, outcome.turn or 0
        first = self._move(outcome, 0, evaluate, rng)
        if first is None or not self.seen or outcome.scales is None or (begun_anew and before == 0):
            return first
        if begun_anew:
            return self._move(outcome, before, evaluate, self.generator(outcome.n, before))
        seen, walk = self.seen[outcome.start.origin], self.config.walk
        turns: list[Drawn | None] = [first]
        far: list[float] = []
        while True:
            last = turns[-1]
            far.append(-1.0 if last is None or last.rejection else seen.distance(last.attempted.structure, walk.apart))
            if evaluate.calls or far[-1] >= walk.apart or len(turns) == walk.redraw:
                break
            outcome.turn = len(turns)
            turns.append(self._move(outcome, outcome.turn, evaluate, self.generator(outcome.n, outcome.turn)))
        outcome.turn = len(turns) - 1 if evaluate.calls else int(np.argmax(far))
        drawn = turns[outcome.turn]
        if drawn is not None and drawn.rejection is None and not evaluate.calls:
            seen.add(drawn.attempted.structure)
        return drawn

    def _move(self, outcome: Outcome, turn: int, evaluate: Evaluator, rng: np.random.Generator) -> Drawn | None:
        """The start as an action, the plugins and the validators that need no model leave it; None: nothing applies."""
        start, roles = outcome.start.structure, self.roles[outcome.start.origin]
        setting = Setting(roles, rng, 1.0, evaluate)
        move, name, chances = None, "", self.chances if outcome.chances is None else outcome.chances
        while move is None and chances.any():  # an action that means nothing here leaves its turn to the others
            k = rng.choice(len(self.names), p=chances / chances.sum())
            name = outcome.action = self.names[k]
            if outcome.scales is not None:
                scale = float(outcome.scales[k])
                setting = replace(setting, scale=min(scale * WIDEN**turn, max(scale, self.config.walk.max_scale)))
            move = self.actions[name].apply(start, setting)
            chances = np.where(np.arange(len(chances)) == k, 0.0, chances)
        if move is None:
            return None
        positions = move.positions
        for plugin in self.plugins:
            positions = plugin.apply(start, positions, setting)
        attempted = Attempted(start, settle(start.moved(positions)), roles, name)
        rejection = _first_rejection(self.before, attempted)
        return Drawn(attempted, move.parameters, setting.scale, rejection)

    def _spare(self, outcome: Outcome, calls: int) -> bool:
        """Not worth a quench? Dynamics have cost more than a look, and a quench after them adds less to it."""
        assert outcome.max_force is not None
        outcome.spared = outcome.calm is not None and calls == 1 and outcome.max_force > outcome.calm
        return outcome.spared

    def _measure(self, outcome: Outcome, attempted: Attempted) -> None:
        assert attempted.prediction is not None
        norms = attempted.force_norms
        top_k = 5 if self.config.pipeline.trigger is None else self.config.pipeline.trigger.top_k
        outcome.energy = attempted.prediction.energy
        outcome.max_force, outcome.top_mean = float(norms[0]), float(norms[:top_k].mean())

    def _relax(
        self,
        outcome: Outcome,
        known: Prediction,
        evaluate: Evaluator,
        identify: Identify,
        collector: Collector | None,
        film: Film | None = None,
    ) -> None:
        assert outcome.structure is not None
        roles = self.roles[outcome.start.origin]
        look_ahead = self.config.basin.look_ahead

        def watch(step: int, structure: Structure, prediction: Prediction) -> None:
            if collector is not None and collector.trigger is not None and step % collector.trigger.options.stride == 0:
                collector.offer(settle(structure), prediction, "quench_step", step)
            if film is not None:
                film.show(structure, prediction, [] if collector is None else collector.found)
            if step % GLANCE == 0 and self._broken(outcome, structure) is not None:
                raise StopQuench
            if look_ahead is not None and step % look_ahead == 0:
                assert prediction.forces is not None
                fmax = float(np.linalg.norm(prediction.forces[roles.movable], axis=1).max())
                here = Quenched(settle(structure), prediction.energy, fmax, False, step)
                outcome.cut = identify(outcome, here, False)
                if outcome.cut:
                    raise StopQuench

        way = Relaxation(outcome.structure, roles.movable, known, evaluate, self.config.quench, watch)
        loose = self._rest(outcome, way.run(self.config.quench.fmax))
        if loose is None or identify(outcome, loose, self.refine is None) or self.refine is None:
            return
        # loosely relaxed, a shoulder or a flat slope looks like a minimum: what seems new is relaxed further
        collector = None
        tight = self._rest(outcome, way.run(self.refine))
        if tight is not None:
            identify(outcome, tight, True)

    def _broken(self, outcome: Outcome, structure: Structure) -> Rejection | None:
        """The hard limit that a structure on its way down breaks, noted: it will not end as a basin."""
        roles = self.roles[outcome.start.origin]
        relaxed = Attempted(outcome.start.structure, structure, roles, outcome.action)
        outcome.quench_rejection = _first_rejection(self.before, relaxed)
        return outcome.quench_rejection

    def _rest(self, outcome: Outcome, result: Quenched) -> Quenched | None:
        """Notes where a quench ended, and returns it if that is a minimum that keeps the hard limits.

        A molecule that flew off is no basin of the surface.
        """
        outcome.quenched = replace(result, structure=settle(result.structure))
        if not result.converged:
            return None
        return outcome.quenched if self._broken(outcome, outcome.quenched.structure) is None else None


def _made(registry: Any, name: str, options: dict[str, Any]) -> Any:
    kind = registry[name]
    return kind(check(getattr(kind, "Options", Section), options, name))


def _first_rejection(validators: list[Validator], attempted: Attempted) -> Rejection | None:
    for validator in validators:
        found = validator.check(attempted)
        if found is not None:
            return found
    return None

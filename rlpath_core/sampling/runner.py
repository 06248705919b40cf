"""Running one attempt, as straight-line code: draw, act, validate, predict, relax, identify, look for candidates."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlpath_core.backends.base import Prediction
from rlpath_core.config import Section, check
from rlpath_core.errors import InputError
from rlpath_core.geometry.roles import Roles
from rlpath_core.lockstep.hub import Evaluator, NotFiniteError
from rlpath_core.lockstep.relax import Quenched, Relaxation, StopQuench
from rlpath_core.sampling.actions import ACTIONS, Action, ActionContext
from rlpath_core.sampling.attempt import Attempt, Plan, Result, Trial, WalkState, round_positions
from rlpath_core.sampling.in_flight import InFlightAttempt
from rlpath_core.sampling.known_basins import Identification, Identify
from rlpath_core.sampling.options import ACTION_OPTIONS, SamplingConfig, VizOptions
from rlpath_core.sampling.plugins import PLUGINS, Plugin
from rlpath_core.sampling.preflight import roles_of
from rlpath_core.sampling.trajectory import AttemptTrajectory
from rlpath_core.sampling.triggers import TRIGGERS, Collector
from rlpath_core.sampling.validators import VALIDATORS, Displacement, Rejection, Validator
from rlpath_core.structure import Structure

REDRAW_GROWTH = 1.3
"""Factor by which each further draw of a move reaches further."""
HARD_LIMIT_STRIDE = 8
"""Check the geometric validators every 8 relaxation steps, so that a desorbing molecule ends the relaxation early."""

NEAR = ("rigid_translate", "rigid_rotate", "push_pull", "dihedral_twist", "jitter", "md")
"""Actions that leave an adsorbate about where it is."""

log = logging.getLogger("rlpath.sampling")

ChooseDraw = Callable[[Plan, Callable[[int], Trial]], int]
"""``choose_draw(plan, propose)``, see ``Policy.choose_draw``."""


class AttemptRunner:
    """Runs attempts by a config: everything between a policy's plan and the result.

    Parameters
    ----------
    config
        The sampling config.
    starts
        The given structures.
    seed
        Of the run; every attempt has its own random stream.
    embeddings
        Whether predictions of trials, and of minima that may be new, carry the model's embeddings.

    Raises
    ------
    InputError
        A starting structure has no atom that may move, or is no place to start from.
    """

    def __init__(self, config: SamplingConfig, starts: list[Structure], seed: int, embeddings: bool = False) -> None:
        self.config, self.seed, self.embeddings = config, seed, embeddings
        self.roles: list[Roles] = roles_of(starts, config)
        self.actions, self.weights = _actions(config)
        self.names = list(self.actions)
        pipeline = config.pipeline
        self.plugins: list[Plugin] = [_made(PLUGINS, n, o) for n, o in pipeline.action_plugins.items()]
        validators: list[Validator] = [_made(VALIDATORS, n, o) for n, o in pipeline.validators.items()]
        self.before = [v for v in validators if v.stage == "before"]
        self.after = [v for v in validators if v.stage == "after"]
        finer = config.basin.refine_fmax
        refining = finer is not None and finer < config.quench.fmax and config.quench.method != "none"
        self.refine_fmax = finer if refining else None
        viz = pipeline.recorders.get("viz")
        self.viz = None if viz is None else check(VizOptions, viz, "viz")
        trigger = pipeline.trigger
        self.top_k = 5 if trigger is None else trigger.top_k
        self.check_starts(starts)
        self.triggers = [None if trigger is None else TRIGGERS[trigger.name](trigger, r) for r in self.roles]

    def check_starts(self, starts: list[Structure]) -> None:
        """Say which validator a given structure fails itself, as every structure near it will.

        Raises InputError if its adsorbate is too far from the surface and no action can bring it there.
        """
        for k, (structure, roles) in enumerate(zip(starts, self.roles, strict=True)):
            which = "the given structure" if len(starts) == 1 else f"structure {k}"
            rejection = _first_rejection(self.before, Displacement(structure, structure, roles, "start"))
            if rejection is None:
                continue
            told = f"{which} itself fails {rejection.reason} ({rejection.figure:.3g}, limit {rejection.limit:.3g})"
            if rejection.reason == "detached:off_surface" and not {*self.names} - set(NEAR):
                what = f"{told}: put its adsorbate nearer to the surface, or switch on site_hop, which does that"
                raise InputError(what, "structure")
            log.warning("%s: attempts that stay near it will be rejected", told)

    def generator(self, n: int, draw: int = 0) -> np.random.Generator:
        """The random stream of an attempt's draw: the same whichever walker runs it, after any resume."""
        return np.random.default_rng([self.seed, n, draw] if draw else [self.seed, n])

    def relax_start(self, plan: Plan, evaluate: Evaluator, identify: Identify) -> Attempt:
        """Relax a given structure, so that the walk knows the basin that it begins in."""
        try:
            trial = self._predicted(Trial("start", structure=plan.start.structure), plan, evaluate, judge=False)
            result = _WatchedRelaxation(self, plan, trial, identify, Collector(None)).run(evaluate)
        except NotFiniteError:
            trial, result = Trial("start", rejection=_not_finite()), Result()
        return Attempt(plan, trial, replace(result, force_calls=evaluate.calls))

    def run(
        self,
        attempt: InFlightAttempt,
        evaluate: Evaluator,
        rng: np.random.Generator,
        identify: Identify,
        choose_draw: ChooseDraw,
    ) -> Attempt:
        """Run an attempt to its end.

        Parameters
        ----------
        attempt
            Its plan, and, in a resumed run, which draw it continued with.
        evaluate
            The attempt's own; its predictions come in one batch with those of all other walkers.
        rng
            The attempt's own random stream.
        identify
            Finds the basin of a relaxed structure.
        choose_draw
            The policy's.
        """
        plan = attempt.plan
        trial = self._draw(attempt, evaluate, rng, choose_draw)
        result = Result()
        if trial.structure is not None and trial.rejection is None:
            try:
                trial = self._predicted(trial, plan, evaluate)
            except NotFiniteError:
                trial = replace(trial, rejection=_not_finite())
        if trial.prediction is not None and trial.rejection is None:
            result = self._finish(plan, trial, evaluate, identify)
        return Attempt(plan, trial, replace(result, force_calls=evaluate.calls))

    def _draw(
        self, attempt: InFlightAttempt, evaluate: Evaluator, rng: np.random.Generator, choose_draw: ChooseDraw
    ) -> Trial:
        """The trial that the attempt continues with. A resumed attempt takes the draw that it took before."""
        trials: list[Trial] = []
        plan, earlier = attempt.plan, attempt.draw

        def propose(draw: int) -> Trial:
            if draw:
                attempt.draw = draw
            trials.append(self._propose(plan, draw, evaluate, self.generator(plan.n, draw) if draw else rng))
            return trials[-1]

        if earlier is None:
            attempt.draw = choose_draw(plan, propose)
            return trials[attempt.draw]
        propose(0)
        return propose(earlier) if earlier else trials[0]

    def _propose(self, plan: Plan, draw: int, evaluate: Evaluator, rng: np.random.Generator) -> Trial:
        """The start displaced by an action and the plugins, judged by the validators that need no model."""
        start, roles = plan.start.structure, self.roles[plan.start.origin]
        probabilities = self.weights if plan.probabilities is None else plan.probabilities
        context, calls = ActionContext(roles, rng, 1.0, evaluate), evaluate.calls
        move, trial = None, Trial("none", rejection=Rejection("action:not_applicable", 0.0, 0.0))
        try:
            while move is None and probabilities.any():  # an action that does not apply leaves the draw to the others
                k = rng.choice(len(self.names), p=probabilities / probabilities.sum())
                trial = replace(trial, action=self.names[k])
                if plan.step_scales is not None:
                    scale = float(plan.step_scales[k])
                    grown = scale * REDRAW_GROWTH**draw
                    context = replace(context, scale=min(grown, max(scale, self.config.walk.max_scale)))
                move = self.actions[trial.action].apply(start, context)
                probabilities = np.where(np.arange(len(probabilities)) == k, 0.0, probabilities)
            if move is None:
                return replace(trial, force_calls=evaluate.calls - calls)
            positions = move.positions
            for plugin in self.plugins:
                positions = plugin.apply(start, positions, context)
        except NotFiniteError:
            return replace(trial, rejection=_not_finite(), force_calls=evaluate.calls - calls)
        displacement = Displacement(start, round_positions(start.moved(positions)), roles, trial.action)
        return Trial(
            trial.action,
            move.parameters,
            context.scale,
            displacement.structure,
            displacement.magnitude,
            _first_rejection(self.before, displacement),
            evaluate.calls - calls,
        )

    def _predicted(self, trial: Trial, plan: Plan, evaluate: Evaluator, judge: bool = True) -> Trial:
        """The trial with the model's prediction, and with what the validators that need it ``judge``."""
        assert trial.structure is not None
        prediction = evaluate(trial.structure, embeddings=self.embeddings)
        roles = self.roles[plan.start.origin]
        displacement = Displacement(plan.start.structure, trial.structure, roles, trial.action, prediction)
        norms = displacement.force_norms
        return replace(
            trial,
            force_calls=trial.force_calls + 1,
            prediction=prediction,
            max_force=float(norms[0]),
            top_mean_force=float(norms[: self.top_k].mean()),
            rejection=_first_rejection(self.after, displacement) if judge else None,
        )

    def _finish(self, plan: Plan, trial: Trial, evaluate: Evaluator, identify: Identify) -> Result:
        """What becomes of a trial that passed all validators."""
        assert trial.structure is not None
        assert trial.prediction is not None
        collector = Collector(self.triggers[plan.start.origin], plan.start.energy)
        collector.offer(trial.structure, trial.prediction, "sample")
        if _skip_relaxation(plan, trial):
            return Result(skipped=True, candidates=tuple(collector.candidates))
        trajectory = None if self.viz is None else AttemptTrajectory(self.viz)
        if trajectory is not None:
            trajectory.add(trial.structure, trial.prediction, collector.candidates)
        result = _WatchedRelaxation(self, plan, trial, identify, collector, trajectory).run(evaluate)
        result = replace(result, candidates=tuple(collector.candidates))
        if trajectory is not None and self.viz is not None:
            keep = (result.new_basin or self.viz.keep == "accepted") and plan.n % self.viz.every == 0
            minimum = result.basin is not None and not result.stopped_early
            result = replace(result, frames=trajectory.finish(minimum, keep))
        if result.basin is None and self.config.quench.method == "none":
            result = replace(result, end=WalkState(trial.structure, plan.start.origin, trial.energy))
        return result


@dataclass
class _WatchedRelaxation:
    """The relaxation of one trial, with everything that is looked for on the way."""

    runner: AttemptRunner
    plan: Plan
    trial: Trial
    identify: Identify
    collector: Collector
    trajectory: AttemptTrajectory | None = None
    identification: Identification | None = None
    rejection: Rejection | None = None
    stopped_early: bool = False
    prediction: Prediction | None = None

    def run(self, evaluate: Evaluator) -> Result:
        """Relax the trial and identify where it ends."""
        trial, options, refine_fmax = self.trial, self.runner.config.quench, self.runner.refine_fmax
        assert trial.structure is not None
        assert trial.prediction is not None
        movable = self.runner.roles[self.plan.start.origin].movable
        relaxation = Relaxation(trial.structure, movable, trial.prediction, evaluate, options, self._observe)
        relaxed = _rounded(relaxation.run(options.fmax))
        if self._is_minimum(relaxed):
            self._identify(relaxed, refine_fmax is None, evaluate)
            if self.identification is None and refine_fmax is not None:
                # loosely relaxed, a shoulder or a flat slope looks like a minimum: what seems new is relaxed further
                self.collector = Collector(None)
                relaxed = _rounded(relaxation.run(refine_fmax))
                if self._is_minimum(relaxed):
                    self._identify(relaxed, True, evaluate)
        reached = self.identification
        return Result(
            relaxed=relaxed,
            relaxed_rejection=self.rejection,
            stopped_early=self.stopped_early,
            basin=None if reached is None else reached.number,
            new_basin=reached is not None and reached.new,
            end=None if reached is None else reached.minimum,
            prediction=self.prediction,
        )

    def _observe(self, step: int, structure: Structure, prediction: Prediction) -> None:
        trigger, look_ahead = self.collector.trigger, self.runner.config.basin.look_ahead
        if trigger is not None and step % trigger.options.stride == 0:
            self.collector.offer(round_positions(structure), prediction, "quench_step", step)
        if self.trajectory is not None:
            self.trajectory.add(structure, prediction, self.collector.candidates)
        if step % HARD_LIMIT_STRIDE == 0 and not self._keeps_hard_limits(structure):
            raise StopQuench
        if look_ahead is not None and step % look_ahead == 0:
            fmax = prediction.largest_force(self.runner.roles[self.plan.start.origin].movable)
            so_far = Quenched(round_positions(structure), prediction.energy, fmax, False, step)
            self.identification = self.identify(self.plan, so_far, False)
            self.stopped_early = self.identification is not None
            if self.stopped_early:
                raise StopQuench

    def _identify(self, relaxed: Quenched, may_be_new: bool, evaluate: Evaluator) -> None:
        if may_be_new and self.runner.embeddings:  # before it is identified, so that a resume need not do that twice
            with contextlib.suppress(NotFiniteError):
                self.prediction = evaluate(relaxed.structure, embeddings=True)
        self.identification = self.identify(self.plan, relaxed, may_be_new)

    def _is_minimum(self, relaxed: Quenched) -> bool:
        """Converged within the hard limits: a molecule that desorbed is no basin of the surface."""
        return relaxed.converged and self._keeps_hard_limits(relaxed.structure)

    def _keeps_hard_limits(self, structure: Structure) -> bool:
        start, roles = self.plan.start.structure, self.runner.roles[self.plan.start.origin]
        displacement = Displacement(start, structure, roles, self.trial.action)
        self.rejection = _first_rejection(self.runner.before, displacement)
        return self.rejection is None


def _rounded(relaxed: Quenched) -> Quenched:
    return replace(relaxed, structure=round_positions(relaxed.structure))


def _skip_relaxation(plan: Plan, trial: Trial) -> bool:
    """Whether the largest force exceeds the threshold. MD trials are always relaxed: their force calls are spent."""
    assert trial.max_force is not None
    return plan.relax_threshold is not None and trial.force_calls == 1 and trial.max_force > plan.relax_threshold


def _actions(config: SamplingConfig) -> tuple[dict[str, Action], NDArray[np.float64]]:
    """The actions that are switched on, and their weights [n_actions], which sum to 1."""
    blocks = {name: getattr(config, name) for name in ACTION_OPTIONS}
    if not config.md.enabled:
        del blocks["md"]
    actions: dict[str, Action] = {}
    weights: list[float] = []
    for name, block in (blocks | config.actions).items():
        kind = ACTIONS[name]
        options = check(kind.Options, block, name) if isinstance(block, dict) else block
        if options.weight > 0:
            actions[name] = kind(options)
            weights.append(options.weight)
    return actions, np.array(weights) / sum(weights)


def _made(registry: Any, name: str, options: dict[str, Any]) -> Any:
    kind = registry[name]
    return kind(check(getattr(kind, "Options", Section), options, name))


def _not_finite() -> Rejection:
    return Rejection("model:not_finite", float("nan"), 0.0)


def _first_rejection(validators: list[Validator], displacement: Displacement) -> Rejection | None:
    for validator in validators:
        rejection = validator.check(displacement)
        if rejection is not None:
            return rejection
    return None

"""A sampling run: walkers over one hub, checkpoints, exact resume.

Attempts have their own random streams, drawn from the seed and the attempt's number. After four times as many attempts
as there are walkers, one database transaction takes in all that the walkers found, together with the run's state and
the lengths of its files; attempts in flight are kept as they are (see ``in_flight``). A killed run resumes from there,
and ends with the same files, byte for byte, as one that was never killed: batches, order and draws after a checkpoint
depend on the checkpoint alone. With ``checkpoint_every`` in the config all walkers finish before each checkpoint.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rlpath_core.backends.base import Model
from rlpath_core.config import Section, check
from rlpath_core.files import write_json
from rlpath_core.geometry.roles import Roles
from rlpath_core.lockstep.hub import Evaluator, Hub, Script
from rlpath_core.progress import Progress
from rlpath_core.sampling import checkpoint
from rlpath_core.sampling.attempt import Attempt, Plan, WalkState
from rlpath_core.sampling.in_flight import InFlightAttempt
from rlpath_core.sampling.known_basins import KnownBasins
from rlpath_core.sampling.options import SamplingConfig
from rlpath_core.sampling.policy import POLICIES, PlanContext, WalkSetup
from rlpath_core.sampling.preflight import check_run
from rlpath_core.sampling.progress import Reporter
from rlpath_core.sampling.record import RunRecord
from rlpath_core.sampling.recorders import RECORDERS, Recorder
from rlpath_core.sampling.run_row import writing
from rlpath_core.sampling.runner import AttemptRunner
from rlpath_core.sampling.stoppers import Counters, stop_reason
from rlpath_core.store import Store
from rlpath_core.structure import Structure

log = logging.getLogger("rlpath.sampling")

LIMITS = ("steps", "target_basins", "patience", "max_candidates", "max_force_calls", "max_seconds")
"""Keys of the config that may differ when a run is resumed."""
PLAN_STREAM = 2**32
"""Number of the random stream that a policy plans an attempt with; the attempt's draws count from 0."""


@dataclass(frozen=True)
class SamplingSummary:
    """Totals of a run; ``elapsed`` is seconds of wall time, earlier parts of a resumed run included."""

    attempts_total: int
    attempts_rejected: int
    basins: int
    converged: int
    candidates: int
    force_calls: int
    elapsed: float
    stop_reason: str


def sample(
    config: SamplingConfig,
    model: Model,
    start: Structure | list[Structure],
    run_dir: str | Path,
    store: Store,
    *,
    seed: int,
    run_id: str | None = None,
    round: int | None = None,
    resume: bool = False,
    progress: Progress | None = None,
) -> SamplingSummary:
    """Explore from ``start`` with ``model`` until a limit of the config is reached.

    Writes roles.json, steps.jsonl, basins.jsonl, dft_queue.jsonl and summary.json in ``run_dir``, and the run's rows in
    ``store``.

    Parameters
    ----------
    config
        What to do.
    model
        Predicts energies and forces.
    start
        One structure or several.
    run_dir
        Folder of the run's files.
    store
        Database and structures.
    seed
        The only source of chance.
    run_id
        Name in the database; the default is made of the folder's name.
    round
        Round of the campaign that the run belongs to.
    resume
        Continue an interrupted run (config, model, seed and start must be the same; limits may be raised), or return
        the summary of a finished one.
    progress
        Called about twice a second with attempts, accepted, basins, candidates, force_calls_per_s.

    Raises
    ------
    InputError
        An output exists without ``resume``, the model does not know an element, or something in the config cannot be.
    """
    run = Run(
        config,
        model,
        [start] if isinstance(start, Structure) else list(start),
        Path(run_dir),
        store,
        seed=seed,
        run_id=run_id or f"sample-{Path(run_dir).resolve().name}",
        round_index=round,
        resume=resume,
        progress=progress,
    )
    return run.go()


def describe_roles(roles: Sequence[Roles]) -> list[dict[str, Any]]:
    """Say which atoms move, which are the adsorbate and where the normal points; returned for the run's record."""
    told: dict[str, list[int]] = {}
    for k, one in enumerate(roles):
        told.setdefault(one.describe(), []).append(k)
    for text, which in told.items():
        some = "" if len(roles) == 1 else f"structure{'s' if len(which) > 1 else ''} {' '.join(map(str, which[:5]))}"
        more = " ..." if len(which) > 5 else ""
        log.info("%s", f"{some}{more}: {text}" if some else text)
    return [
        {
            "structure": one.given.id,
            "movable": np.flatnonzero(one.movable).tolist(),
            "adsorbate": np.flatnonzero(one.adsorbate).tolist(),
            "normal": None if one.normal is None else one.normal.tolist(),
            "sides": one.sides[one.adsorbate].tolist(),
            "described": one.describe(),
        }
        for one in roles
    ]


def default_walkers(n_atoms: int, device: str) -> int:
    """Enough structures in a batch to fill the device, and few enough that the last to finish do not run alone."""
    if device.startswith("cuda"):
        return int(np.clip(20_000 // n_atoms, 8, 256))
    return int(np.clip(640 // n_atoms, 4, 32))


class Run:
    """One run: schedules attempts, hands their results on, makes checkpoints. Parameters as in ``sample``."""

    def __init__(
        self,
        config: SamplingConfig,
        model: Model,
        starts: list[Structure],
        run_dir: Path,
        store: Store,
        *,
        seed: int,
        run_id: str,
        round_index: int | None = None,
        resume: bool = False,
        progress: Progress | None = None,
    ) -> None:
        check_run(config, model, starts)
        self.config = config
        self.hub = Hub(model)
        policy = POLICIES[config.walk.policy]
        self.runner = runner = AttemptRunner(config, starts, seed, policy.embeddings)
        roles = describe_roles(runner.roles)
        automatic = default_walkers(max(len(s) for s in starts), model.device)
        self.n_walkers = config.walkers if isinstance(config.walkers, int) else automatic
        self.checkpoint_every = config.checkpoint_every or 4 * self.n_walkers
        setup = WalkSetup(
            runner.roles,
            self.n_walkers,
            runner.names,
            runner.weights,
            np.array([action.force_calls for action in runner.actions.values()]),
            config.basin,
            config.quench.method != "none",
        )
        self.policy = policy(config.walk, setup)
        recorders: list[Recorder] = []
        for name, options in config.pipeline.recorders.items():
            kind = RECORDERS[name]
            recorders.append(kind(check(getattr(kind, "Options", Section), options, name)))
        self.record = RunRecord(store, run_dir, run_id, recorders)
        identity: dict[str, Any] = {
            "seed": seed,
            "model": model.digest,
            "starts": [s.id for s in starts],
            "walkers": self.n_walkers,
            "checkpoint_every": self.checkpoint_every,
        }
        if model.committee:
            identity["committee"] = list(model.committee)
        everything = config.model_dump(mode="json")
        limits = {key: everything.pop(key) for key in LIMITS}
        with writing(run_dir):
            described = {"config": everything, "limits": limits, "identity": identity, "roles": roles}
            saved = self.record.open(described, model, starts, round_index, resume)
            write_json(run_dir / "roles.json", roles)

        state = checkpoint.load(run_dir, saved, starts) if saved else {}
        self.n_checkpoints = saved.get("number", 0)
        self.basins = KnownBasins(config.basin, starts, runner.roles, self.record.basins(saved, starts))
        self.counters = Counters(**state.get("counters", {}))
        self.summary: dict[str, Any] | None = state.get("summary")
        self.starts = state.get("starts") or [WalkState(structure, k) for k, structure in enumerate(starts)]
        self.relaxed_starts: list[WalkState] = state.get("relaxed_starts", [])
        if state:
            self.policy.begin(self.starts, self.relaxed_starts)
            self.policy.load(state["policy"])
        attempts = map(InFlightAttempt.from_state, state.get("in_flight", []))
        self.in_flight = {attempt.plan.walker: attempt for attempt in attempts}
        self.done: list[Attempt] = []
        self.began = time.monotonic() - self.counters.seconds
        self.report = Reporter(progress, self.counters, self.basins)

    def go(self) -> SamplingSummary:
        """Run to a limit of the config."""
        if self.summary is not None and self._stop() is not None:
            return self._finished(SamplingSummary(**self.summary))
        if not self.relaxed_starts:
            self.relax_starts()
        while (reason := self._stop()) is None or self.in_flight:
            self._walk()
        counters = self.counters
        summary = SamplingSummary(
            attempts_total=counters.attempts,
            attempts_rejected=counters.rejected,
            basins=len(self.basins),
            converged=counters.converged,
            candidates=counters.candidates,
            force_calls=counters.force_calls,
            elapsed=time.monotonic() - self.began,
            stop_reason=reason,
        )
        self.make_checkpoint(summary)
        self.report(force=True)
        return self._finished(summary)

    def _finished(self, summary: SamplingSummary) -> SamplingSummary:
        with writing(self.record.run_dir):
            write_json(self.record.run_dir / "summary.json", asdict(summary))
        return summary

    def _stop(self) -> str | None:
        return stop_reason(self.config, self.counters, len(self.basins), time.monotonic() - self.began)

    def relax_starts(self) -> None:
        """Relax the given structures, all at once, and begin the walk from there."""
        plans = [Plan(-k, 0, start) for k, start in enumerate(self.starts)]

        def script(plan: Plan) -> Script:
            def relax(evaluate: Evaluator) -> None:
                self.count(self.runner.relax_start(plan, evaluate, self.basins.identify))

            return relax

        self.hub.run([script(plan) for plan in plans])
        self.done.sort(key=lambda attempt: -attempt.n)
        for k, attempt in enumerate(self.done):
            trial, result = attempt.trial, attempt.result
            # a given structure counts as a place of the basin that it relaxes into
            start = WalkState(self.starts[k].structure, k, trial.energy)
            if result.basin is not None:
                start = replace(start, energy=self.basins[result.basin].energy, basin=result.basin)
            self.starts[k] = start
            relaxed = result.end or start
            if result.end is None and result.relaxed is not None and result.relaxed_rejection is None:
                # not converged yet, but lower in force than a given structure that no gate would let through
                relaxed = WalkState(result.relaxed.structure, k, result.relaxed.energy)
            self.relaxed_starts.append(relaxed)
        self.policy.begin(self.starts, self.relaxed_starts)
        for k, attempt in enumerate(self.done):
            self.policy.observe(attempt, self.runner.generator(0, k))
        self.make_checkpoint()

    def _walk(self) -> None:
        """All walkers, until a limit is reached or, with ``checkpoint_every``, that many attempts are done."""
        rest_after = self.config.checkpoint_every
        n_begun = 0

        def script(walker: int) -> Script:
            def walk(evaluate: Evaluator) -> None:
                nonlocal n_begun
                while walker in self.in_flight or (n_begun != rest_after and self._stop() is None):
                    if walker not in self.in_flight:
                        n_begun += 1
                        self.in_flight[walker] = InFlightAttempt(self._plan(walker))
                    self._run(self.in_flight[walker], evaluate)
                    self.report()

            return walk

        def before_batch() -> None:
            if rest_after is None and len(self.done) >= self.checkpoint_every:
                self.make_checkpoint()

        self.hub.run([script(walker) for walker in range(self.n_walkers)], before_batch)
        self.make_checkpoint()

    def _plan(self, walker: int) -> Plan:
        self.counters.attempts += 1
        n = self.counters.attempts
        plan = self.policy.plan(n, walker, PlanContext(self.basins, self.runner.generator(n, PLAN_STREAM)))
        if plan.start.basin is not None:
            self.basins[plan.start.basin].departures += 1
        return plan

    def _run(self, attempt: InFlightAttempt, evaluate: Evaluator) -> None:
        rng, identify = self.runner.generator(attempt.plan.n), attempt.repeating(self.basins.identify)
        finished = self.runner.run(attempt, attempt.journal.replaying(evaluate), rng, identify, self.policy.choose_draw)
        self.policy.observe(self.count(finished), rng)
        del self.in_flight[attempt.plan.walker]

    def count(self, attempt: Attempt) -> Attempt:
        """Count a finished attempt; returns it with the candidates that are new."""
        attempt = self.record.keep_new_candidates(attempt)
        counters, result = self.counters, attempt.result
        counters.force_calls += result.force_calls
        counters.rejected += not attempt.accepted
        counters.converged += result.relaxed is not None and result.relaxed.converged
        counters.candidates += len(result.candidates)
        if not result.skipped:  # patience is about attempts that might have found a basin
            counters.idle = 0 if result.new_basin else counters.idle + 1
        self.done.append(attempt)
        return attempt

    def make_checkpoint(self, summary: SamplingSummary | None = None) -> None:
        """Make durable what is done, and how far the attempts in flight have come."""
        self.counters.seconds = time.monotonic() - self.began
        self.n_checkpoints += 1
        run_dir, policy = self.record.run_dir, self.policy.state()
        state = {
            "counters": asdict(self.counters),
            "summary": None if summary is None else asdict(summary),
            "starts": self.starts,
            "relaxed_starts": self.relaxed_starts,
            "policy": policy,
            "in_flight": [self.in_flight[walker].state() for walker in sorted(self.in_flight)],
        }
        with writing(run_dir):
            saved = checkpoint.save(run_dir, self.n_checkpoints, state)
            done = sorted(self.done, key=lambda attempt: attempt.n)
            states = [*self.relaxed_starts, *checkpoint.walk_states(policy)]
            self.record.commit(done, self.basins, states, saved, finished=summary is not None)
            checkpoint.tidy(run_dir, self.n_checkpoints)
        self.done = []

"""A sampling run: walkers over one hub, checkpoints, exact resume.

Attempts carry their own random stream, drawn from (seed, attempt number). After every so many attempts one database
transaction takes in all that the walkers found, together with the run's state and the lengths of its files; attempts
that are on their way then are kept as they are (see ``under_way``). A killed run goes on from there, and ends with the
same files, byte for byte, as one that was never killed: batches, order and draws after a checkpoint depend on the
checkpoint alone. With ``checkpoint_every`` in the config the walkers come to rest at each checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlpath_core.backends.base import Model
from rlpath_core.config.load import Section, check
from rlpath_core.errors import InputError
from rlpath_core.files import write_json
from rlpath_core.lockstep.hub import Evaluator, Hub, Script
from rlpath_core.lockstep.relax import Quenched
from rlpath_core.sampling import seen, under_way
from rlpath_core.sampling.arrays import tidy
from rlpath_core.sampling.basins import BASINS, BasinIndex
from rlpath_core.sampling.learning import End, Learned
from rlpath_core.sampling.ledger import Ledger, writing
from rlpath_core.sampling.options import SamplingConfig
from rlpath_core.sampling.policies import POLICIES, KnownBasin, Site
from rlpath_core.sampling.preflight import check_plugins, check_starts
from rlpath_core.sampling.recorders import RECORDERS, Recorder
from rlpath_core.sampling.stoppers import Counters, stop_reason
from rlpath_core.sampling.under_way import UnderWay
from rlpath_core.sampling.walker import Attempts, Outcome
from rlpath_core.store import Store
from rlpath_core.structure import Structure

Progress = Callable[[dict[str, Any]], None]
PROGRESS_SECONDS = 0.5
LIMITS = ("steps", "target_basins", "patience", "max_candidates", "max_force_calls", "max_seconds")
"""Keys of the config that may differ when a run is resumed."""


@dataclass(frozen=True)
class SamplingSummary:
    """What a run came to; ``elapsed`` is seconds of wall time, earlier parts of a resumed run included."""

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

    Writes steps.jsonl, basins.jsonl, dft_queue.jsonl and summary.json in ``run_dir``, and the run's rows in ``store``.
    ``progress`` is called about twice a second with attempts, accepted, basins, candidates, force_calls_per_s.

    With ``resume`` an interrupted run goes on (config, model, seed and start must be the same; limits may be raised),
    and a finished one returns its summary. Raises InputError for an output that exists without ``resume``, for
    an element that the model does not know, and for whatever in the config cannot be.
    """
    run = Run(
        config,
        model,
        [start] if isinstance(start, Structure) else list(start),
        Path(run_dir),
        store,
        seed=seed,
        run_id=run_id or f"sample-{Path(run_dir).resolve().name}",
        round=round,
        resume=resume,
        progress=progress,
    )
    return run.go()


def default_walkers(n_atoms: int, device: str) -> int:
    """Enough structures in a batch to fill the device, not so many that the last ones to finish run alone for long."""
    if device.startswith("cuda"):
        return int(np.clip(20_000 // n_atoms, 8, 256))
    return int(np.clip(640 // n_atoms, 4, 32))


class Run:
    """The state of one run between and during its blocks of attempts."""

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
        round: int | None,
        resume: bool,
        progress: Progress | None,
    ) -> None:
        check_plugins(config)
        check_starts(starts)
        for structure in starts:
            model.check_elements(structure, "structure")
        self.config, self.model, self.progress = config, model, progress
        self.hub = Hub(model)
        self.attempts = Attempts(config, starts, seed)
        recorders: list[Recorder] = []
        for name, options in config.pipeline.recorders.items():
            kind = RECORDERS[name]
            recorders.append(kind(check(getattr(kind, "Options", Section), options, name)))
        policy = POLICIES[config.walk.policy]
        if isinstance(config.walkers, int):
            walkers = config.walkers
        else:
            walkers = default_walkers(max(len(s) for s in starts), model.device)
        identity: dict[str, Any] = {
            "seed": seed,
            "model": model.digest,
            "starts": [s.id for s in starts],
            "walkers": walkers,
            "checkpoint_every": config.checkpoint_every or 4 * walkers,
        }
        if model.committee:
            identity["committee"] = list(model.committee)
        trigger = config.pipeline.trigger
        if trigger is not None and trigger.spread is not None and not model.committee:
            raise InputError("needs a committee: give `committee`, manifests of further models", None, "trigger.spread")
        self.indexes = self._indexes(starts)
        self.ledger = Ledger(store, run_dir, run_id, recorders)
        self.limits = {key: config.model_dump(mode="json")[key] for key in LIMITS}
        fixed = {k: v for k, v in config.model_dump(mode="json").items() if k not in LIMITS}
        with writing(run_dir):
            state = self.ledger.open(fixed, self.limits, identity, round, model, starts, resume)

        self.walkers, self.checkpoint_every = identity["walkers"], identity["checkpoint_every"]
        self.counters = Counters(**state.get("counters", {}))
        self.finished: dict[str, Any] | None = state.get("summary")
        self.basins: list[KnownBasin] = self.ledger.basins
        for number, basin in enumerate(self.basins):
            self.indexes[basin.site.origin].add(number, basin.site.structure, basin.energy)
        self.origins = [Site(structure, k) for k, structure in enumerate(starts)]
        self.relaxed = "origins" in state
        if self.relaxed:
            self._set_origins(state["origins"])
        self.policy = policy(config.walk, self.origins, self.walkers)
        if self.relaxed:
            sites = self.ledger.sites(state["here"], starts)
            self._place(sites[self.walkers :])
            self.policy.here = sites[: self.walkers]
        names, costs = self.attempts.names, np.array([a.force_calls for a in self.attempts.actions.values()])
        self.learned = Learned(names, self.attempts.chances, config.walk, state.get("learned"), costs)
        self.done: list[Outcome] = []
        self.checkpoints: int = state.get("checkpoints", 0)
        if self.policy.adaptive and config.walk.redraw > 1:
            self.attempts.seen = [seen.Seen(config.basin, roles) for roles in self.attempts.roles]
        if self.attempts.seen and state:
            seen.load(run_dir, self.checkpoints, self.attempts.seen)
        self.under_way: dict[int, UnderWay] = {}
        kept = state.get("under_way", [])
        for way in under_way.load(run_dir, self.checkpoints, kept, lambda one: self._begun(one, starts)):
            self.under_way[way.outcome.walker] = way
        self.began = time.monotonic() - self.counters.seconds
        self.calls_before = self.counters.force_calls
        self.session_began = self.reported = time.monotonic()

    def _indexes(self, starts: Sequence[Structure]) -> list[BasinIndex]:
        """One index per start; starts with the same atoms, cell and movable atoms share theirs."""
        shared: dict[tuple[bytes, ...], BasinIndex] = {}
        indexes = []
        for structure, roles in zip(starts, self.attempts.roles, strict=True):
            arrays = (structure.numbers, structure.cell, structure.pbc, roles.movable)
            key = tuple(array.tobytes() for array in arrays)
            if key not in shared:
                shared[key] = BASINS[self.config.basin.name](self.config.basin, structure, roles)
            indexes.append(shared[key])
        return indexes

    def _place(self, rest: list[Site]) -> None:
        """``rest``: where the given structures came to rest, which is where every policy but ``origin`` begins."""
        self.rest = rest
        self.policy.origins = rest if self.policy.adaptive else self.origins
        self.policy.here = [self.policy.origins[w % len(rest)] for w in range(self.walkers)]

    def _set_origins(self, reached: Sequence[tuple[int | None, float | None]]) -> None:
        """A given structure counts as a place of the basin that it relaxes into."""
        for k, (basin, energy) in enumerate(reached):
            self.origins[k] = Site(self.origins[k].structure, k, energy, basin)

    # -- the run ------------------------------------------------------------------------------------------------

    def go(self) -> SamplingSummary:
        if self.finished is not None and self._stop() is not None:
            return self._close(SamplingSummary(**self.finished))
        if not self.relaxed:
            self._relax_origins()
        while (reason := self._stop()) is None or self.under_way:
            self._walk()
        counters = self.counters
        summary = SamplingSummary(
            attempts_total=counters.attempts,
            attempts_rejected=counters.rejected,
            basins=len(self.basins),
            converged=counters.converged,
            candidates=counters.candidates,
            force_calls=counters.force_calls,
            elapsed=self._seconds(),
            stop_reason=reason,
        )
        self._checkpoint(summary)
        self._report(force=True)
        return self._close(summary)

    def _close(self, summary: SamplingSummary) -> SamplingSummary:
        with writing(self.ledger.run_dir):
            write_json(self.ledger.run_dir / "summary.json", asdict(summary))
        return summary

    def _seconds(self) -> float:
        return time.monotonic() - self.began

    def _stop(self) -> str | None:
        return stop_reason(self.config, self.counters, len(self.basins), self._seconds())

    def _relax_origins(self) -> None:
        outcomes = [Outcome(-k, 0, site, "start") for k, site in enumerate(self.origins)]

        def script(outcome: Outcome) -> Script:
            def relax(evaluate: Evaluator) -> None:
                self.attempts.relax_origin(outcome, evaluate, self._identify)
                self._count(outcome)

            return relax

        self.hub.run([script(outcome) for outcome in outcomes])
        reached = [(o.known, o.energy if o.known is None else self.basins[o.known].energy) for o in outcomes]
        self._set_origins(reached)
        rest = list(self.origins)
        for k, outcome in enumerate(outcomes):
            if outcome.known is not None:
                rest[k] = self.basins[outcome.known].site
            elif outcome.quenched is not None and outcome.quench_rejection is None:
                # not down yet, but nearer to rest than a given structure whose forces no gate would let through
                rest[k] = Site(outcome.quenched.structure, k, outcome.quenched.energy)
        self._place(rest)
        self.relaxed = True
        self.done = outcomes
        self._checkpoint(None)

    def _walk(self) -> None:
        """All walkers, until a limit is reached or, with ``checkpoint_every``, so many attempts are done."""
        rest_after = self.config.checkpoint_every
        begun = 0

        def script(walker: int) -> Script:
            def walk(evaluate: Evaluator) -> None:
                nonlocal begun
                while walker in self.under_way or (begun != rest_after and self._stop() is None):
                    if walker not in self.under_way:
                        begun += 1
                        self.under_way[walker] = UnderWay(self._set_out(walker))
                    way = self.under_way[walker]
                    outcome, rng = way.outcome, self.attempts.generator(way.outcome.n)
                    self.attempts.run(outcome, way.evaluating(evaluate), rng, way.identifying(self._identify))
                    self._count(outcome)
                    self._move_on(outcome, rng)
                    del self.under_way[walker]
                    self.done.append(outcome)
                    self._report()

            return walk

        def before_batch() -> None:
            if rest_after is None and len(self.done) >= self.checkpoint_every:
                self._checkpoint(None)

        self.hub.run([script(walker) for walker in range(self.walkers)], before_batch)
        self._checkpoint(None)

    def _set_out(self, walker: int) -> Outcome:
        """The next attempt, with its number, its start and its reach."""
        self.counters.attempts += 1
        site = self.policy.start(self.counters.attempts, walker, self.basins)
        outcome = Outcome(self.counters.attempts, walker, site, "none")
        if site.basin is not None:
            self.basins[site.basin].departures += 1
        if self.policy.adaptive:
            outcome.chances, outcome.scales = self.learned.chances(), self.learned.scales()
            if self.config.quench.method != "none":
                outcome.calm = self.learned.calm()
        return outcome

    def _begun(self, kept: dict[str, Any], starts: list[Structure]) -> Outcome:
        """An attempt that was on its way when the last checkpoint was made."""
        (site,) = self.ledger.sites([kept["start"]], starts)
        chances, scales = (None if kept[name] is None else np.array(kept[name]) for name in ("chances", "scales"))
        decided = {name: kept[name] for name in ("calm", "turn")}
        return Outcome(kept["n"], kept["walker"], site, "none", chances=chances, scales=scales, **decided)

    def _identify(self, outcome: Outcome, quenched: Quenched, found_new: bool) -> bool:
        index = self.indexes[outcome.start.origin]
        structure, energy = quenched.structure, quenched.energy
        outcome.known = index.find(structure, energy)
        if outcome.known is not None and not quenched.converged and energy < self.basins[outcome.known].energy:
            outcome.known = None  # still on its way down, and past that minimum already
        if outcome.known is not None:
            self.basins[outcome.known].visits += 1
            return True
        if not found_new:
            return False
        outcome.known, outcome.new_basin = len(self.basins), True
        index.add(outcome.known, structure, energy)
        if self.attempts.seen:
            self.attempts.seen[outcome.start.origin].add(structure)
        site = Site(structure, outcome.start.origin, energy, outcome.known)
        self.basins.append(KnownBasin(site, energy, outcome.n))
        return True

    def _count(self, outcome: Outcome) -> None:
        self.counters.force_calls += outcome.force_calls
        self.counters.rejected += not outcome.accepted
        self.counters.converged += outcome.quenched is not None and outcome.quenched.converged
        self.counters.candidates += self.ledger.claim(outcome)
        if not outcome.spared:  # patience is about attempts that might have found one
            self.counters.idle = 0 if outcome.new_basin else self.counters.idle + 1

    def _move_on(self, outcome: Outcome, rng: np.random.Generator) -> None:
        start = outcome.start
        how: End = "other"
        if outcome.new_basin:
            how = "new"
        elif outcome.known is not None and outcome.known == start.basin:
            how = "back"
        elif outcome.rejection is not None and outcome.max_force is not None:
            how = "refused"  # by the model: what geometry forbids costs nothing, and says little
        self.learned.note(outcome.action, how, outcome.force_calls)
        if not outcome.accepted or outcome.structure is None:
            return
        if outcome.max_force is not None:
            self.learned.note_force(outcome.max_force)
        if outcome.known is not None:
            self.policy.finish(outcome.walker, start, self.basins[outcome.known].site, rng)
        elif self.config.quench.method == "none":
            end = Site(outcome.structure, start.origin, outcome.energy)
            self.policy.finish(outcome.walker, start, end, rng)

    def _checkpoint(self, summary: SamplingSummary | None) -> None:
        """Make durable what is done, and how far the attempts that are on their way have come."""
        self.counters.seconds = self._seconds()
        self.checkpoints += 1
        ways = [self.under_way[walker] for walker in sorted(self.under_way)]
        run_dir = self.ledger.run_dir
        with writing(run_dir):
            state = {
                "counters": self.counters.as_dict(),
                "origins": [(site.basin, site.energy) for site in self.origins],
                "summary": None if summary is None else asdict(summary),
                "checkpoints": self.checkpoints,
                "learned": self.learned.state(),
                "under_way": under_way.save(run_dir, self.checkpoints, ways, self.ledger.entry),
            }
            if self.attempts.seen:
                seen.save(run_dir, self.checkpoints, self.attempts.seen)
            done = sorted(self.done, key=lambda o: o.n)
            needed = [way.outcome.start.structure for way in ways]
            here = [*self.policy.here, *self.rest]
            self.ledger.commit(done, self.basins, here, state, finished=summary is not None, needed=needed)
            tidy(run_dir, under_way.NAME, self.checkpoints if ways else None)
            tidy(run_dir, seen.NAME, self.checkpoints)
        self.done = []

    def _report(self, force: bool = False) -> None:
        now = time.monotonic()
        if self.progress is None or (now - self.reported < PROGRESS_SECONDS and not force):
            return
        self.reported = now
        calls = self.counters.force_calls - self.calls_before
        self.progress(
            {
                "attempts": self.counters.attempts,
                "accepted": self.counters.attempts - self.counters.rejected,
                "basins": len(self.basins),
                "candidates": self.counters.candidates,
                "force_calls_per_s": calls / max(now - self.session_began, 1e-9),
            }
        )

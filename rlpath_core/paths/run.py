"""A run of saddle searches: walkers over one hub, one catalogue, checkpoints, exact resume.

A walker draws where a search begins, runs it, has it verified, and enters what it found. Every search has its own
random stream, drawn from the seed and its number. Now and then one database transaction takes in all that was found,
together with the run's state and the lengths of its files; searches in flight are kept as what came to them from the
model and the catalogue (see ``lockstep.replay``). A killed run resumes from there, and ends with the same files, byte
for byte, as one that was never killed: batches, order and draws after a checkpoint depend on the checkpoint alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rlpath_core.backends.base import Model
from rlpath_core.files import write_json
from rlpath_core.geometry.cell import Floats
from rlpath_core.kinetics.files import write_network
from rlpath_core.lockstep import checkpoint
from rlpath_core.lockstep.hub import Evaluator, Hub, Script
from rlpath_core.lockstep.relax import Quenched
from rlpath_core.paths import gradients
from rlpath_core.paths.between import NAME, Between
from rlpath_core.paths.catalogue_rows import load_catalogue
from rlpath_core.paths.degeneracy import degeneracies
from rlpath_core.paths.drawing import Draw
from rlpath_core.paths.given import (
    Given,
    NoMinimumError,
    check_given,
    prepared_ends,
    relax_given,
    relaxation_for,
    straight,
)
from rlpath_core.paths.options import PathsConfig
from rlpath_core.paths.preflight import check_config
from rlpath_core.paths.progress import Counters, Reporter, stop_reason
from rlpath_core.paths.record import Finished, PathsRecord, candidates_of, evidence_of
from rlpath_core.paths.renewal import renew, renewing_search
from rlpath_core.paths.search_run import Plan, Searcher, SearchResult
from rlpath_core.paths.searches import Guess
from rlpath_core.paths.state import FORMAT, InFlight, catalogue_from, codecs, state_of
from rlpath_core.paths.summary import PathsSummary
from rlpath_core.progress import Progress
from rlpath_core.sampling.options import BasinOptions
from rlpath_core.sampling.preflight import roles_of
from rlpath_core.sampling.queueing import Queued
from rlpath_core.sampling.run import default_walkers, describe_roles
from rlpath_core.sampling.run_row import writing
from rlpath_core.store import Store
from rlpath_core.structure import Structure
from rlpath_core.viz.saddle_network import draw_network

log = logging.getLogger("rlpath.paths")

LIMITS = ("max_searches", "max_force_calls", "max_seconds", "unseen", "pictures")
"""Keys of the config that may differ when a run is resumed: limits, and what is drawn in the end."""
PLAN_STREAM = 2**32
"""Number of the random stream that a search is drawn with."""
DRAWS = 20
"""Guesses in a row that no search takes, after which nothing is left to try."""
CHECKPOINT_BATCHES = 64
"""Batches after which a checkpoint is made although few searches have ended."""


def find_paths(
    config: PathsConfig,
    model: Model,
    starts: Structure | Sequence[Structure],
    run_dir: str | Path,
    store: Store,
    *,
    seed: int,
    run_id: str | None = None,
    round: int | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    joined: Mapping[tuple[int, int], int] | None = None,
    between: bool = False,
    given: Sequence[Given] | None = None,
) -> PathsSummary:
    """Search for saddles around ``starts`` with ``model`` until a limit of the config is reached.

    Writes saddles.jsonl, dft_queue.jsonl, network.json and the other files of the network, and summary.json in
    ``run_dir``, and the run's rows in ``store``.

    Parameters
    ----------
    config
        What to do.
    model
        Predicts energies and forces.
    starts
        One structure or several with the same atoms in the same cell: they are relaxed into the catalogue first.
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
        Continue an interrupted run (config, model, seed and starts must be the same; limits may be raised), or return
        the summary of a finished one.
    progress
        Called about twice a second with searches, converged, verified, connected, calls_per_s.
    joined
        Pairs of ``starts``, by their places, that an action joined, and how often.
    between
        Find what joins the two ``starts``: the run begins with a path between them, and stops when steps join them.
    given
        ``starts`` as they were relaxed already.

    Raises
    ------
    InputError
        An output exists without ``resume``, the model does not know an element, the structures are no places on one
        surface, or something in the config cannot be.
    """
    run = PathsRun(
        config,
        model,
        [starts] if isinstance(starts, Structure) else list(starts),
        Path(run_dir),
        store,
        seed=seed,
        run_id=run_id or f"paths-{Path(run_dir).resolve().name}",
        round_index=round,
        resume=resume,
        progress=progress,
        joined=dict(joined or {}),
        between=between,
        given=given,
    )
    return run.go()


class PathsRun:
    """One run: schedules searches, enters what they find, makes checkpoints. Parameters as in ``find_paths``."""

    def __init__(
        self,
        config: PathsConfig,
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
        joined: dict[tuple[int, int], int] | None = None,
        between: bool = False,
        given: Sequence[Given] | None = None,
    ) -> None:
        check_config(config)
        self.starts = check_given(starts)
        for structure in self.starts:
            model.check_elements(structure, "structure")
        self.config, self.seed, self.model = config, seed, model
        self.given, self.joined, self.between = given, joined or {}, between
        self.template = self.starts[0]
        self.roles = roles_of([self.template])[0]
        self.hub = Hub(model)
        self.draw = Draw(config)
        quench = relaxation_for(model, config.verify.quench)
        verification = config.verify.model_copy(update={"quench": quench})
        self.searcher = Searcher(
            config.model_copy(update={"verify": verification}), self.roles, self.draw, model.conservative
        )
        automatic = default_walkers(len(self.template), model.device)
        self.n_walkers = config.walkers if isinstance(config.walkers, int) else automatic
        self.record = PathsRecord(store, run_dir, run_id)
        roles = describe_roles([self.roles])
        if not model.conservative:
            log.info(gradients.beforehand(quench.method))
        everything = config.model_dump(mode="json")
        limits = {key: everything.pop(key) for key in LIMITS}
        identity = {
            "seed": seed,
            "model": model.digest,
            "starts": [s.id for s in self.starts],
            "between": between,
            "walkers": self.n_walkers,
        }
        with writing(run_dir):
            described = {"config": everything, "limits": limits, "identity": identity, "roles": roles}
            saved = self.record.open(described, model, self.starts, round_index, resume)

        self.codecs = codecs(self.template)
        state = checkpoint.load(self.record.run_dir, saved, self.codecs) if saved else {}
        self.n_checkpoints = saved.get("number", 0)
        self.catalogue = load_catalogue(store, BasinOptions(), self.roles, self.template, before=run_id)
        if state:
            self.catalogue = catalogue_from(state["catalogue"], self.catalogue)
            self.draw.load(state["draw"])
        self.counters = Counters(**state.get("counters", {}))
        self.summary: dict[str, Any] | None = state.get("summary")
        self.names: list[str | None] = state.get("names", [])
        way = state.get("between")
        self.way = None if way is None else Between(self.roles.movable, way["names"], tuple(way["path"]), way["tried"])
        self.resting: set[int] = set(state.get("resting", []))
        in_flight = map(InFlight.from_state, state.get("in_flight", []))
        self.in_flight = {search.plan.walker: search for search in in_flight}
        self.joined_by_steps = self.way is not None and self.way.is_joined(self.catalogue)
        self.further: list[Guess] = state.get("further", [])
        self.done: list[Finished] = []
        self.renewed: list[Queued] = []
        self.batches_before = 0
        self.began = time.monotonic() - self.counters.seconds
        self.report = Reporter(progress, self.counters)

    # -- from the beginning to the end ----------------------------------------------------------------------------

    def go(self) -> PathsSummary:
        """Run to a limit of the config."""
        if self.summary is not None and (self._stop() or self.summary["stop_reason"] == "nothing_left"):
            return self._finished(PathsSummary(**self.summary))
        if not self.names:
            self._enter_given()
        while (reason := self._stop()) is None or self.in_flight:
            begun = self.counters.searches
            self._walk()
            if self.counters.searches == begun and not self.in_flight and self._stop() is None:
                reason = "nothing_left"
                break
        assert reason is not None
        saddles = self.catalogue.present_saddles
        summary = PathsSummary(
            searches=self.counters.searches,
            converged=self.counters.converged,
            verified=self.counters.verified,
            saddles=len(saddles),
            rate_ready=sum(saddle.frequencies is not None for saddle in saddles),
            minima=len(self.catalogue.present_minima),
            candidates=self.counters.candidates,
            force_calls=self.counters.force_calls,
            unseen=self.draw.unseen_probability,
            elapsed=time.monotonic() - self.began,
            stop_reason=reason,
            asymmetry=self.counters.asymmetry,
            prefactor=self.counters.prefactor,
            disagreement=self.counters.disagreement,
        )
        if not self.model.conservative:
            log.info(gradients.afterwards(self.counters))
        self.make_checkpoint(summary)
        self.report(len(saddles), self.hub.calls, force=True)
        return self._finished(summary)

    def _finished(self, summary: PathsSummary) -> PathsSummary:
        run_dir = self.record.run_dir
        with writing(run_dir):
            theory = f"{self.model.backend} {self.model.digest[:12]}".strip()
            network = self.catalogue.network(theory)
            write_network(network, run_dir, self.config.kinetics)
            if self.config.pictures:
                start, end = (None, None) if self.way is None else self.way.names
                draw_network(network, run_dir, self.config.kinetics, start, end)
            write_json(run_dir / "summary.json", asdict(summary))
        return summary

    def _stop(self) -> str | None:
        seconds = time.monotonic() - self.began
        return stop_reason(self.config, self.counters, self.draw.unseen_probability, self.joined_by_steps, seconds)

    # -- the given structures -------------------------------------------------------------------------------------

    def _enter_given(self) -> None:
        """Relax what was given into the catalogue; a pair of ends gives the first guess."""
        self._renew()
        quench = self.config.verify.quench
        given = self.given
        if given is None and self.between:
            given = prepared_ends(self.starts[0], self.starts[1], self.model, quench, None)
        if given is None:
            given = relax_given(self.starts, self.model, self.roles, quench)
        for k, one in enumerate(given):
            self.counters.force_calls += one.calls
            end = one.relaxed
            if end is None or not end.converged:
                left = "no finite energy" if end is None else f"{end.fmax:.3g} eV/Å left"
                log.warning("given structure %d does not relax to %g eV/Å (%s): left out", k, quench.fmax, left)
                self.names.append(None)
                continue
            self.names.append(self.catalogue.enter_minimum(end.structure, end.energy, end.fmax)[0])
        if not any(self.names) and not self.catalogue.present_minima:
            what = "none of the given structures relaxes to a minimum: raise paths.verify.quench.steps, or its fmax"
            raise NoMinimumError(what)
        for (i, j), count in self.joined.items():
            first, second = self.names[i], self.names[j]
            for _ in range(count if first and second else 0):
                self.catalogue.join(first, second)  # type: ignore[arg-type]
        if self.between:
            ends = [one.relaxed.structure for one in given if one.relaxed is not None]
            first, second = (name for name in self.names if name is not None)
            self.way = Between(self.roles.movable, (first, second), straight(ends[0], ends[1], self.roles.movable))
            self.joined_by_steps = self.way.is_joined(self.catalogue)
        self.make_checkpoint()

    def _renew(self) -> None:
        """Relax again what earlier runs found with another model; a kill before the first checkpoint repeats it."""
        if not self.catalogue.minima or (self.model.digest and self.model.digest == self.catalogue.model_sha256):
            return
        search = renewing_search(self.searcher.searches)
        self.catalogue, _, sides = renew(self.catalogue, self.hub, search, self.searcher.config, self.seed)
        self.counters.force_calls += self.hub.calls
        self.renewed = self.record.to_label_again(self.catalogue, sides)
        self.counters.candidates += len(self.renewed)

    # -- walking --------------------------------------------------------------------------------------------------

    def _walk(self) -> None:
        """All walkers, until a limit is reached or none finds anything to do."""

        def script(walker: int) -> Script:
            def walk(evaluate: Evaluator) -> None:
                while walker in self.in_flight or (walker not in self.resting and self._stop() is None):
                    if walker not in self.in_flight:
                        plan = self._plan(walker)
                        if plan is None:  # until all others have ended, who may find something to begin from
                            self.resting.add(walker)
                            return
                        self.in_flight[walker] = InFlight(plan)
                    self._run(self.in_flight[walker], evaluate)
                    self.report(len(self.catalogue.present_saddles), self.hub.calls)

            return walk

        def before_batch() -> None:
            batches = self.hub.batches - self.batches_before
            if len(self.done) >= self.n_walkers or batches >= CHECKPOINT_BATCHES:
                self.make_checkpoint()

        self.hub.run([script(walker) for walker in range(self.n_walkers)], before_batch)
        self.resting.clear()
        self.make_checkpoint()

    def generator(self, n: int, stream: int = 0) -> np.random.Generator:
        """The random stream of a search: the same whichever walker runs it, after any resume."""
        return np.random.default_rng([self.seed, n, stream] if stream else [self.seed, n])

    def _plan(self, walker: int) -> Plan | None:
        """The next search; None if nothing is left to try while others are under way."""
        n = self.counters.searches + 1
        rng = self.generator(n, PLAN_STREAM)
        drawn = self._next_guess(rng)
        if drawn is None:
            return None
        search, guess = drawn
        self.counters.searches = n
        if guess.start is not None:
            self.catalogue.minima[guess.start].searches += 1
        return Plan(n, walker, guess, search)

    def _next_guess(self, rng: np.random.Generator) -> tuple[str, Guess] | None:
        if self.way is not None:
            if any(search.plan.guess.proposal == NAME for search in self.in_flight.values()):
                return None  # one after the other: what it finds decides on the next
            if (guess := self.way.next(self.catalogue)) is not None:
                return self.searcher.choose(guess, rng)
        if self.further:
            return self.searcher.choose(self.further.pop(0), rng)
        for _ in range(DRAWS):
            drawn = self.draw.next(self.catalogue.landscape(), rng)
            if drawn is None:
                return None
            try:
                return self.searcher.choose(drawn[1], rng)
            except LookupError as error:
                log.debug("%s", error)
        return None

    def _run(self, search: InFlight, evaluate: Evaluator) -> None:
        plan, journal = search.plan, search.journal
        rng = self.generator(plan.n)
        result = self.searcher.run(plan, journal.replaying(evaluate), rng, self.catalogue, journal.remembering())
        finished = self._enter(result)
        self.further += result.further
        self.draw.observe(result.plan.guess, finished.saddle, finished.new, result.calls)
        self._count(finished)
        del self.in_flight[plan.walker]

    def _enter(self, result: SearchResult) -> Finished:
        """Enter what a search found into the catalogue."""
        catalogue, verdict = self.catalogue, result.verdict
        if result.known is not None:
            known = catalogue.saddles[result.known]
            known.found += 1
            return Finished(result, known.name, ends=(known.start, known.end))
        if not result.connected:
            return Finished(result)
        assert verdict is not None
        assert verdict.ends is not None
        start, end = (
            self._enter_end(one, frequencies)
            for one, frequencies in zip(verdict.ends, result.end_frequencies, strict=True)
        )
        if start != end == result.plan.guess.start:  # a step leads from where its search began
            result, start, end = result.turned(), end, start
            verdict = result.verdict
        assert verdict is not None
        assert verdict.ends is not None
        catalogue.join(start, end)
        name = catalogue.saddle_of(verdict.structure, verdict.energy, (start, end))
        if name is not None:
            catalogue.saddles[name].found += 1
            return Finished(result, name, ends=(start, end))
        first, second = verdict.ends
        ways = degeneracies(
            first.structure, verdict.structure, second.structure, self.roles.movable, catalogue.operations
        )
        name = catalogue.add_saddle(
            verdict,
            start,
            end,
            frequencies=result.frequencies,
            degeneracy=ways[0],
            degeneracy_back=ways[1],
            evidence=evidence_of(result),
        )
        self.joined_by_steps = self.way is not None and self.way.is_joined(catalogue)
        joined = [catalogue.minima[start], catalogue.minima[end]]
        candidates = self.record.queue.keep_new(candidates_of(verdict, result.sides, name, joined))
        return Finished(result, name, True, (start, end), candidates)

    def _enter_end(self, end: Quenched, frequencies: Floats | None) -> str:
        name, _ = self.catalogue.enter_minimum(end.structure, end.energy, end.fmax)
        minimum = self.catalogue.minima[name]
        if minimum.frequencies is None:
            minimum.frequencies = frequencies
        return name

    def _count(self, finished: Finished) -> None:
        counters, result = self.counters, finished.result
        counters.force_calls += result.calls
        counters.converged += result.state != "guess"
        counters.verified += finished.saddle is not None
        counters.candidates += len(finished.candidates)
        if not self.model.conservative:
            gradients.take_in(counters, result.verdict)
        self.done.append(finished)

    def make_checkpoint(self, summary: PathsSummary | None = None) -> None:
        """Make durable what is done, and how far the searches in flight have come."""
        self.counters.seconds = time.monotonic() - self.began
        self.n_checkpoints += 1
        self.batches_before = self.hub.batches
        run_dir = self.record.run_dir
        state = {
            "counters": asdict(self.counters),
            "summary": None if summary is None else asdict(summary),
            "names": self.names,
            "between": None if self.way is None else self.way.state(),
            "further": self.further,
            "resting": sorted(self.resting),
            "catalogue": state_of(self.catalogue),
            "draw": self.draw.state(),
            "in_flight": [self.in_flight[walker].state() for walker in sorted(self.in_flight)],
        }
        with writing(run_dir):
            saved = {"format": FORMAT, **checkpoint.save(run_dir, self.n_checkpoints, state, self.codecs)}
            done = sorted(self.done, key=lambda search: search.n)
            self.record.commit(done, self.catalogue, saved, finished=summary is not None, renewed=self.renewed)
            checkpoint.tidy(run_dir, self.n_checkpoints)
        self.done, self.renewed = [], []

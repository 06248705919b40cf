"""The built-in DFT-submit hook: what an outbox selected becomes labels, each exactly once.

States of a job, in the database: submitted -> running -> done | failed -> labelled; the queue row of its structure
follows. Every step is written so that a kill after it is mended by calling ``label`` again:

1. intent: job rows (the id is a unique key) before anything is launched
2. ``request.json``, then the launcher, which is first asked whether it still has the job from before
3. the engine's process writes ``result.json`` whole; where it is found there, nothing is calculated again
4. ``done`` or ``failed`` (with the reason; the folder stays)
5. the LMDB entry, idempotent under the job's id, then the label's row: a kill in between repeats the first, in vain

Labels enter the LMDB in the order of the queue, not of their ending, so that the file is the same on any machine.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from rlpath_core.data import Labelled, S2EFWriter
from rlpath_core.dft.engines import ENGINES, Calculation, Engine
from rlpath_core.dft.engines.base import RESULT
from rlpath_core.dft.identity import job_id
from rlpath_core.dft.launchers import LAUNCHERS, Event, Launcher, Task
from rlpath_core.errors import InputError
from rlpath_core.locks import exclusive
from rlpath_core.spec.dft import DftConfig
from rlpath_core.store import Store, insert_new, orm
from rlpath_core.structure import Structure

Progress = Callable[[dict[str, Any]], None]

SAME_POSITION = 1e-6
"""Å: a result whose positions or cell differ by more belongs to another structure."""
WANTED = ("selected", "submitted", "running", "done", "failed", "labelled")
LOCK_WAIT = 60.0


@dataclass(frozen=True)
class LabelSummary:
    """What became of a round's selected structures, calls before this one included.

    wanted    structures selected for a label
    labelled  labels in the database and in the LMDB
    failed    calculations that are no labels
    reasons   of the failed ones, with counts
    seconds   wall time of this call
    """

    wanted: int
    labelled: int
    failed: int
    reasons: dict[str, int]
    seconds: float


@dataclass
class _Job:
    id: str
    structure_id: str
    folder: Path
    state: str
    reason: str | None


def label(
    store: Store, config: DftConfig, *, round: int | None, lmdb: str | Path, progress: Progress | None = None
) -> LabelSummary:
    """Calculate every structure that is selected in ``round`` (in any, where it is None) and collect the labels.

    Returns when each is labelled or failed. Resumes whatever a killed call left; called again it changes nothing.
    ``progress`` gets done, failed, wanted and per_second. Raises InputError where the engine is not installed or
    another process is labelling in this store.
    """
    began = time.monotonic()
    engine = ENGINES[config.engine](config.settings)
    engine.require()
    with exclusive(store.folder / ".dft.lock", "the DFT hook of this store", wait=LOCK_WAIT):
        jobs = _plan(store, config, engine, round)
        hook = _Hook(store, config, engine, jobs, Path(lmdb), progress)
        hook.work()
    failed = [job.reason or "unknown" for job in jobs if job.state == "failed"]
    return LabelSummary(
        wanted=len(jobs),
        labelled=sum(job.state == "labelled" for job in jobs),
        failed=len(failed),
        reasons=dict(Counter(failed)),
        seconds=time.monotonic() - began,
    )


def _plan(store: Store, config: DftConfig, engine: Engine, round: int | None) -> list[_Job]:
    """The round's jobs in the order of the queue; new ones are entered here, before anything is launched."""
    identity = engine.identity()
    if config.retry_failed:
        _put_aside(store, engine, identity, round)
    with store.session() as session:
        rows = _wanted(session, round)
        jobs = []
        for row in rows:
            key = job_id(row.structure_id, engine.key, identity)
            job = session.get(orm.JobRow, key)
            if job is None and row.state == "labelled":  # by other settings than today's
                job = session.scalar(
                    sa.select(orm.JobRow).where(
                        orm.JobRow.structure_id == row.structure_id, orm.JobRow.state == "labelled"
                    )
                )
            if job is None:
                job = orm.JobRow(
                    id=key,
                    structure_id=row.structure_id,
                    engine=engine.key,
                    settings=engine.resolved(),
                    launcher=config.launcher,
                    folder=f"dft/{key}",
                    round=row.round,
                    state="submitted",
                )
                session.add(job)
            elif job.state == "failed" and config.retry_failed:
                job.state, job.reason = "submitted", None
            if job.state != "labelled" or row.state != "labelled":
                row.state, row.reason = job.state, job.reason
            jobs.append(_Job(job.id, job.structure_id, store.folder / job.folder, job.state, job.reason))
    return jobs


def _wanted(session: Session, round: int | None) -> Sequence[orm.QueueRow]:
    query = sa.select(orm.QueueRow).where(orm.QueueRow.state.in_(WANTED)).order_by(orm.QueueRow.id)
    return session.scalars(query if round is None else query.where(orm.QueueRow.round == round)).all()


def _put_aside(store: Store, engine: Engine, identity: dict[str, Any], round: int | None) -> None:
    """Rename the results of failed jobs, so that they are calculated again; before the database says so."""
    with store.reading() as session:
        ids = [job_id(row.structure_id, engine.key, identity) for row in _wanted(session, round)]
        jobs = [job for job in (session.get(orm.JobRow, key) for key in ids) if job and job.state == "failed"]
    for job in jobs:
        result = store.folder / job.folder / RESULT
        if result.exists():
            result.rename(result.with_name(f"result.{job.tries}.json"))


class _Hook:
    """One call of ``label`` at work."""

    def __init__(
        self,
        store: Store,
        config: DftConfig,
        engine: Engine,
        jobs: list[_Job],
        lmdb: Path,
        progress: Progress | None,
    ) -> None:
        self.store, self.config, self.engine, self.jobs = store, config, engine, jobs
        self.lmdb, self.progress = lmdb, progress
        self.by_id = {job.id: job for job in jobs}
        self.results: dict[str, Calculation] = {}
        self.began = time.monotonic()
        self.done_before = sum(job.state == "labelled" for job in jobs)
        self.next = 0
        """Index of the first job that is not settled: labels are entered in this order."""

    def work(self) -> None:
        pending = [job for job in self.jobs if job.state in ("submitted", "running", "done")]
        self._report()
        if pending:
            structures = dict(
                zip((j.id for j in pending), self.store.get(j.structure_id for j in pending), strict=True)
            )
            self._run(pending, structures)
        self._heal()
        self._report()

    def _run(self, pending: list[_Job], structures: dict[str, Structure]) -> None:
        todo = []
        for job in pending:
            refused = self.engine.refuse(structures[job.id])
            if (job.folder / RESULT).exists():
                self._ended([job], structures, {})
            elif refused is not None:
                self._ended([job], structures, {job.id: refused})
            else:
                self.engine.write_inputs(job.folder, job.id, structures[job.id])
                todo.append(job)
        config = self.config
        kind = LAUNCHERS[config.launcher]
        with kind(workers=config.workers, threads=config.threads, wall_seconds=config.wall_seconds) as launcher:
            self._submit(todo, launcher)
            writer_loads = threading.Thread(target=_load_writer, daemon=True)
            writer_loads.start()
            open_jobs = {job.id for job in todo}
            while open_jobs:
                events = launcher.wait(5.0)
                self._started([e for e in events if e.kind == "started"])
                ended = [e for e in events if e.kind == "ended"]
                if ended:
                    reasons = {e.name: e.reason for e in ended if e.reason is not None}
                    self._ended([self.by_id[e.name] for e in ended], structures, reasons)
                    open_jobs -= {e.name for e in ended}
                    if not writer_loads.is_alive():
                        self._enter(structures)
                    self._report()
            self._enter(structures)

    def _submit(self, todo: list[_Job], launcher: Launcher) -> None:
        known = launcher.find([job.id for job in todo])
        worker = self.engine.worker()
        tasks = [
            Task(
                job.id,
                job.folder,
                tuple(self.engine.command(job.folder)),
                None if worker is None else tuple(worker),
                self.engine.batch,
            )
            for job in todo
            if job.id not in known
        ]
        known = {**known, **launcher.submit(tasks)}
        with self.store.session() as session:
            for key, scheduler_id in known.items():
                if scheduler_id:
                    session.execute(sa.update(orm.JobRow).where(orm.JobRow.id == key).values(scheduler_id=scheduler_id))

    def _started(self, events: Sequence[Event]) -> None:
        if events:
            with self.store.session() as session:
                for event in events:
                    self._set(session, self.by_id[event.name], "running", tries=orm.JobRow.tries + 1)

    def _ended(self, jobs: Sequence[_Job], structures: dict[str, Structure], reasons: dict[str, str]) -> None:
        """Judge what has ended: done, or failed with its reason."""
        with self.store.session() as session:
            for job in jobs:
                try:
                    result = self.engine.parse(job.folder, job.id)
                    reason = wrong(result, structures[job.id], self.config.max_force)
                    seconds = result.seconds
                except InputError as error:
                    result, seconds = Calculation(False), None
                    # Without an answer the launcher's word counts; with one, an unclean end does not matter.
                    reason = reasons.get(job.id) or f"no result: {error}"
                if reason is None:
                    self.results[job.id] = result
                self._set(session, job, "failed" if reason else "done", reason=reason, seconds=seconds)

    def _enter(self, structures: dict[str, Structure]) -> None:
        """Enter labels as far as their turn has come: into the LMDB, then into the database."""
        ready = []
        while self.next < len(self.jobs) and self.jobs[self.next].state in ("done", "failed", "labelled"):
            if self.jobs[self.next].state == "done":
                ready.append(self.jobs[self.next])
            self.next += 1
        if not ready:
            return
        places = {}
        with S2EFWriter(self.lmdb) as writer:
            for job in ready:
                result = self.results[job.id]
                assert result.energy is not None
                assert result.forces is not None
                labelled = Labelled(structures[job.id], result.energy, result.forces, job.structure_id)
                places[job.id] = writer.add(labelled, job.id)
        with self.store.session() as session:
            for job in ready:
                insert_new(session, orm.LabelRow, [self._label_row(session, job, places[job.id])])
                self._set(session, job, "labelled")
                del self.results[job.id]

    def _label_row(self, session: Session, job: _Job, place: int) -> dict[str, Any]:
        result = self.results[job.id]
        assert result.forces is not None
        return {
            "job_id": job.id,
            "structure_id": job.structure_id,
            "energy": result.energy,
            "max_force": float(np.linalg.norm(result.forces, axis=1).max()),
            "round": session.scalar(sa.select(orm.QueueRow.round).where(orm.QueueRow.structure_id == job.structure_id)),
            "forces": self._relative(job.folder / RESULT),
            "lmdb": self._relative(self.lmdb),
            "lmdb_key": place,
        }

    def _heal(self) -> None:
        """An LMDB that lost labels which the database has (deleted, restored from a copy) gets them back."""
        with self.store.reading() as session:
            rows = {
                row.job_id: row
                for row in session.scalars(sa.select(orm.LabelRow))
                if row.job_id in self.by_id and row.lmdb == self._relative(self.lmdb)
            }
        labelled = [job for job in self.jobs if job.id in rows and (job.folder / RESULT).exists()]
        if not labelled or _length(self.lmdb) >= len(rows):
            return
        with S2EFWriter(self.lmdb) as writer, self.store.session() as session:
            for job in labelled:
                result = self.engine.parse(job.folder, job.id)
                if result.energy is None or result.forces is None:
                    continue
                (structure,) = self.store.get([job.structure_id])
                place = writer.add(Labelled(structure, result.energy, result.forces, job.structure_id), job.id)
                session.execute(sa.update(orm.LabelRow).where(orm.LabelRow.job_id == job.id).values(lmdb_key=place))

    def _set(self, session: Session, job: _Job, state: str, **values: Any) -> None:
        session.execute(sa.update(orm.JobRow).where(orm.JobRow.id == job.id).values(state=state, **values))
        queue = sa.update(orm.QueueRow).where(orm.QueueRow.structure_id == job.structure_id)
        session.execute(queue.values(state=state, reason=values.get("reason")))
        job.state, job.reason = state, values.get("reason")

    def _relative(self, path: Path) -> str:
        full = path.resolve()
        return str(full.relative_to(self.store.folder)) if full.is_relative_to(self.store.folder) else str(full)

    def _report(self) -> None:
        if self.progress is None:
            return
        done = sum(job.state in ("done", "labelled") for job in self.jobs)
        failed = sum(job.state == "failed" for job in self.jobs)
        rate = (done - self.done_before) / max(1e-9, time.monotonic() - self.began)
        self.progress({"done": done, "failed": failed, "wanted": len(self.jobs), "per_second": rate})


def wrong(result: Calculation, asked: Structure, max_force: float) -> str | None:
    """Why a result is no label for ``asked``; None where it is one."""
    if not result.converged:
        return result.reason or "did not converge"
    if result.energy is None or not np.isfinite(result.energy):
        return "the energy is not a finite number"
    if result.forces is None or result.forces.shape != asked.positions.shape or not np.isfinite(result.forces).all():
        return f"the forces are not {len(asked)} x 3 finite numbers"
    for name, limit in (("numbers", 0.0), ("positions", SAME_POSITION), ("cell", SAME_POSITION)):
        got, wanted = getattr(result, name), getattr(asked, name)
        if got is None or got.shape != wanted.shape:
            return f"the result does not say which {name} it belongs to"
        if not np.abs(got - wanted).max() <= limit:
            return f"the result belongs to another structure: {name} differ by up to {np.abs(got - wanted).max():.3g}"
    largest = float(np.linalg.norm(result.forces, axis=1).max())
    if largest > max_force:
        return f"forces of {largest:.0f} eV/Å, above {max_force:g}: the method is out of its depth here"
    return None


def _load_writer() -> None:
    """Import what writing S2EF entries needs, seconds of it, while the first calculations run."""
    with suppress(ImportError):  # said again, aloud, by the writer itself
        importlib.import_module("torch_geometric.data")


def _length(path: Path) -> int:
    from rlpath_core.data import S2EFReader

    if not path.exists():
        return 0
    with S2EFReader(path) as reader:
        return len(reader)

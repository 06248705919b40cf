"""The jobs of a round in the database: those that exist, and those that may be added within the budget."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from rlpath_core.dft.engines import ENGINES, Engine
from rlpath_core.dft.faultpoints import Step, faultpoint
from rlpath_core.dft.identity import job_id
from rlpath_core.dft.launchers.base import Submission
from rlpath_core.dft.options import DftConfig
from rlpath_core.store import Store, orm

log = logging.getLogger("rlpath.dft")
WANTED = ("selected", "submitted", "running", "done", "failed", "labelled")
OPEN = ("submitted", "running")
HOUR = 3600.0


@dataclass
class Method:
    """An engine with its settings, as jobs are made of it."""

    engine: Engine
    identity: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, settings: dict[str, Any]) -> Method:
        engine = ENGINES[name](settings)
        return cls(engine, engine.identity())

    def key(self, structure_id: str) -> str:
        return job_id(structure_id, self.engine.key, self.identity)


@dataclass(eq=False)
class Job:
    """A job row as this process knows it."""

    id: str
    structure_id: str
    folder: Path
    engine: Engine
    state: str
    round_index: int | None
    launcher: str
    """What it was last submitted with."""
    reason: str | None = None
    failure: str | None = None
    tries: int = 0
    wall_seconds: float | None = None
    memory_mb: int | None = None

    @property
    def name(self) -> str:
        """The machine's name for the present try."""
        return f"{self.id}-{self.tries}"

    def submission(self) -> Submission:
        worker = self.engine.worker()
        return Submission(
            self.name,
            self.folder,
            tuple(self.engine.command(self.folder)),
            None if worker is None else tuple(worker),
            self.engine.batch,
            self.tries,
            self.wall_seconds,
            self.memory_mb,
        )


class JobTable:
    """The jobs of one round (of all rounds, if it is None) in the order of the queue.

    jobs     those that are in the database
    waiting  ids of selected structures that have no job yet
    """

    def __init__(self, store: Store, config: DftConfig, round_index: int | None) -> None:
        self.store, self.config, self.round_index = store, config, round_index
        self.method = Method.of(config.engine, config.settings)
        self.method.engine.require()
        safer = self.method.engine.safer() if config.safer else None
        self.safer = None if safer is None else Method.of(self.method.engine.key, safer)
        self.launcher = "hook" if config.hook else config.launcher
        self.jobs: list[Job] = []
        self.waiting: list[tuple[str, int | None]] = []
        self._others = (0.0, 0)

    def read(self) -> None:
        """Look up the round's jobs; rows of the queue that fell behind their job catch up."""
        others: list[orm.JobRow] = []
        with self.store.session() as session:
            for row in self._rows(session):
                job = self._job_of(session, row)
                if job is None:
                    self.waiting.append((row.structure_id, row.round))
                    continue
                if job.id != self.method.key(job.structure_id) and job.retry_of is None:
                    others.append(job)
                if job.state != "labelled" or row.state != "labelled":
                    row.state, row.reason = job.state, job.reason
                self.jobs.append(self._as_job(job))
            self._others = self._spent_elsewhere(session)
            self._say_other_settings(others)
        faultpoint(Step.PLANNED)

    def _say_other_settings(self, others: Sequence[orm.JobRow]) -> None:
        """Labels that new ones will stand beside, though the same settings did not make them."""
        if not others or not self.waiting:
            return
        mine = self.method.engine.resolved() | {"engine": self.method.engine.key}
        unlike = {
            key
            for job in others
            for key, value in (job.settings | {"engine": job.engine}).items()
            if mine.get(key, mine) != value
        } | {key for job in others for key in mine.keys() - job.settings.keys() - {"engine"}}
        log.info(
            "%d labels here were made by another calculation and are kept beside the new ones; what differs: %s",
            len(others),
            ", ".join(sorted(unlike)) or "this version's rules of cells and k-points, or a file's content",
        )

    def admit(self, count: int) -> list[Job]:
        """Intent: job rows of the next ``count`` waiting structures, before anything is written or launched."""
        if count <= 0:
            return []
        admitted, self.waiting = self.waiting[:count], self.waiting[count:]
        with self.store.session() as session:
            new = [
                self.enter(session, self.method, structure_id, round_index) for structure_id, round_index in admitted
            ]
            for job in new:
                queue = sa.update(orm.QueueRow).where(orm.QueueRow.structure_id == job.structure_id)
                session.execute(queue.values(state="submitted", reason=None))
            faultpoint(Step.INTENT_OPEN)
        faultpoint(Step.INTENT)
        self.jobs += new
        return new

    def enter(
        self, session: Session, method: Method, structure_id: str, round_index: int | None, retry_of: str | None = None
    ) -> Job:
        """The job of a structure by a method; asked for twice it is the same."""
        key = method.key(structure_id)
        row = session.get(orm.JobRow, key)
        if row is None:
            row = orm.JobRow(
                id=key,
                structure_id=structure_id,
                engine=method.engine.key,
                settings=method.engine.resolved(),
                launcher=self.launcher,
                folder=f"dft/{key}",
                round=round_index,
                state="submitted",
                tries=1,
                core_seconds=0.0,
                retry_of=retry_of,
            )
            session.add(row)
        return self._as_job(row)

    def replace_by_safer(self, session: Session, job: Job) -> Job | None:
        """The job of the same structure with the engine's safer settings takes its place; None if there is none."""
        if self.safer is None or job.id != self.method.key(job.structure_id):
            return None
        second = self.enter(session, self.safer, job.structure_id, job.round_index, retry_of=job.id)
        self.jobs[self.jobs.index(job)] = second
        return second

    def set_state(self, session: Session, job: Job, state: str, reason: str | None = None, **values: Any) -> None:
        """A job's new state (and other columns), also in the queue."""
        row = sa.update(orm.JobRow).where(orm.JobRow.id == job.id)
        session.execute(row.values(state=state, reason=reason, **values))
        queue = sa.update(orm.QueueRow).where(orm.QueueRow.structure_id == job.structure_id)
        session.execute(queue.values(state=state, reason=reason))
        job.state, job.reason = state, reason
        job.failure = values.get("failure", job.failure)

    def take_over(self, jobs: Sequence[Job]) -> None:
        """The present launcher is to have these jobs."""
        others = [job for job in jobs if job.launcher != self.launcher]
        if others:
            with self.store.session() as session:
                for job in others:
                    row = sa.update(orm.JobRow).where(orm.JobRow.id == job.id)
                    session.execute(row.values(launcher=self.launcher))
                    job.launcher = self.launcher

    def record_scheduler_ids(self, numbers: dict[str, str]) -> None:
        """The scheduler's own ids, by job id."""
        with self.store.session() as session:
            for key, number in numbers.items():
                session.execute(sa.update(orm.JobRow).where(orm.JobRow.id == key).values(scheduler_id=number))

    def _rows(self, session: Session) -> Sequence[orm.QueueRow]:
        query = sa.select(orm.QueueRow).where(orm.QueueRow.state.in_(WANTED)).order_by(orm.QueueRow.id)
        return session.scalars(
            query if self.round_index is None else query.where(orm.QueueRow.round == self.round_index)
        ).all()

    def _job_of(self, session: Session, row: orm.QueueRow) -> orm.JobRow | None:
        job = session.get(orm.JobRow, self.method.key(row.structure_id))
        if job is not None and job.failure == "scf" and self.safer is not None:
            # Its second try is another job, by safer settings; a failure that came before there were any stays.
            job = session.get(orm.JobRow, self.safer.key(row.structure_id)) or job
        if job is None and row.state == "labelled":  # by other settings than today's
            job = session.scalar(
                sa.select(orm.JobRow).where(orm.JobRow.structure_id == row.structure_id, orm.JobRow.state == "labelled")
            )
        return job

    def _as_job(self, row: orm.JobRow) -> Job:
        safer = self.safer is not None and row.id == self.safer.key(row.structure_id)
        method = self.safer if safer and self.safer is not None else self.method
        return Job(
            row.id,
            row.structure_id,
            self.store.folder / row.folder,
            method.engine,
            row.state,
            row.round,
            row.launcher,
            row.reason,
            row.failure,
            row.tries,
            row.wall_seconds,
            row.memory_mb,
        )

    # Budget

    def room(self, cores: int) -> tuple[int, str | None]:
        """How many of the waiting may begin now, and what stops the others.

        What runs is counted with its time limit, so that the budget is not overrun.
        """
        budget, wanted = self.config.budget, len(self.waiting)
        if not wanted:
            return 0, None
        failed = sum(job.state == "failed" for job in self.jobs)
        if failed > self.config.max_failed_fraction * (len(self.jobs) + wanted):
            return 0, f"{failed} of {len(self.jobs) + wanted} calculations failed: no more are submitted"
        limits: list[tuple[int, str]] = []
        mine = sum(job.state != "failed" for job in self.jobs)
        for limit, used, what in (
            (budget.labels, mine + self._others[1], "labels"),
            (budget.labels_per_round, mine, "labels_per_round"),
        ):
            if limit is not None:
                limits.append((limit - used, f"budget.{what}: {used} of {limit} are spent"))
        if budget.core_hours is not None or budget.core_hours_per_round is not None:
            one = self.config.wall_seconds * cores / HOUR
            held = sum((job.wall_seconds or self.config.wall_seconds) for job in self.jobs if job.state in OPEN)
            held *= cores / HOUR
            spent = self.spent() / HOUR
            for hours, used_hours, what in (
                (budget.core_hours, spent + self._others[0] / HOUR, "core_hours"),
                (budget.core_hours_per_round, spent, "core_hours_per_round"),
            ):
                if hours is not None:
                    why = f"budget.{what}: {used_hours:.3g} of {hours:g} are spent, and one more may take {one:.3g}"
                    limits.append((int((hours - used_hours - held) / one + 1e-9), why))
        room, why_not = min(limits, default=(wanted, ""), key=lambda pair: pair[0])
        return max(0, min(room, wanted)), why_not if room < wanted else None

    def spent(self) -> float:
        """Core-seconds of the round's jobs, and of those that safer settings replaced."""
        structures = [job.structure_id for job in self.jobs]
        with self.store.reading() as session:
            return sum(_sums(session, structures))

    def _spent_elsewhere(self, session: Session) -> tuple[float, int]:
        """Core-seconds, and labels present or to come, of jobs outside of the round."""
        mine = sum(_sums(session, [job.structure_id for job in self.jobs]))
        total = session.scalar(sa.select(sa.func.sum(orm.JobRow.core_seconds))) or 0.0
        count = session.scalar(sa.select(sa.func.count()).where(orm.JobRow.state != "failed")) or 0
        return total - mine, count - sum(job.state != "failed" for job in self.jobs)


def _sums(session: Session, structures: Sequence[str]) -> list[float]:
    out = []
    for start in range(0, len(structures), 500):
        part = orm.JobRow.structure_id.in_(structures[start : start + 500])
        out.append(session.scalar(sa.select(sa.func.sum(orm.JobRow.core_seconds)).where(part)) or 0.0)
    return out

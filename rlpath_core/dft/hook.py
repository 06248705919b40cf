"""The built-in DFT-submit hook: what an outbox selected becomes labels, each exactly once.

States of a job, in the database: submitted -> running -> done | failed -> labelled; the queue row of its structure
follows. Every step (``steps.py`` names them) is written so that a kill after it is mended by the next call:

1. intent: job rows (the id is a unique key) before anything is written or launched
2. inputs, then the launcher, which is first asked whether it has the job from before
3. the engine's process writes ``result.json`` whole; where it is found there, nothing is calculated again
4. ``done``, ``failed`` (with kind and reason; the folder stays), or once more: with more time or memory where those ran
   out, as another job with safer settings where the electronic steps did
5. the LMDB entry, idempotent under the job's id, then the label's row

``label`` does all of it and waits; ``submit`` and ``collect`` do it in parts, with a scheduler in between.
"""

from __future__ import annotations

import errno
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from rlpath_core.dft.engines.base import RESULT, Calculation
from rlpath_core.dft.jobs import OPEN, Book, Job
from rlpath_core.dft.labels import Labels, load_writer
from rlpath_core.dft.launchers import LAUNCHERS, Event, Launcher, script
from rlpath_core.dft.launchers.hook import HookLauncher
from rlpath_core.dft.options import DftConfig
from rlpath_core.dft.steps import Step, reached
from rlpath_core.dft.verdict import TRANSIENT, Failure, more, of_event, of_result, wrong
from rlpath_core.errors import InputError, TransientError
from rlpath_core.locks import exclusive
from rlpath_core.store import Store, orm
from rlpath_core.structure import Structure

__all__ = ["LabelSummary", "cancel", "collect", "label", "retry", "submit", "wrong"]

Progress = Callable[[dict[str, Any]], None]
LOCK_WAIT = 60.0
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class LabelSummary:
    """What became of a round's selected structures, calls before this one included.

    wanted      structures selected for a label
    labelled    labels in the database and in the LMDB
    failed      calculations that are no labels
    reasons     of the failed ones, with counts
    seconds     wall time of this call
    open        submitted or running, and not yet collected
    core_hours  wall time x cores of the round's calculations
    stopped     why the rest of the wanted were not submitted: a budget, or too many failures; None: all were
    """

    wanted: int
    labelled: int
    failed: int
    reasons: dict[str, int]
    seconds: float
    open: int = 0
    core_hours: float = 0.0
    stopped: str | None = None


def label(
    store: Store, config: DftConfig, *, round: int | None, lmdb: str | Path, progress: Progress | None = None
) -> LabelSummary:
    """Calculate every structure that is selected in ``round`` (in any, where it is None) and collect the labels.

    Returns when each is labelled or failed, or the budget is spent. Resumes whatever a killed call left; called again
    it changes nothing. ``progress`` gets done, failed, wanted and per_second. Raises InputError where the engine is not
    installed or another process is labelling in this store, TransientError where the scheduler does not answer.
    """
    with _at_work(store, config, round, lmdb, progress) as work:
        if config.retry_failed:
            work.retry(None)
        work.run()
    return work.summary()


def submit(store: Store, config: DftConfig, *, round: int | None, lmdb: str | Path) -> LabelSummary:
    """Give what is selected to the scheduler and return. A launcher without one only notes what it will calculate."""
    with _at_work(store, config, round, lmdb, None) as work:
        if config.retry_failed:
            work.retry(None)
        work.submit_only()
    return work.summary()


def collect(
    store: Store,
    config: DftConfig,
    *,
    round: int | None,
    lmdb: str | Path,
    wait: bool = False,
    progress: Progress | None = None,
) -> LabelSummary:
    """Take in what has ended, and submit again what its machine failed; nothing new is submitted.

    One look, or with ``wait`` until all is settled. Without a scheduler what was submitted is calculated now.
    """
    with _at_work(store, config, round, lmdb, progress) as work:
        work.collect(wait)
    return work.summary()


def retry(store: Store, config: DftConfig, *, round: int | None, jobs: Iterable[str] | None = None) -> list[str]:
    """Make failed jobs (ids or their beginnings; None: all of the round) submitted again; the next call runs them."""
    with _at_work(store, config, round, "", None) as work:
        return work.retry(None if jobs is None else list(jobs))


def cancel(store: Store, config: DftConfig, *, round: int | None, jobs: Iterable[str] | None = None) -> list[str]:
    """End jobs that are submitted or running (ids or their beginnings; None: all): they fail as cancelled."""
    with _at_work(store, config, round, "", None) as work:
        return work.cancel(None if jobs is None else list(jobs))


@contextmanager
def _at_work(
    store: Store, config: DftConfig, round: int | None, lmdb: str | Path, progress: Progress | None
) -> Iterator[_Work]:
    """The round's work, under the store's lock. Raises TransientError for a full disk."""
    with exclusive(store.folder / ".dft.lock", "the DFT hook of this store", wait=LOCK_WAIT):
        work = _Work(store, config, round, Path(lmdb), progress)
        try:
            work.book.read()
            yield work
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise TransientError(f"the disk is full: {error.filename or store.folder}") from error
        except sa.exc.OperationalError as error:
            if "full" not in str(error.orig):
                raise
            raise TransientError(f"the disk is full: {store.folder}: {error.orig}") from error


class _Work:
    """One call at work."""

    def __init__(
        self, store: Store, config: DftConfig, round: int | None, lmdb: Path, progress: Progress | None
    ) -> None:
        self.store, self.config, self.progress = store, config, progress
        self.book = Book(store, config, round)
        self.labels = Labels(store, lmdb)
        self.structures: dict[str, Structure] = {}
        self.results: dict[str, Calculation] = {}
        self.todo: list[Job] = []
        """Open, and unknown to the machine."""
        self.at_machine: dict[str, Job] = {}
        """Open, by the machine's name."""
        self.cores = 1
        self.stopped: str | None = None
        self.began = time.monotonic()
        self.done_before = 0

    @property
    def jobs(self) -> list[Job]:
        return self.book.jobs

    def launcher(self) -> Launcher:
        c = self.config
        given: dict[str, Any] = {"workers": c.workers, "threads": c.threads, "wall_seconds": c.wall_seconds}
        given["memory_mb"] = c.memory_mb
        if c.hook is not None:
            return HookLauncher(**given, options={"call": c.hook})
        return LAUNCHERS[c.launcher](**given, options=c.launcher_options)

    # What may be asked of it

    def run(self) -> None:
        self.done_before = sum(job.state == "labelled" for job in self.jobs)
        self._report()
        if self.book.waiting or any(job.state in (*OPEN, "done") for job in self.jobs):
            with self.launcher() as launcher:
                self._resume(launcher)
                writer_loads = threading.Thread(target=load_writer, daemon=True)
                while True:
                    self._admit()
                    self._submit(launcher)
                    if not writer_loads.is_alive() and writer_loads.ident is None:
                        writer_loads.start()
                    if not self.at_machine and not self.todo:
                        break
                    self._take(launcher.wait(5.0) if self.at_machine else [])
                    if not writer_loads.is_alive():
                        self._enter()
                self._enter()
        self.labels.heal(self.jobs)
        self._report()

    def submit_only(self) -> None:
        with self.launcher() as launcher:
            self._resume(launcher)
            self._admit()
            if launcher.detached:
                self._submit(launcher)
            else:
                self._write_inputs()
        self._enter()

    def collect(self, wait: bool) -> None:
        if any(job.state in (*OPEN, "done") for job in self.jobs):
            with self.launcher() as launcher:
                self._resume(launcher)
                self._submit(launcher)
                wait = wait or not launcher.detached
                while self.at_machine or self.todo:
                    self._take(launcher.wait(5.0 if wait else 0.0) if self.at_machine else [])
                    self._enter()
                    self._submit(launcher)
                    self._report()
                    if not wait:
                        break
        self._enter()
        self.labels.heal(self.jobs)

    def retry(self, only: Sequence[str] | None) -> list[str]:
        """Put the results of failed jobs aside, so that they are calculated again; before the database says so."""
        chosen = [job for job in self._chosen(only) if job.state == "failed"]
        for job in chosen:
            self._put_aside(job)
        with self.store.session() as session:
            for job in chosen:
                job.tries += 1
                self._set(session, job, "submitted", tries=job.tries)
        reached(Step.RETRY)
        return [job.id for job in chosen]

    def cancel(self, only: Sequence[str] | None) -> list[str]:
        chosen = [job for job in self._chosen(only) if job.state in OPEN and not self._answered(job)]
        with self.launcher() as launcher:
            launcher.find([job.task() for job in chosen])
            launcher.cancel([job.name for job in chosen])
        with self.store.session() as session:
            for job in chosen:
                self._fail(session, job, Failure("cancelled", "cancelled"))
        return [job.id for job in chosen]

    def _chosen(self, only: Sequence[str] | None) -> list[Job]:
        if only is None:
            return self.jobs
        unknown = [start for start in only if not any(job.id.startswith(start) for job in self.jobs)]
        if unknown:
            raise InputError(f"no job of this round begins with {unknown[0]!r}", self.store.folder, "job")
        return [job for job in self.jobs if job.id.startswith(tuple(only))]

    def summary(self) -> LabelSummary:
        failed = [job.reason or "unknown" for job in self.jobs if job.state == "failed"]
        return LabelSummary(
            wanted=len(self.jobs) + len(self.book.waiting),
            labelled=sum(job.state == "labelled" for job in self.jobs),
            failed=len(failed),
            reasons=dict(Counter(failed)),
            seconds=time.monotonic() - self.began,
            open=sum(job.state in (*OPEN, "done") for job in self.jobs),
            core_hours=self.book.spent() / 3600,
            stopped=self.stopped,
        )

    # To the machine

    def _resume(self, launcher: Launcher) -> None:
        """Sort what an earlier call left: answered, at the machine, or still to be given to it."""
        self.cores = launcher.cores
        self._load(self.jobs)
        self._judge([job for job in self.jobs if job.state == "done"], {})
        left = [job for job in self.jobs if job.state in OPEN and job not in self.todo]
        # While somebody holds its folder, a job has answered but not ended: its end mark says what it cost.
        answered = [job for job in left if self._answered(job) and not script.is_locked(job.folder)]
        if answered:
            self._judge(answered, {job.name: launcher_end(job, self.config) for job in answered})
        left = [job for job in left if job.state in OPEN and job not in self.todo]
        found = launcher.find([job.task() for job in left])
        self.at_machine |= {job.name: job for job in left if job.name in found}
        self.todo += [job for job in left if job.name not in found]
        self._record(found)
        reached(Step.ASKED)

    def _admit(self) -> None:
        room, self.stopped = self.book.room(self.cores)
        new = self.book.admit(room)
        self._load(new)
        self.todo += new

    def _load(self, jobs: Sequence[Job]) -> None:
        need = [job for job in jobs if job.state in (*OPEN, "done") and job.id not in self.structures]
        structures = self.store.get([job.structure_id for job in need])
        self.structures |= {job.id: structure for job, structure in zip(need, structures, strict=True)}

    def _write_inputs(self) -> None:
        for job in list(self.todo):
            refused = job.engine.refuse(self.structures[job.id])
            try:
                if refused is not None:
                    failure = Failure("refused", refused)
                elif script.is_locked(job.folder):  # somebody is at it, with the same inputs
                    continue
                else:
                    job.engine.write_inputs(job.folder, job.id, self.structures[job.id])
                    reached(Step.INPUT)
                    continue
            except InputError as error:
                failure = Failure("refused", str(error))
            except OSError as error:
                failure = Failure("disk" if error.errno in FULL else "exit", f"its inputs cannot be written: {error}")
            self.todo.remove(job)
            with self.store.session() as session:
                self._settle(session, job, failure)
        reached(Step.INPUTS)

    def _submit(self, launcher: Launcher) -> None:
        if not self.todo:
            return
        self._write_inputs()
        ids = launcher.submit([job.task() for job in self.todo])
        reached(Step.SUBMITTED)
        self.at_machine |= {job.name: job for job in self.todo}
        self.todo = []
        self._record(ids)

    def _record(self, ids: dict[str, str]) -> None:
        known = {self.at_machine[name].id: number for name, number in ids.items() if number}
        if known:
            with self.store.session() as session:
                for key, number in known.items():
                    session.execute(sa.update(orm.JobRow).where(orm.JobRow.id == key).values(scheduler_id=number))
            reached(Step.RECORDED)

    # From the machine

    def _take(self, events: Sequence[Event]) -> None:
        started = [self.at_machine[e.name] for e in events if e.kind == "started"]
        if started:
            with self.store.session() as session:
                for job in started:
                    self._set(session, job, "running")
            reached(Step.RUNNING)
        ended = {event.name: event for event in events if event.kind == "ended"}
        if ended:
            reached(Step.ENDED)
            self._judge([self.at_machine.pop(name) for name in ended], ended)
            self._report()

    def _judge(self, jobs: Sequence[Job], ended: dict[str, Event]) -> None:
        """Judge what has ended: done; failed with its reason; or once more."""
        if not jobs:
            return
        verdicts = [(job, *self._verdict(job, ended.get(job.name))) for job in jobs]
        for job, failure, _ in verdicts:
            if failure is not None and self._once_more(job, failure):
                self._put_aside(job)
        with self.store.session() as session:
            for job, failure, seconds in verdicts:
                if job.state in OPEN and seconds:
                    spent = orm.JobRow.core_seconds + seconds * self.cores
                    row = sa.update(orm.JobRow).where(orm.JobRow.id == job.id)
                    session.execute(row.values(seconds=seconds, core_seconds=spent))
                if failure is None:
                    self._set(session, job, "done", failure=None)
                else:
                    self._settle(session, job, failure)
            reached(Step.JUDGED_OPEN)
        reached(Step.JUDGED)

    def _verdict(self, job: Job, end: Event | None) -> tuple[Failure | None, float | None]:
        self._answered(job)
        seconds = None if end is None else end.seconds
        try:
            result = job.engine.parse(job.folder, job.id)
        except InputError as error:
            return of_event(end, f"no result: {error}"), seconds
        failure = of_result(result, self.structures[job.id], self.config.max_force)
        if failure is None:
            self.results[job.id] = result
        return failure, seconds or result.seconds

    def _answered(self, job: Job) -> bool:
        """Whether there is an answer; one that was put aside for a retry that was never noted comes back."""
        result, aside = job.folder / RESULT, job.folder / f"result.{job.tries}.json"
        if not result.exists() and aside.exists():
            aside.rename(result)
        return result.exists()

    def _put_aside(self, job: Job) -> None:
        result = job.folder / RESULT
        if result.exists():
            result.rename(job.folder / f"result.{job.tries}.json")
        reached(Step.ASIDE)

    def _once_more(self, job: Job, failure: Failure) -> bool:
        return failure.kind in TRANSIENT and job.tries <= self.config.retries

    def _settle(self, session: Session, job: Job, failure: Failure) -> None:
        """A failed calculation: tried again, replaced by a job with safer settings, or left as it is."""
        if self._once_more(job, failure):
            job.tries += 1
            job.wall_seconds, job.memory_mb = more(failure.kind, self.config, job.wall_seconds, job.memory_mb)
            limits = {"wall_seconds": job.wall_seconds, "memory_mb": job.memory_mb}
            again = f"once more after: {failure.reason}"
            self._set(session, job, "submitted", again, failure=failure.kind, tries=job.tries, **limits)
            self.todo.append(job)
            return
        self._fail(session, job, failure)
        safer = self.book.safer
        if failure.kind == "scf" and safer is not None and job.id == self.book.method.key(job.structure_id):
            second = self.book.enter(session, safer, job.structure_id, job.round, retry_of=job.id)
            self.structures[second.id] = self.structures[job.id]
            self.jobs[self.jobs.index(job)] = second
            self._set(session, second, second.state, second.reason)
            if second.state in OPEN:
                self.todo.append(second)

    def _fail(self, session: Session, job: Job, failure: Failure) -> None:
        self._set(session, job, "failed", failure.reason, failure=failure.kind)

    def _set(self, session: Session, job: Job, state: str, reason: str | None = None, **values: Any) -> None:
        row = sa.update(orm.JobRow).where(orm.JobRow.id == job.id)
        session.execute(row.values(state=state, reason=reason, **values))
        queue = sa.update(orm.QueueRow).where(orm.QueueRow.structure_id == job.structure_id)
        session.execute(queue.values(state=state, reason=reason))
        job.state, job.reason = state, reason
        job.failure = values.get("failure", job.failure)

    def _enter(self) -> None:
        for job in self.labels.enter(self.jobs, self.results, self.structures):
            del self.results[job.id], self.structures[job.id]

    def _report(self) -> None:
        if self.progress is None:
            return
        done = sum(job.state in ("done", "labelled") for job in self.jobs)
        failed = sum(job.state == "failed" for job in self.jobs)
        rate = (done - self.done_before) / max(1e-9, time.monotonic() - self.began)
        wanted = len(self.jobs) + len(self.book.waiting)
        self.progress({"done": done, "failed": failed, "wanted": wanted, "per_second": rate})


def launcher_end(job: Job, config: DftConfig) -> Event:
    """The end of a job that answered while nobody looked, by its own mark where there is one."""
    task = job.task()
    return script.end_of(task, task.wall_seconds or config.wall_seconds) or Event(job.name, "ended")

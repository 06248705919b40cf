"""Ended jobs are judged: done, failed with its reason, or to be tried again; in the database and in their folders."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from rlpath_core.dft.engines.base import RESULT, Calculation
from rlpath_core.dft.faultpoints import Step, faultpoint
from rlpath_core.dft.jobs import OPEN, Job, JobTable
from rlpath_core.dft.launchers import Event
from rlpath_core.dft.verdict import TRANSIENT, Failure, escalate, of_event, of_result
from rlpath_core.errors import InputError
from rlpath_core.store import orm
from rlpath_core.structure import Structure

log = logging.getLogger("rlpath.dft")


class Judge:
    """Judges the jobs of a table.

    structures, results  by job id; results of jobs that are done are added
    cores                that one job holds, for what it costs
    """

    def __init__(self, table: JobTable, structures: dict[str, Structure], results: dict[str, Calculation]) -> None:
        self.table, self.config = table, table.config
        self.structures, self.results = structures, results
        self.cores = 1

    def judge(self, jobs: Sequence[Job], ended: dict[str, Event]) -> list[Job]:
        """Judge jobs that have ended (``ended`` has the machine's reports, by name); returns those to submit again."""
        again: list[Job] = []
        verdicts = [(job, *self._verdict(job, ended.get(job.name))) for job in jobs]
        for job, failure, _ in verdicts:
            if failure is not None and self._has_another_try(job, failure):
                self._put_aside(job)
        with self.table.store.session() as session:
            for job, failure, seconds in verdicts:
                if job.state in OPEN and seconds:
                    spent = orm.JobRow.core_seconds + seconds * self.cores
                    row = sa.update(orm.JobRow).where(orm.JobRow.id == job.id)
                    session.execute(row.values(seconds=seconds, core_seconds=spent))
                if failure is None:
                    self.table.set_state(session, job, "done", failure=None)
                else:
                    again += self.settle(session, job, failure)
            faultpoint(Step.JUDGED_OPEN)
        faultpoint(Step.JUDGED)
        return again

    def settle(self, session: Session, job: Job, failure: Failure) -> list[Job]:
        """A failed calculation: tried again, replaced by a job with safer settings, or left failed.

        Returns the job to submit, if there is one.
        """
        if self._has_another_try(job, failure):
            job.tries += 1
            job.wall_seconds, job.memory_mb = escalate(failure.kind, self.config, job.wall_seconds, job.memory_mb)
            limits = {"wall_seconds": job.wall_seconds, "memory_mb": job.memory_mb}
            again = f"once more after: {failure.reason}"
            self.table.set_state(session, job, "submitted", again, failure=failure.kind, tries=job.tries, **limits)
            log.info("job %s: try %d after %s: %s", job.id[:12], job.tries, failure.kind, failure.reason)
            return [job]
        self.fail(session, job, failure)
        if failure.kind != "scf":
            return []
        second = self.table.replace_by_safer(session, job)
        if second is None:
            return []
        log.info("job %s: safer settings, as job %s, after: %s", job.id[:12], second.id[:12], failure.reason)
        self.structures[second.id] = self.structures[job.id]
        self.table.set_state(session, second, second.state, second.reason)
        return [second] if second.state in OPEN else []

    def fail(self, session: Session, job: Job, failure: Failure) -> None:
        self.table.set_state(session, job, "failed", failure.reason, failure=failure.kind)

    def retry(self, jobs: Sequence[Job]) -> None:
        """Put the results of failed jobs aside so that they are calculated again, then set them to submitted."""
        for job in jobs:
            self._put_aside(job)
        with self.table.store.session() as session:
            for job in jobs:
                job.tries += 1
                self.table.set_state(session, job, "submitted", tries=job.tries)
        faultpoint(Step.RETRY)

    def answered(self, job: Job) -> bool:
        """Whether there is a result; one that was put aside for a retry that was never recorded is put back."""
        result, aside = job.folder / RESULT, job.folder / f"result.{job.tries}.json"
        if not result.exists() and aside.exists():
            aside.rename(result)
        return result.exists()

    def _put_aside(self, job: Job) -> None:
        result = job.folder / RESULT
        if result.exists():
            result.rename(job.folder / f"result.{job.tries}.json")
        faultpoint(Step.ASIDE)

    def _verdict(self, job: Job, end: Event | None) -> tuple[Failure | None, float | None]:
        """What is wrong with a job, None if nothing is, and its wall time in seconds."""
        self.answered(job)
        seconds = None if end is None else end.seconds
        try:
            result = job.engine.parse(job.folder, job.id)
        except InputError as error:
            return of_event(end, f"no result: {error}"), seconds
        failure = of_result(result, self.structures[job.id], self.config.max_force)
        if failure is None:
            self.results[job.id] = result
        return failure, seconds or result.seconds

    def _has_another_try(self, job: Job, failure: Failure) -> bool:
        return failure.kind in TRANSIENT and job.tries <= self.config.retries

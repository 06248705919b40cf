"""One call of the DFT hook for one round: submits jobs, collects them, and decides when to stop."""

from __future__ import annotations

import errno
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlpath_core.dft.engines.base import Calculation
from rlpath_core.dft.faultpoints import Step, faultpoint
from rlpath_core.dft.jobs import OPEN, Job, JobTable
from rlpath_core.dft.judging import Judge
from rlpath_core.dft.labels import Labels
from rlpath_core.dft.launchers import LAUNCHERS, Event, Launcher, script
from rlpath_core.dft.launchers.hook import HookLauncher
from rlpath_core.dft.options import DftConfig
from rlpath_core.dft.verdict import Failure
from rlpath_core.errors import InputError, TransientError
from rlpath_core.progress import Progress
from rlpath_core.store import Store
from rlpath_core.structure import Structure

log = logging.getLogger("rlpath.dft")
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class LabelSummary:
    """What became of a round's selected structures, including what earlier calls did.

    Attributes
    ----------
    wanted : int
        Structures selected for a label.
    labelled : int
        Labels in the database and in the LMDB.
    failed : int
        Calculations that are no labels.
    reasons : dict of str to int
        Why they failed, with counts.
    seconds : float
        Wall time of this call.
    open : int
        Submitted or running, and not yet collected.
    core_hours : float
        Wall time x cores of the round's calculations.
    stopped : str or None
        Why the rest of the wanted were not submitted: a budget, or too many failures; None: all were.
    """

    wanted: int
    labelled: int
    failed: int
    reasons: dict[str, int]
    seconds: float
    open: int = 0
    core_hours: float = 0.0
    stopped: str | None = None


class LabellingRound:
    """The jobs of one round (of all, if it is None) for the duration of one call, which holds the store's lock."""

    def __init__(
        self, store: Store, config: DftConfig, round_index: int | None, lmdb: Path, progress: Progress | None
    ) -> None:
        self.store, self.config, self.progress = store, config, progress
        self.table = JobTable(store, config, round_index)
        self.labels = Labels(store, lmdb)
        self.structures: dict[str, Structure] = {}
        self.results: dict[str, Calculation] = {}
        self.judge = Judge(self.table, self.structures, self.results)
        self.todo: list[Job] = []
        """Open, and unknown to the machine."""
        self.at_machine: dict[str, Job] = {}
        """Open, by the machine's name."""
        self.stopped: str | None = None
        self.remarked = False
        self.began = time.monotonic()
        self.done_before = 0

    @property
    def jobs(self) -> list[Job]:
        return self.table.jobs

    def launcher(self) -> Launcher:
        c = self.config
        limits: dict[str, Any] = {"workers": c.workers, "threads": c.threads, "wall_seconds": c.wall_seconds}
        limits["memory_mb"] = c.memory_mb
        if c.hook is not None:
            return HookLauncher(**limits, options={"call": c.hook})
        return LAUNCHERS[c.launcher](**limits, options=c.launcher_options)

    # The commands

    def run(self) -> None:
        self.done_before = sum(job.state == "labelled" for job in self.jobs)
        self._report()
        if self.table.waiting or any(job.state in (*OPEN, "done") for job in self.jobs):
            with self.launcher() as launcher:
                self._resume(launcher)
                while True:
                    self._admit()
                    self._submit(launcher)
                    if not self.at_machine and not self.todo:
                        break
                    self._take(launcher.wait(5.0) if self.at_machine else [])
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
        chosen = [job for job in self._chosen(only) if job.state == "failed"]
        self.judge.retry(chosen)
        return [job.id for job in chosen]

    def cancel(self, only: Sequence[str] | None) -> list[str]:
        chosen = [job for job in self._chosen(only) if job.state in OPEN and not self.judge.answered(job)]
        for name in {job.launcher for job in chosen} - {"hook"} | {self.table.launcher}:
            with self.launcher() if name == self.table.launcher else LAUNCHERS[name]() as launcher:
                launcher.find([job.submission() for job in chosen])
                launcher.cancel([job.name for job in chosen])
        with self.store.session() as session:
            for job in chosen:
                self.judge.fail(session, job, Failure("cancelled", "cancelled"))
        return [job.id for job in chosen]

    def _chosen(self, only: Sequence[str] | None) -> list[Job]:
        if only is None or "all" in only:
            return self.jobs
        unknown = [start for start in only if not any(job.id.startswith(start) for job in self.jobs)]
        if unknown:
            raise InputError(f"no job of this round begins with {unknown[0]!r}", self.store.folder, "job")
        return [job for job in self.jobs if job.id.startswith(tuple(only))]

    def summary(self) -> LabelSummary:
        failed = [job.reason or "unknown" for job in self.jobs if job.state == "failed"]
        return LabelSummary(
            wanted=len(self.jobs) + len(self.table.waiting),
            labelled=sum(job.state == "labelled" for job in self.jobs),
            failed=len(failed),
            reasons=dict(Counter(failed)),
            seconds=time.monotonic() - self.began,
            open=sum(job.state in (*OPEN, "done") for job in self.jobs),
            core_hours=self.table.spent() / 3600,
            stopped=self.stopped,
        )

    # To the machine

    def _resume(self, launcher: Launcher) -> None:
        """Sort the jobs that an earlier call left: answered, at the machine, or still to be submitted."""
        self.judge.cores = launcher.cores
        self._load(self.jobs)
        self._judge([job for job in self.jobs if job.state == "done"], {})
        left = [job for job in self.jobs if job.state in OPEN and job not in self.todo]
        # While a process holds its folder, a job has answered but not ended: its end mark will tell what it cost.
        answered = [job for job in left if self.judge.answered(job) and not script.is_locked(job.folder)]
        if answered:
            self._judge(answered, {job.name: _end_of(job, self.config) for job in answered})
        left = [job for job in left if job.state in OPEN and job not in self.todo]
        self._refuse_those_of_another_launcher(left)
        found = launcher.find([job.submission() for job in left])
        self.at_machine |= {job.name: job for job in left if job.name in found}
        self.todo += [job for job in left if job.name not in found]
        self._record(found)
        faultpoint(Step.ASKED)

    def _refuse_those_of_another_launcher(self, jobs: Sequence[Job]) -> None:
        """Raise InputError if a scheduler other than the configured one has jobs, which would run twice."""
        for name in {job.launcher for job in jobs} - {self.table.launcher, "hook"}:
            try:
                if not LAUNCHERS[name].detached:
                    continue
                with LAUNCHERS[name]() as other:
                    found = other.find([job.submission() for job in jobs if job.launcher == name])
            except (InputError, TransientError) as error:
                log.info("whether launcher %s still has jobs is not known: %s", name, error)
                continue
            if found:
                raise InputError(
                    f"launcher {name} has {len(found)} jobs of this store: give the config that they were submitted "
                    "with, or cancel them first", self.store.folder, "launcher",
                )  # fmt: skip

    def _admit(self) -> None:
        room, self.stopped = self.table.room(self.judge.cores)
        new = self.table.admit(room)
        self._load(new)
        self.todo += new

    def _load(self, jobs: Sequence[Job]) -> None:
        need = [job for job in jobs if job.state in (*OPEN, "done") and job.id not in self.structures]
        structures = self.store.get([job.structure_id for job in need])
        self.structures |= {job.id: structure for job, structure in zip(need, structures, strict=True)}

    def _write_inputs(self) -> None:
        remarks = []
        for job in list(self.todo):
            refused = job.engine.refuse(self.structures[job.id])
            try:
                if refused is not None:
                    failure = Failure("refused", refused)
                elif script.is_locked(job.folder):  # a process calculates it, from the same inputs
                    continue
                else:
                    job.engine.write_inputs(job.folder, job.id, self.structures[job.id])
                    if not self.remarked and (remark := job.engine.remark(self.structures[job.id])) is not None:
                        remarks.append(f"{self.structures[job.id].formula} (job {job.id[:12]}): {remark}")
                    faultpoint(Step.INPUT)
                    continue
            except InputError as error:
                failure = Failure("refused", str(error))
            except OSError as error:
                failure = Failure("disk" if error.errno in FULL else "exit", f"its inputs cannot be written: {error}")
            self.todo.remove(job)
            with self.store.session() as session:
                self.todo += self.judge.settle(session, job, failure)
        if remarks:
            self.remarked = True
            log.info("%s%s", remarks[0], f"; {len(remarks) - 1} more like it" if len(remarks) > 1 else "")
        faultpoint(Step.INPUTS)

    def _submit(self, launcher: Launcher) -> None:
        if not self.todo:
            return
        self._write_inputs()
        self.table.take_over(self.todo)
        ids = launcher.submit([job.submission() for job in self.todo])
        faultpoint(Step.SUBMITTED)
        self.at_machine |= {job.name: job for job in self.todo}
        self.todo = []
        self._record(ids)

    def _record(self, ids: dict[str, str]) -> None:
        numbers = {self.at_machine[name].id: number for name, number in ids.items() if number}
        if numbers:
            self.table.record_scheduler_ids(numbers)
            faultpoint(Step.RECORDED)

    # From the machine

    def _take(self, events: Sequence[Event]) -> None:
        started = [self.at_machine[e.name] for e in events if e.kind == "started"]
        if started:
            with self.store.session() as session:
                for job in started:
                    self.table.set_state(session, job, "running")
            faultpoint(Step.RUNNING)
        ended = {event.name: event for event in events if event.kind == "ended"}
        if ended:
            faultpoint(Step.ENDED)
            self._judge([self.at_machine.pop(name) for name in ended], ended)
            self._report()

    def _judge(self, jobs: Sequence[Job], ended: dict[str, Event]) -> None:
        if jobs:
            self.todo += self.judge.judge(jobs, ended)

    def _enter(self) -> None:
        for job in self.labels.enter(self.jobs, self.results, self.structures):
            del self.results[job.id], self.structures[job.id]

    def _report(self) -> None:
        if self.progress is None:
            return
        done = sum(job.state in ("done", "labelled") for job in self.jobs)
        failed = sum(job.state == "failed" for job in self.jobs)
        rate = (done - self.done_before) / max(1e-9, time.monotonic() - self.began)
        wanted = len(self.jobs) + len(self.table.waiting)
        self.progress({"done": done, "failed": failed, "wanted": wanted, "per_second": rate})


def _end_of(job: Job, config: DftConfig) -> Event:
    """The end of a job that answered while no process waited for it, from its end mark if it has one."""
    submission = job.submission()
    return script.end_of(submission, submission.wall_seconds or config.wall_seconds) or Event(job.name, "ended")

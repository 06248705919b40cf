"""Launcher ``slurm``: jobs and job arrays of a Slurm cluster; ``slurm_commands.py`` talks to it.

Nothing runs beside the scheduler: a login node submits, and any later process collects. The job
folders hold what a process must know of earlier ones, and jobs are looked up by name, never by id: a controller that
dies just after it has accepted a job may lose it and give its id to another. No two submissions have one name, so that
jobs of another campaign, or of an earlier try, are never taken for one of ours.

A submission whose process was killed may still be in flight; ``sbatch`` itself holds its lock, so that a look-up of the
job waits until it has arrived. https://matgenix.github.io/qtoolkit/, https://slurm.schedmd.com/job_array.html
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import secrets
import shlex
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar

from pydantic import Field, field_validator
from qtoolkit.io.base import QTemplate
from qtoolkit.io.slurm import SlurmIO

from rlpath_core.config import Section
from rlpath_core.dft.faultpoints import Step, faultpoint
from rlpath_core.dft.launchers import script
from rlpath_core.dft.launchers.base import Cause, Event, Launcher, Submission
from rlpath_core.dft.launchers.slurm_commands import SchedulerError, SlurmCommands, SlurmJob, clusters_of, options_of
from rlpath_core.dft.launchers.slurm_files import SPOOL, announced, missing_of, submission_of, times
from rlpath_core.errors import InputError, TransientError
from rlpath_core.files import atomic_write, write_json

log = logging.getLogger("rlpath.dft")

LOCK = ".submitting.lock"
LOST = 10
"""How often the scheduler may lose one submission before it counts as failed."""
CAUSES: dict[str, Cause] = {"TIMEOUT": "wall", "OUT_OF_MEMORY": "memory", "DEADLINE": "cancelled"}
"""Causes of the Slurm states of a job that ended without an end mark; every other state is a failure of the node.

So is CANCELLED: a controller that crashed and forgot that a job runs starts it again, the node refuses the second copy,
and both are cancelled. That looks like ``scancel`` by hand; ``cancel`` of the launcher records what is meant.
"""
OLD_NAME = re.compile(r"rlpath-[0-9a-f]{40}")
"""Names that rlpath 0.2 gave to jobs: the same in every campaign with the same structures and settings."""
STUCK = re.compile(
    r"held|PartitionTimeLimit|PartitionNodeLimit|PartitionDown|PartitionInactive|BadConstraints|DependencyNever"
    r"|MinutesLimit|MaxWall|Invalid(Account|QOS)|NotAllowed|ReqNodeNotAvail",
    re.IGNORECASE,
)
"""Reasons for which a job waits until somebody does something about it."""


class SlurmOptions(Section):
    """The header of a job, and the launcher's time limits."""

    partition: str | None = None
    """The partition of the job."""
    account: str | None = None
    """The account that the job is charged to."""
    qos: str | None = None
    """The quality of service of the job."""
    constraint: str | None = None
    """Features that the nodes must have."""
    nodes: int | None = Field(None, ge=1)
    """The number of nodes of one calculation."""
    tasks: int = Field(1, ge=1)
    """MPI ranks of one calculation; each has `threads` cores."""
    extra: list[str] = []
    """More lines of the header, such as '#SBATCH --reservation=x'."""
    header: str | None = None
    """The whole header in place of qtoolkit's, with $${job_name}, $${time}, $${array}, $${ntasks}, $${cpus_per_task},
    ...; a line whose name has no value is left out."""
    setup: list[str] = []
    """Shell lines that run before the calculation, such as `module load vasp`."""
    array_size: int = Field(200, ge=1)
    """The largest number of calculations in one job array; 1 submits a job for each."""
    poll_seconds: float = Field(10.0, gt=0)
    """Seconds between two queries of the scheduler."""
    margin_seconds: float = Field(60.0, ge=0)
    """Seconds by which the time limit of the job exceeds that of the calculation."""
    grace_seconds: float = Field(60.0, ge=0)
    """A job that the scheduler does not know and that left no end mark counts as lost after this time, in seconds."""
    outage_seconds: float = Field(900.0, ge=0)
    """How long, in seconds, a scheduler that does not answer is waited for."""

    @field_validator("extra")
    @classmethod
    def _leaves_the_job_ours(cls, extra: list[str]) -> list[str]:
        for word in options_of("\n".join(extra)):
            if re.match(r"--(job-name|array|wait|test-only)\b|-[JaW]", word):
                raise ValueError(f"{word}: rlpath sets the job's name and its array, and does not wait in sbatch")
        return extra

    @field_validator("header")
    @classmethod
    def _names_what_is_needed(cls, header: str | None) -> str | None:
        if header is not None:
            missing = {"job_name", "time", "array"} - set(QTemplate(header).get_identifiers())
            if missing:
                raise ValueError(f"the header must say {', '.join(f'$${{{name}}}' for name in sorted(missing))}")
        return header


@dataclass
class _Watched:
    submission: Submission
    job: str
    """The job's name in the scheduler."""
    index: int | None
    """Its place in the array."""
    started: bool = False


class SlurmLauncher(Launcher):
    Options: ClassVar[type[Section]] = SlurmOptions
    detached: ClassVar[bool] = True

    def prepare(self) -> None:
        self._io = SlurmIO()
        if self.options.header is not None:
            self._io.header_template = self.options.header
        self._slurm = SlurmCommands(clusters_of([self.options.header or "", *self.options.extra]))
        self._watched: dict[str, _Watched] = {}
        self._over: dict[tuple[str, int | None], float] = {}
        """Jobs that have an end mark, and since when: their places in the scheduler's queue."""
        self._refused: list[Event] = []
        """Ends of what the scheduler did not take."""
        self._said: set[str] = set()
        self._spools: set[str] = set()
        """Where jobs are submitted, of all submissions that this launcher has been asked about."""
        self._polled = float("-inf")

    @property
    def cores(self) -> int:
        return int(self.threads * self.options.tasks)

    # Submitting

    def submit(self, submissions: Sequence[Submission]) -> dict[str, str]:
        groups: dict[tuple[float, int | None], list[Submission]] = {}
        for submission in submissions:
            groups.setdefault((self.wall_of(submission), self.memory_of(submission)), []).append(submission)
        size = self.options.array_size
        out: dict[str, str] = {}
        for group in groups.values():
            for start in range(0, len(group), size):
                out |= self._submit_array(group[start : start + size])
        return out

    def _submit_array(self, submissions: list[Submission]) -> dict[str, str]:
        spool = self._spool_of(submissions)
        if "\n" in str(spool):
            raise InputError("a path with a line break cannot be submitted to Slurm", spool)
        spool.mkdir(parents=True, exist_ok=True)
        job = f"rlpath-{hashlib.sha256(str(spool.resolve()).encode()).hexdigest()[:8]}-{secrets.token_hex(12)}"
        scripts = [
            script.write_script(submission, self.wall_of(submission), self.threads) for submission in submissions
        ]
        with atomic_write(spool / f"{job}.tasks") as stream:
            stream.writelines(f"{path}\n" for path in scripts)
        with atomic_write(spool / f"{job}.sh") as stream:
            stream.write(self._script(job, submissions, spool))
        array = len(submissions) > 1
        for n, submission in enumerate(submissions, start=1):
            announcement = {"job": job, "index": n if array else None, "times": times(submission) + 1}
            write_json(submission_of(submission), announcement | {"spool": str(spool)})
            faultpoint(Step.ANNOUNCED)
        faultpoint(Step.SUBMITTING)
        try:
            number = self._sbatch(job, spool)
        except SchedulerError as error:
            if not all(self._beyond_config(submission) for submission in submissions):
                raise InputError(f"sbatch refused the job: {error.message}", spool / f"{job}.sh", error.key) from error
            for submission in submissions:
                cause: Cause = "memory" if submission.wall_seconds is None else "wall"
                reason = f"sbatch refused another attempt with more: {error.message}"
                self._refused += [Event(submission.name, "started"), Event(submission.name, "ended", reason, cause)]
            return {submission.name: "" for submission in submissions}
        self._watched |= {
            submission.name: _Watched(submission, job, n if array else None)
            for n, submission in enumerate(submissions, start=1)
        }
        return {
            submission.name: f"{number}_{n}" if number and array else number
            for n, submission in enumerate(submissions, start=1)
        }

    def _spool_of(self, submissions: Sequence[Submission]) -> Path:
        spools = {submission.folder.parent / SPOOL for submission in submissions}
        self._spools |= {str(spool.resolve()) for spool in spools}
        return submissions[0].folder.parent / SPOOL

    def _sbatch(self, job: str, spool: Path) -> str:
        """Submit until the scheduler takes the job; returns its number. Raises SchedulerError for a refusal."""
        until = time.monotonic() + self.options.outage_seconds
        while True:
            try:
                with self._submitting(spool) as lock:
                    return self._slurm.sbatch(spool / f"{job}.sh", lock)
            except SchedulerError as error:
                if not error.transient:
                    raise
                self._wait_for("sbatch", error, until)
            # It may have taken the job and lost its voice: ask before submitting again.
            taken = next((known for (name, _), known in self._queue().items() if name == job), None)
            if taken is not None:
                return taken.number.partition("_")[0]

    def _beyond_config(self, submission: Submission) -> bool:
        """Whether it is another attempt with more time or memory than the config says, which may be too much here."""
        return submission.attempt > 1 and not (submission.wall_seconds is None and submission.memory_mb is None)

    def _wait_for(self, command: str, error: SchedulerError, until: float) -> None:
        """Sleep before the scheduler is asked again. Raises TransientError if the time for that is over."""
        seconds, o = until - time.monotonic(), self.options
        if seconds <= 0:
            raise TransientError(f"{command} failed for {o.outage_seconds:g} s: {error.message}") from error
        self._say(
            error.message,
            f"Slurm: {command} failed ({error.message}); tried again every {o.poll_seconds:g} s"
            f" for at most {o.outage_seconds:g} s",
        )
        time.sleep(min(o.poll_seconds, seconds))

    def _say(self, what: str, line: str) -> None:
        if what not in self._said:
            self._said.add(what)
            log.info(line)

    def _script(self, job: str, submissions: list[Submission], spool: Path) -> str:
        o, memory = self.options, self.memory_of(submissions[0])
        throttle = f"%{self.workers}" if self.workers else ""
        array = len(submissions) > 1
        place, output = ("${SLURM_ARRAY_TASK_ID}", f"{job}.%a.log") if array else ("1", f"{job}.log")
        # Slurm expands % in the whole path of an output, and drops backslashes: then the job opens its own file.
        plain = not {"%", "\\"} & set(str(spool.resolve()))
        header = {
            "job_name": job,
            "partition": o.partition,
            "account": o.account,
            "qos": o.qos,
            "constraint": o.constraint,
            "nodes": o.nodes,
            "ntasks": o.tasks,
            "cpus_per_task": self.threads,
            "mem_per_cpu": None if memory is None else f"{-(-memory // self.cores)}M",
            "time": SlurmIO._convert_time_to_str(round(self.wall_of(submissions[0]) + o.margin_seconds) + 1),
            "array": f"1-{len(submissions)}{throttle}" if array else None,
            "qout_path": output if plain else "/dev/null",
            # What becomes of a job is decided here: a job that Slurm requeues by itself would not be counted.
            "qverbatim": "\n".join(["#SBATCH --no-requeue", *o.extra]),
        }
        known = QTemplate(self._io.header_template).get_identifiers()
        tasks = shlex.quote(str(spool / f"{job}.tasks"))
        commands = [
            f"cd {shlex.quote(str(spool))}",
            *([] if plain else [f"exec > {output.replace('%a', place)} 2>&1"]),
            *o.setup,
            f'exec bash "$(sed -n "{place}p" {tasks})"',
        ]
        return self._io.get_submission_script(
            commands, {name: value for name, value in header.items() if value is not None and name in known}
        )

    @contextmanager
    def _submitting(self, spool: Path) -> Iterator[IO[str]]:
        spool.mkdir(parents=True, exist_ok=True)
        with open(spool / LOCK, "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # given back by the last process that has it: ours, or sbatch
            yield lock

    # Watching

    def find(self, submissions: Sequence[Submission]) -> dict[str, str]:
        if not submissions:
            return {}
        with self._submitting(self._spool_of(submissions)):
            pass  # every submission in flight has arrived
        queue = self._queue()
        found: dict[str, str] = {}
        for submission in submissions:
            place = announced(submission)
            if place is None:
                continue
            known = queue.get(place)
            begun = script.claim_of(submission).exists() or script.ended_of(submission).exists()
            if begun or known is not None:
                found[submission.name] = "" if known is None else known.number
                self._watched[submission.name] = _Watched(submission, *place)
        return found

    def reasons(self, submissions: Sequence[Submission]) -> dict[str, str]:
        places = {place: s.name for s in submissions if (place := announced(s)) is not None}
        if not places:
            return {}
        self._spool_of(submissions)
        queue = self._queue(patient=False)
        return {name: queue[place].reason for place, name in places.items() if place in queue and queue[place].waiting}

    def wait(self, timeout: float) -> list[Event]:
        until = time.monotonic() + timeout
        while True:
            events, self._refused = self._refused + self._ended(), []
            if self._watched and time.monotonic() >= self._polled + self.options.poll_seconds:
                events += self._poll()
                self._polled = time.monotonic()
            left = until - time.monotonic()
            if events or not self._watched or left <= 0:
                return events
            time.sleep(min(left, 0.2 * self.options.poll_seconds))

    def _ended(self) -> list[Event]:
        """Jobs that have an end mark."""
        events: list[Event] = []
        for name, watched in list(self._watched.items()):
            end = script.end_of(watched.submission, self.wall_of(watched.submission))
            if end is not None:
                events += self._end(name, end)
        return events

    def _end(self, name: str, end: Event) -> list[Event]:
        watched = self._watched.pop(name)
        self._over[watched.job, watched.index] = time.monotonic()
        return [end] if watched.started else [Event(name, "started"), end]

    def _poll(self) -> list[Event]:
        queue = self._queue()
        events: list[Event] = []
        lost: list[Submission] = []
        for name, watched in list(self._watched.items()):
            job = queue.get((watched.job, watched.index))
            if job is not None and not job.ended:
                missing_of(watched.submission).unlink(missing_ok=True)
                if job.running and not watched.started:
                    watched.started = True
                    events.append(Event(name, "started"))
            elif not script.is_locked(watched.submission.folder) and self._gone(watched.submission):
                end = script.end_of(watched.submission, self.wall_of(watched.submission))
                if end is not None:
                    events += self._end(name, end)
                elif (
                    job is None
                    and not script.claim_of(watched.submission).exists()
                    and times(watched.submission) < LOST
                ):
                    lost.append(watched.submission)
                else:
                    events += self._end(name, self._died(watched, job))
        if lost:  # never begun: its attempt is still to be had
            self.submit(lost)
        self._clear(queue)
        self._say_what_is_odd([queue[key] for w in self._watched.values() if (key := (w.job, w.index)) in queue])
        return events

    def _say_what_is_odd(self, jobs: Sequence[SlurmJob]) -> None:
        """Jobs that wait for more than their turn, and states that nobody knows."""
        for reason, count in Counter(job.reason for job in jobs if job.waiting and STUCK.search(job.reason)).items():
            self._say(reason, f"Slurm: jobs wait, {count} of them for the reason {reason}")
        for state in {job.state for job in jobs if job.known_state is None and not job.waiting}:
            self._say(state, f"Slurm: a job is in the state {state}, which is unknown here; it counts as alive")

    def _clear(self, queue: dict[tuple[str, int | None], SlurmJob]) -> None:
        """Cancel jobs that ended long ago but that the scheduler, after a crash, still holds: they occupy cores."""
        late = time.monotonic() - self.options.grace_seconds
        held = {key: queue[key] for key in self._over if key in queue and not queue[key].ended}
        ghosts = [key for key in held if self._over[key] < late]
        if ghosts:
            self._scancel([held[key] for key in ghosts])
        self._over = {key: self._over[key] for key in held if key not in ghosts}

    def _gone(self, submission: Submission) -> bool:
        """Whether the submission has been without job and end mark for the grace; other machines' files come late."""
        mark = missing_of(submission)
        try:
            if time.time() < mark.stat().st_mtime + self.options.grace_seconds:
                return False
            mark.unlink()
        except FileNotFoundError:
            mark.touch()
            now = time.time()
            os.utime(mark, (now, now))  # by our clock, whatever that of the file server says
            return self.options.grace_seconds == 0
        return True

    def _died(self, watched: _Watched, job: SlurmJob | None) -> Event:
        index = "" if watched.index is None else f".{watched.index}"
        printed = script.last_line(watched.submission.folder.parent / SPOOL / f"{watched.job}{index}.log")
        if job is None:
            cause: Cause = "node"
            reason = "the scheduler no longer knows the job, and it left no end mark"
        else:
            cause = CAUSES.get(job.state, "disk" if script.is_full(printed) else "node")
            reason = f"job {job.number} ended as {job.state} without an end mark"
        seconds = None if job is None else job.seconds
        return Event(watched.submission.name, "ended", f"{reason}{': ' + printed if printed else ''}", cause, seconds)

    def _queue(self, patient: bool = True) -> dict[tuple[str, int | None], SlurmJob]:
        """Our jobs that the scheduler has, or had lately, in one call; by name and place in the array.

        An outage of the scheduler is waited for if ``patient``. Raises TransientError.
        """
        until = time.monotonic() + (self.options.outage_seconds if patient else 0.0)
        while True:
            try:
                jobs = self._slurm.squeue()
                break
            except SchedulerError as error:
                if not patient:
                    raise TransientError(f"squeue failed: {error.message}") from error
                self._wait_for("squeue", error, until)
        faultpoint(Step.POLLED)
        out: dict[tuple[str, int | None], SlurmJob] = {}
        for job in jobs:
            if OLD_NAME.fullmatch(job.name) and str(Path(job.folder).resolve()) not in self._spools:
                continue  # another campaign's
            key = job.name, job.index
            if key not in out or not job.ended:  # of two of one name, the one that still lives
                out[key] = job
        return out

    def cancel(self, names: Iterable[str]) -> None:
        mine = [self._watched[name] for name in names if name in self._watched]
        if not mine:
            return
        for watched in mine:
            script.take_claim(watched.submission, "cancelled")  # a job that has not begun never will
        queue = self._queue()
        jobs = [queue[key] for watched in mine if (key := (watched.job, watched.index)) in queue]
        self._scancel([job for job in jobs if not job.ended])
        for watched in mine:
            del self._watched[watched.submission.name]

    def _scancel(self, jobs: Sequence[SlurmJob]) -> None:
        until = time.monotonic() + self.options.outage_seconds
        while True:
            try:
                return self._slurm.scancel(jobs)
            except SchedulerError as error:
                self._wait_for("scancel", error, until)

    def close(self) -> None:
        self._watched.clear()
        self._over.clear()

"""Launcher ``slurm``: jobs and job arrays of a Slurm cluster, through qtoolkit.

Nothing runs beside the scheduler: a login node submits, and any later process collects. The job
folders hold what a process must know of earlier ones, and jobs are looked up by name, never by id: a controller that
dies just after it has accepted a job may lose it and give its id to another.

``submission.<attempt>.json``  written before the job is submitted: its name in the scheduler and its array index
``missing.<attempt>``          since when the scheduler has not known a job that left no end mark

A submission whose process was killed may still be in flight; ``sbatch`` itself holds its lock, so that a look-up of the
job waits until it has arrived. https://matgenix.github.io/qtoolkit/, https://slurm.schedmd.com/job_array.html
"""

from __future__ import annotations

import fcntl
import getpass
import hashlib
import json
import shlex
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

from pydantic import Field, field_validator
from qtoolkit.core.data_objects import QJob, QState, SubmissionStatus
from qtoolkit.core.exceptions import CommandFailedError, OutputParsingError
from qtoolkit.host.local import LocalHost
from qtoolkit.io.base import QTemplate
from qtoolkit.io.slurm import SlurmIO, SlurmState
from qtoolkit.manager import QueueManager

from rlpath_core.config import Section
from rlpath_core.dft.faultpoints import Step, faultpoint
from rlpath_core.dft.launchers import script
from rlpath_core.dft.launchers.base import Cause, Event, Launcher, Submission
from rlpath_core.errors import InputError, TransientError
from rlpath_core.files import atomic_write, write_json

SPOOL, LOCK = "scheduler", ".submitting.lock"
COMMAND_SECONDS = 120
LOST = 10
"""How often the scheduler may lose one submission before it counts as failed."""
ALIVE = (QState.QUEUED, QState.QUEUED_HELD, QState.REQUEUED, QState.REQUEUED_HELD, QState.RUNNING, QState.SUSPENDED)
CAUSES: dict[SlurmState, Cause] = {
    SlurmState.TIMEOUT: "wall",
    SlurmState.OUT_OF_MEMORY: "memory",
    SlurmState.DEADLINE: "cancelled",
}
"""Causes of the Slurm states of a job that ended without an end mark; every other state is a failure of the node.

So is CANCELLED: a controller that crashed and forgot that a job runs starts it again, the node refuses the second copy,
and both are cancelled. That looks like ``scancel`` by hand; ``cancel`` of the launcher records what is meant.
"""
TRANSIENT = (
    "unable to contact",
    "timed out",
    "connection refused",
    "connection reset",
    "zero bytes",
    "temporarily",
    "communication",
    "transport endpoint",
    "limit",  # of jobs in the queue
)
"""Parts of sbatch's messages after which the same submission may succeed later."""


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

    @field_validator("header")
    @classmethod
    def _names_what_is_needed(cls, header: str | None) -> str | None:
        if header is not None:
            missing = {"job_name", "time", "array"} - set(QTemplate(header).get_identifiers())
            if missing:
                raise ValueError(f"the header must say {', '.join(f'$${{{name}}}' for name in sorted(missing))}")
        return header


class _Slurm(SlurmIO):
    """As qtoolkit's, with jobs that have ended lately, and each element of an array on its own line."""

    def _get_jobs_list_cmd(self, job_ids: list[str] | None = None, user: str | None = None) -> str:
        return f"{super()._get_jobs_list_cmd(job_ids, user)} --states=all --array"


class _Host(LocalHost):
    """This machine. Commands have a time limit, and inherit the submission lock while it is held."""

    lock: IO[str] | None = None

    def execute(self, command: str | list[str], workdir: str | Path | None = None) -> tuple[str, str, int]:
        words = ["timeout", "-k", "5", str(COMMAND_SECONDS), "sh", "-c", str(command)]
        inherited = () if self.lock is None else (self.lock.fileno(),)
        done = subprocess.run(words, capture_output=True, text=True, cwd=workdir, pass_fds=inherited)
        return done.stdout, done.stderr, done.returncode


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
        io = _Slurm()
        if self.options.header is not None:
            io.header_template = self.options.header
        self._host = _Host()
        self._manager = QueueManager(io, self._host)
        self._watched: dict[str, _Watched] = {}
        self._over: dict[tuple[str, int | None], float] = {}
        """Jobs that have an end mark, and since when: their places in the scheduler's queue."""
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
        names = "".join(submission.name for submission in submissions)
        job = f"rlpath-{hashlib.sha256(names.encode()).hexdigest()[:40]}"
        spool = submissions[0].folder.parent / SPOOL
        spool.mkdir(parents=True, exist_ok=True)
        scripts = [
            script.write_script(submission, self.wall_of(submission), self.threads) for submission in submissions
        ]
        with atomic_write(spool / f"{job}.tasks") as stream:
            stream.writelines(f"{path}\n" for path in scripts)
        for n, submission in enumerate(submissions, start=1):
            times = _times(submission) + 1
            write_json(
                _submission_of(submission), {"job": job, "index": n if len(submissions) > 1 else None, "times": times}
            )
            faultpoint(Step.ANNOUNCED)
        place = '"${SLURM_ARRAY_TASK_ID:-1}p"'
        commands = [
            *self.options.setup,
            f'exec bash "$(sed -n {place} {shlex.quote(str(spool / f"{job}.tasks"))})"',
        ]
        faultpoint(Step.SUBMITTING)
        until = time.monotonic() + self.options.outage_seconds
        while True:
            with self._submitting(spool):
                result = self._manager.submit(
                    commands, self._header(job, submissions, spool), work_dir=spool, script_fname=f"{job}.sh"
                )
            if result.status == SubmissionStatus.SUCCESSFUL:
                break
            message = str(result.stderr or result.stdout or "").strip()
            if result.exit_code not in (0, 124, 137) and not any(word in message.lower() for word in TRANSIENT):
                raise InputError(f"sbatch refused the job: {message}", spool / f"{job}.sh", "launcher_options")
            if time.monotonic() >= until:
                raise TransientError(f"sbatch does not take the job: {message}")
            time.sleep(min(self.options.poll_seconds, max(0.0, until - time.monotonic())))
            # It may have taken the job and lost its voice: ask before submitting again.
            if any(key[0] == job for key in self._queue()):
                break
        self._watched |= {
            submission.name: _Watched(submission, job, n if len(submissions) > 1 else None)
            for n, submission in enumerate(submissions, start=1)
        }
        number = str(result.job_id or "")
        return {
            submission.name: f"{number}_{n}" if len(submissions) > 1 else number
            for n, submission in enumerate(submissions, start=1)
        }

    def _header(self, job: str, submissions: list[Submission], spool: Path) -> dict[str, Any]:
        o, memory = self.options, self.memory_of(submissions[0])
        throttle = f"%{self.workers}" if self.workers else ""
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
            "array": f"1-{len(submissions)}{throttle}" if len(submissions) > 1 else None,
            "qout_path": shlex.quote(str(spool / (f"{job}.%a.log" if len(submissions) > 1 else f"{job}.log"))),
            # What becomes of a job is decided here: a job that Slurm requeues by itself would not be counted.
            "qverbatim": "\n".join(["#SBATCH --no-requeue", *o.extra]),
        }
        known = QTemplate(self._manager.scheduler_io.header_template).get_identifiers()
        return {name: value for name, value in header.items() if value is not None and name in known}

    @contextmanager
    def _submitting(self, spool: Path) -> Iterator[None]:
        spool.mkdir(parents=True, exist_ok=True)
        with open(spool / LOCK, "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # given back by the last process that has it: ours, or sbatch
            self._host.lock = lock
            try:
                yield
            finally:
                self._host.lock = None

    # Watching

    def find(self, submissions: Sequence[Submission]) -> dict[str, str]:
        if not submissions:
            return {}
        with self._submitting(submissions[0].folder.parent / SPOOL):
            pass  # every submission in flight has arrived
        queue = self._queue()
        found: dict[str, str] = {}
        for submission in submissions:
            announced = _announced(submission)
            if announced is None:
                continue
            known = queue.get(announced)
            begun = script.claim_of(submission).exists() or script.ended_of(submission).exists()
            if begun or known is not None:
                found[submission.name] = "" if known is None else str(known.job_id)
                self._watched[submission.name] = _Watched(submission, *announced)
        return found

    def wait(self, timeout: float) -> list[Event]:
        until = time.monotonic() + timeout
        while True:
            events = self._ended()
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
            if job is not None and job.state in ALIVE:
                _missing_of(watched.submission).unlink(missing_ok=True)
                if job.state == QState.RUNNING and not watched.started:
                    watched.started = True
                    events.append(Event(name, "started"))
            elif not script.is_locked(watched.submission.folder) and self._gone(watched.submission):
                end = script.end_of(watched.submission, self.wall_of(watched.submission))
                if end is not None:
                    events += self._end(name, end)
                elif (
                    job is None
                    and not script.claim_of(watched.submission).exists()
                    and _times(watched.submission) < LOST
                ):
                    lost.append(watched.submission)
                else:
                    events += self._end(name, self._died(watched, job))
        if lost:  # never begun: its attempt is still to be had
            self.submit(lost)
        self._clear(queue)
        return events

    def _clear(self, queue: dict[tuple[str, int | None], QJob]) -> None:
        """Cancel jobs that ended long ago but that the scheduler, after a crash, still holds: they occupy cores."""
        late = time.monotonic() - self.options.grace_seconds
        held = {key: queue[key] for key in self._over if key in queue and queue[key].state in ALIVE}
        ghosts = [key for key in held if self._over[key] < late]
        self._cancel([held[key] for key in ghosts])
        self._over = {key: self._over[key] for key in held if key not in ghosts}

    def _gone(self, submission: Submission) -> bool:
        """Whether the submission has been without job and end mark for the grace; other machines' files come late."""
        mark = _missing_of(submission)
        try:
            if time.time() < mark.stat().st_mtime + self.options.grace_seconds:
                return False
            mark.unlink()
        except FileNotFoundError:
            mark.touch()
            return self.options.grace_seconds == 0
        return True

    def _died(self, watched: _Watched, job: QJob | None) -> Event:
        index = "" if watched.index is None else f".{watched.index}"
        printed = script.last_line(watched.submission.folder.parent / SPOOL / f"{watched.job}{index}.log")
        if job is None:
            cause: Cause = "node"
            reason = "the scheduler no longer knows the job, and it left no end mark"
        else:
            state = job.sub_state
            cause = CAUSES.get(state, "disk" if script.FULL in printed else "node")  # type: ignore[arg-type]
            reason = f"job {job.job_id} ended as {state.name if state else job.state} without an end mark"
        seconds = None if job is None or job.runtime is None else float(job.runtime)
        return Event(watched.submission.name, "ended", f"{reason}{': ' + printed if printed else ''}", cause, seconds)

    def _queue(self) -> dict[tuple[str, int | None], QJob]:
        """Our jobs that the scheduler has, or had lately, in one call; by name and place in the array."""
        until = time.monotonic() + self.options.outage_seconds
        while True:
            try:
                jobs = self._manager.get_jobs_list(user=getpass.getuser())
                break
            except (CommandFailedError, OutputParsingError) as error:
                if time.monotonic() >= until:
                    raise TransientError(f"the scheduler does not answer: {error}") from error
            time.sleep(min(self.options.poll_seconds, max(0.0, until - time.monotonic())))
        faultpoint(Step.POLLED)
        out: dict[tuple[str, int | None], QJob] = {}
        for job in jobs:
            _, _, element = str(job.job_id).partition("_")
            key = str(job.name), int(element) if element.isdigit() else None
            if key not in out or job.state in ALIVE:  # of two of one name, the one that still lives
                out[key] = job
        return out

    def cancel(self, names: Iterable[str]) -> None:
        mine = [self._watched.pop(name) for name in names if name in self._watched]
        if not mine:
            return
        for watched in mine:
            script.take_claim(watched.submission, "cancelled")  # a job that has not begun never will
        queue = self._queue()
        jobs = [queue[key] for watched in mine if (key := (watched.job, watched.index)) in queue]
        self._cancel([job for job in jobs if job.state in ALIVE])

    def _cancel(self, jobs: Sequence[QJob]) -> None:
        ids = [str(job.job_id) for job in jobs]
        for start in range(0, len(ids), 500):
            self._host.execute(f"{self._manager.scheduler_io.CANCEL_CMD} {' '.join(ids[start : start + 500])}")

    def close(self) -> None:
        self._watched.clear()
        self._over.clear()


def _submission_of(submission: Submission) -> Path:
    return submission.folder / f"submission.{submission.attempt}.json"


def _missing_of(submission: Submission) -> Path:
    return submission.folder / f"missing.{submission.attempt}"


def _announced(submission: Submission) -> tuple[str, int | None] | None:
    """The job name and array index under which an earlier process meant to submit it."""
    try:
        value = json.loads(_submission_of(submission).read_text(encoding="utf-8"))
        return str(value["job"]), value["index"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"cannot be read ({error}); remove it if no such job is queued", _submission_of(submission)
        ) from error


def _times(submission: Submission) -> int:
    """How often the attempt was submitted: more than once if the scheduler lost it before it began."""
    try:
        return int(json.loads(_submission_of(submission).read_text(encoding="utf-8"))["times"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0

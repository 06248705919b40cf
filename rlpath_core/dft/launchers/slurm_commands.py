"""``sbatch``, ``squeue`` and ``scancel``: what is asked of them, in which environment, and what their answers mean.

Only jobs of the user that this process really runs as are asked for, whatever LOGNAME says, and no variable of the
shell or of a Slurm job around us changes what a command does: https://slurm.schedmd.com/sbatch.html, "Input environment
variables". What the job script says is repeated on the command line of ``sbatch``, because variables such as
SBATCH_TIMELIMIT override the lines of a script, but not the command line.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import IO

from qtoolkit.core.data_objects import QState
from qtoolkit.core.exceptions import OutputParsingError
from qtoolkit.io.slurm import SlurmIO, SlurmState

from rlpath_core.errors import InputError

log = logging.getLogger("rlpath.dft")

COMMAND_SECONDS = 120
OUT_OF_TIME = (124, 137)
"""Exit codes of ``timeout``, which every command runs under."""
FORMAT = "%i|%T|%M|%j|%r|%Z"
"""Number, state, time used, name, reason, working folder; only the last may have the separator in it."""
WAITING = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT")
ELSEWHERE = "REVOKED"
"""Of a federation's job: another cluster has it."""

OF_A_JOB = re.compile(
    r"(SLURM_|SLURMD_|SRUN_|SBATCH_CPU_BIND|SBATCH_MEM_BIND|PMI_|PMI2_|PMIX_(?!MCA_)|OMPI_COMM_WORLD_|MPI_LOCAL)"
)
"""Variables that describe the Slurm job and the MPI rank that this process may run in."""
OF_THE_USER = frozenset(
    [
        "SLURM_CONF",
        "SLURM_CONF_SERVER",
        "SLURM_JWT",
        "SLURM_CLUSTERS",
        "SLURM_DEBUG_FLAGS",
        "SLURM_HINT",
        "SLURM_MPI_TYPE",
    ]
)
"""Exceptions: settings of the client, which no job sets to something of its own."""
NOT_FOR_SBATCH = frozenset({"SBATCH_ARRAY_INX", "SBATCH_WAIT", "SBATCH_JOB_NAME"})
"""Variables with which ``sbatch`` would submit something else, or would not return."""

TRANSIENT = re.compile(
    r"unable to contact|timed out|connection (refused|reset|failure)|zero bytes|temporarily|communication"
    r"|transport endpoint|authentication|munge|i/o error writing|inactive or drained|slurm backup controller",
    re.IGNORECASE,
)
"""Messages of ``sbatch`` after which the same submission may succeed later."""
TOO_MANY = re.compile(r"(max|grp)_?submit", re.IGNORECASE)
"""Names of limits on the number of jobs."""
POLICY = re.compile(r"job violates accounting[^;]*", re.IGNORECASE)
"""What ``sbatch`` says of every limit of an account; versions differ in whether another line names the limit."""
NAMED_LIMIT = re.compile(r"\b(QOS|Assoc)[A-Z]\w+")
REFUSED = (
    (r"time limit|wall", "wall_seconds"),
    (r"array", "launcher_options.array_size"),
    (r"account|minuteslimit", "launcher_options.account"),
    (r"invalid qos|qos specification", "launcher_options.qos"),
    (r"partition", "launcher_options.partition"),
    (r"feature", "launcher_options.constraint"),
    (r"\bmem|memory", "memory_mb"),
    (r"node count|maxnode", "launcher_options.nodes"),
    (r"cpu|processors|node configuration|task", "threads, memory_mb, launcher_options.tasks"),
)
"""What a refusal is about, by words of its message, and the key of the section ``dft`` that sets it."""


class SchedulerError(Exception):
    """A command failed; ``transient`` if it may succeed later, ``key`` is what sets the value that was refused."""

    def __init__(self, message: str, transient: bool = True, key: str = "launcher_options") -> None:
        super().__init__(message)
        self.message, self.transient, self.key = message, transient, key


@dataclass(frozen=True)
class SlurmJob:
    """A job, or an element of an array, as ``squeue`` lists it.

    number   the scheduler's id, such as 12 or 12_3
    state    in Slurm's words
    seconds  how long it has run; None if Slurm does not say
    reason   why it waits, or how it ended, in Slurm's words
    folder   where it was submitted
    """

    number: str
    state: str
    seconds: float | None
    name: str
    reason: str
    folder: str

    @property
    def index(self) -> int | None:
        """Its place in the array."""
        element = self.number.partition("_")[2]
        return int(element) if element.isdigit() else None

    @property
    def known_state(self) -> SlurmState | None:
        """The state, if qtoolkit knows it; versions of Slurm differ in those that they have."""
        try:
            return SlurmState(self.state)
        except ValueError:
            return None

    @property
    def ended(self) -> bool:
        """Whether it has come to an end. A state that nobody knows is none: the next question tells."""
        state = self.known_state
        over = state is not None and state.qstate in (QState.DONE, QState.FAILED)
        return over and self.state not in (*WAITING, ELSEWHERE)

    @property
    def running(self) -> bool:
        state = self.known_state
        return state is not None and state.qstate == QState.RUNNING

    @property
    def waiting(self) -> bool:
        return self.state in WAITING


class SlurmCommands:
    """Slurm's commands for this user.

    clusters  names for ``--clusters``; None: that of the environment, or the one of this machine
    """

    def __init__(self, clusters: str | None = None) -> None:
        self.clusters = clusters or os.environ.get("SBATCH_CLUSTERS") or os.environ.get("SLURM_CLUSTERS")
        self._said: set[str] = set()

    def sbatch(self, script: Path, lock: IO[str]) -> str:
        """Submit a script from its folder; the job's number, empty if ``sbatch`` does not name it.

        ``sbatch`` inherits ``lock``, an open file. Raises SchedulerError.
        """
        self._say_environment()
        words = ["sbatch", "--parsable", *options_of(script.read_text(encoding="utf-8")), script.name]
        done = self._run(words, cwd=script.parent, pass_fds=(lock.fileno(),))
        if done.returncode == 0:
            return _number_in(done.stdout)
        message = _words_of(done)
        if done.returncode in OUT_OF_TIME or TRANSIENT.search(message):
            raise SchedulerError(message)
        if TOO_MANY.search(message) or (POLICY.search(message) and not NAMED_LIMIT.search(message)):
            # Jobs that end make room, if there are any; what is too many alone never fits.
            room = any(not job.ended for job in self.squeue())
            key = "launcher_options.array_size" if TOO_MANY.search(message) else "wall_seconds, launcher_options"
            raise SchedulerError(message, room, key)
        raise SchedulerError(message, False, _key_of(message))

    def squeue(self) -> list[SlurmJob]:
        """All jobs of the user that the scheduler has, or had lately. Raises SchedulerError."""
        words = ["squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", f"--format={FORMAT}"]
        done = self._run([*words, *self._of_clusters()])
        if done.returncode or TRANSIENT.search(done.stderr):  # half a list would make jobs of ours look lost
            raise SchedulerError(_words_of(done))
        jobs = []
        for line in done.stdout.splitlines():
            fields = [field.strip() for field in line.split("|", FORMAT.count("|"))]
            if len(fields) == FORMAT.count("|") + 1:
                number, state, used, name, reason, folder = fields
                jobs.append(SlurmJob(number, state, _seconds(used), name, reason, folder))
        return jobs

    def scancel(self, jobs: Sequence[SlurmJob]) -> None:
        """End jobs; of those that have ended meanwhile nothing is said. Raises SchedulerError."""
        if self.clusters and "," in self.clusters:  # each has numbers of its own: the name tells which is meant
            groups = {f"--name={job.name}": [other for other in jobs if other.name == job.name] for job in jobs}
        else:
            groups = {"": list(jobs)}
        for name, group in groups.items():
            numbers = [job.number for job in group]
            for start in range(0, len(numbers), 500):
                words = ["scancel", *self._of_clusters(), *([name] if name else []), *numbers[start : start + 500]]
                done = self._run(words)
                said = [line for line in done.stderr.splitlines() if line.strip()]
                if done.returncode and not all(re.search(r"invalid job id|already complet", s, re.I) for s in said):
                    raise SchedulerError(_words_of(done))

    def _of_clusters(self) -> list[str]:
        return [f"--clusters={self.clusters}"] if self.clusters else []

    def _run(
        self, words: list[str], cwd: Path | None = None, pass_fds: Sequence[int] = ()
    ) -> subprocess.CompletedProcess[str]:
        environment = environment_of(words[0])
        if shutil.which(words[0], path=environment.get("PATH")) is None:
            raise InputError(
                f"{words[0]} is not on the PATH: run this where Slurm's commands are, or choose another launcher",
                key="launcher",
            )
        limited = ["timeout", "-k", "5", str(COMMAND_SECONDS), *words]
        return subprocess.run(
            limited, capture_output=True, encoding="utf-8", errors="surrogateescape", env=environment, cwd=cwd,
            stdin=subprocess.DEVNULL, pass_fds=pass_fds,
        )  # fmt: skip

    def _say_environment(self) -> None:
        kept = environment_of("sbatch")
        if "SLURM_JOB_ID" in os.environ:
            self._say(
                f"Slurm: the variables of job {os.environ['SLURM_JOB_ID']}, which this runs in, are not passed on"
            )
        taken = [f"{name}={value}" for name, value in sorted(kept.items()) if name.startswith("SBATCH_")]
        if taken:
            self._say(f"Slurm: where the job script says nothing else, sbatch takes {', '.join(taken)}")

    def _say(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            log.info(line)


def environment_of(command: str) -> dict[str, str]:
    """The variables that one of Slurm's commands is given; those of ``sbatch`` become the job's.

    What describes a job around us is left out (an inherited SLURM_ARRAY_TASK_ID or SLURM_CPU_BIND would rule the new
    one), and so is what would make ``squeue`` hide our jobs, ``scancel`` spare them, or ``sbatch`` submit another.
    The user's own defaults, such as SBATCH_ACCOUNT, stay.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if (not OF_A_JOB.match(name) or name in OF_THE_USER) and name not in NOT_FOR_SBATCH
    }
    if command == "sbatch":
        return kept
    return {n: v for n, v in kept.items() if not n.startswith(("SQUEUE_", "SCANCEL_"))} | {"LC_ALL": "C"}


def options_of(script: str) -> list[str]:
    """The options in a job script's lines ``#SBATCH``, as words of a command line."""
    words: list[str] = []
    for line in takewhile(lambda line: not line.strip() or line.startswith("#"), script.splitlines()):
        rest = line.removeprefix("#SBATCH")
        if rest == line or not rest[:1].isspace():
            continue
        parts = shlex.shlex(rest, posix=True)
        parts.whitespace_split, parts.commenters = True, ""  # Slurm's comments begin a word
        with suppress(ValueError):  # a comment with an apostrophe
            words += takewhile(lambda part: not part.startswith("#"), parts)
    return words


def clusters_of(lines: Sequence[str]) -> str | None:
    """What the lines of a header name with ``--clusters`` or ``-M``."""
    words = options_of("\n".join(line for text in lines for line in text.splitlines() if line.startswith("#SBATCH")))
    for n, word in enumerate(words):
        found = re.fullmatch(r"(?:--clusters?=|-M=?)(\S+)", word)
        if found:
            return found[1]
        if word in ("--clusters", "--cluster", "-M"):
            return words[n + 1] if n + 1 < len(words) else None
    return None


def _number_in(printed: str) -> str:
    """The number of a job in what ``sbatch`` printed; a site's wrapper may print more than that."""
    for line in reversed(printed.splitlines()):
        found = re.fullmatch(r"\s*(\d+)(;\S*)?\s*", line) or re.search(r"Submitted batch job (\d+)", line)
        if found:
            return found[1]
    return ""


def _words_of(done: subprocess.CompletedProcess[str]) -> str:
    """What a failed command said, in one line."""
    if done.returncode in OUT_OF_TIME:
        return f"no answer within {COMMAND_SECONDS} s"
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"\w+: (error|fatal): ", line)]
    said = "; ".join(re.sub(r"^\w+: (error|fatal): ", "", line) for line in errors or lines)
    return said or f"exit code {done.returncode}"


def _key_of(message: str) -> str:
    named = POLICY.sub("", message)
    for pattern, key in REFUSED:
        if re.search(pattern, named, re.IGNORECASE):
            return key
    return "launcher_options"


def _seconds(text: str) -> float | None:
    """Slurm's days-hours:minutes:seconds; None for words such as INVALID."""
    try:
        value = SlurmIO._convert_str_to_time(text)
    except OutputParsingError:
        return None
    return None if value is None else float(value)

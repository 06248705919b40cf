"""The script that runs one submission, on this machine or on a scheduler's node, and the files that it leaves.

``job.<attempt>.sh``         needs bash, coreutils and flock, nothing of rlpath; the locale does not matter
``claim.<attempt>``          created by the first process that begins the attempt; any other ends at once, so that an
                             attempt that was submitted twice still runs once
``runs.log``                 a line for every calculation that began
``ended.<attempt>.json``     written when the command has ended: exit code and seconds

The lock on ``.lock`` is held while the command or anything it started is alive: a later attempt waits for it.
"""

from __future__ import annotations

import fcntl
import re
import shlex
import signal
from pathlib import Path

from rlpath_core.dft.engines.base import OUTPUT, RESULT
from rlpath_core.dft.engines.program_worker import NO_SPACE
from rlpath_core.dft.engines.python_worker import LOCK, LOCKED, RUNS
from rlpath_core.dft.launchers.base import Cause, Event, Submission
from rlpath_core.files import atomic_write
from rlpath_core.process.child import last_line_of

CANNOT_WRITE = 74
KILL_AFTER = 5
FULL = "No space left on device"

CODE = re.compile(r'"exit_code": *(\d+)')
SECONDS = re.compile(r'"seconds": *(\d+(?:[.,]\d+)?)')
"""In an end mark. Scripts of rlpath 0.2 wrote a decimal comma in some locales, and no seconds where awk was missing."""

SCRIPT = """#!/bin/bash
# One attempt at one calculation; written by rlpath, see rlpath_core/dft/launchers/script.py.
cd {folder} || exit {cannot_write}
host=$(uname -n)
now() {{ local up; read -r up _ < /proc/uptime && echo $((10#${{up/./}})) || echo $((100 * SECONDS)); }}  # 0.01 s
full() {{ echo "$1: cannot be written: {full} or quota?" >&2; exit {cannot_write}; }}
if [ -z "${locked}" ]; then
  command -v flock > /dev/null || {{ echo "flock is not installed on $host" >&2; exit 127; }}
  exec 9>>{lock} || full {lock}
  flock 9
fi
if [ -e {result} ] || [ -e {ended} ]; then exit 0; fi
if ! (set -C; echo "$host $$ ${{SLURM_JOB_ID:-}}" > {claim}) 2>/dev/null; then
  [ -s {claim} ] || full {claim}
  exit 0
fi
echo "$(date +%FT%T.%N) attempt {attempt} on $host process $$ ${{SLURM_JOB_ID:+Slurm $SLURM_JOB_ID}}" >> {runs} \
|| full {runs}
export {locked}=1 {exports}
began=$(now)
timeout -k {kill_after} {wall} {command} >> {output} 2>&1 < /dev/null
code=$?
spent=$(($(now) - began))
printf '{{"exit_code": %d, "seconds": %d.%02d, "host": "%s"}}\\n' $code $((spent / 100)) $((spent % 100)) "$host" \
> {ended}.part \
&& mv {ended}.part {ended} || full {ended}
exit $code
"""


def script_of(submission: Submission) -> Path:
    return submission.folder / f"job.{submission.attempt}.sh"


def claim_of(submission: Submission) -> Path:
    return submission.folder / f"claim.{submission.attempt}"


def ended_of(submission: Submission) -> Path:
    return submission.folder / f"ended.{submission.attempt}.json"


def write_script(submission: Submission, wall_seconds: float, threads: int) -> Path:
    """The script of one attempt; safe to repeat."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    text = SCRIPT.format(
        folder=shlex.quote(str(submission.folder)),
        cannot_write=CANNOT_WRITE,
        full=FULL,
        locked=LOCKED,
        lock=LOCK,
        result=RESULT,
        ended=ended_of(submission).name,
        claim=claim_of(submission).name,
        attempt=submission.attempt,
        runs=RUNS,
        exports=" ".join(f"{name}={threads}" for name in names),
        kill_after=KILL_AFTER,
        wall=max(0.001, wall_seconds),
        command=shlex.join(submission.command),
        output=OUTPUT,
    )
    with atomic_write(script_of(submission)) as stream:
        stream.write(text)
    return script_of(submission)


def end_of(submission: Submission, wall_seconds: float) -> Event | None:
    """How the submission ended according to its end mark; None if it has none."""
    path = ended_of(submission)
    try:
        mark = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return Event(submission.name, "ended", f"its end mark cannot be read ({error})", "disk")
    found = CODE.search(mark), SECONDS.search(mark)
    if found[0] is None:
        return Event(submission.name, "ended", f"its end mark cannot be read: {path}", "disk")
    code, seconds = int(found[0][1]), _age(submission) if found[1] is None else float(found[1][1].replace(",", "."))
    if code == 0:
        return Event(submission.name, "ended", seconds=seconds)
    text = last_line(submission.folder / OUTPUT)
    if code in (124, 137) and seconds >= 0.99 * wall_seconds - 0.01:
        return Event(submission.name, "ended", wall_reason(wall_seconds), "wall", seconds)
    return Event(submission.name, "ended", *failed(code, text), seconds)


def _age(submission: Submission) -> float:
    """Seconds between the claim and the end mark, by the clock of their file system."""
    try:
        return max(0.0, ended_of(submission).stat().st_mtime - claim_of(submission).stat().st_mtime)
    except OSError:
        return 0.0


def wall_reason(seconds: float) -> str:
    return f"wall-time limit of {seconds:g} s"


def failed(code: int, text: str) -> tuple[str, Cause]:
    """Reason and cause of an exit code (negative or above 128: a signal); ``text`` is the last line of the output."""
    number = -code if code < 0 else code - 128
    cause: Cause = "disk" if code == CANNOT_WRITE or is_full(text) else "memory" if number == signal.SIGKILL else "exit"
    how = f"exit code {code}"
    if number > 0:
        try:
            how = f"killed by {signal.Signals(number).name}"
        except ValueError:
            cause = "exit"
    if number == signal.SIGKILL:
        how += " (out of memory?)"
    return f"the engine's process ended: {how}{': ' + text if text else ''}", cause


def is_full(text: str) -> bool:
    """Whether a program's message says that there is no room on its disk."""
    return any(words in text for words in NO_SPACE)


def take_claim(submission: Submission, who: str) -> bool:
    """Prevent a submission that has not begun from beginning; False if it has begun."""
    try:
        with open(claim_of(submission), "x", encoding="utf-8") as stream:
            stream.write(who + "\n")
    except FileExistsError:
        return False
    return True


def is_locked(folder: Path) -> bool:
    """Whether a process holds the lock of ``folder``."""
    try:
        with open(folder / LOCK, "a") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # no folder, a full disk: nobody works there
        return False
    return False


def last_line(path: Path) -> str:
    """The last line with anything on it, at most 300 characters; empty if there is none."""
    try:
        with open(path, "rb") as stream:
            stream.seek(max(0, path.stat().st_size - 4096))
            return last_line_of(stream.read())
    except OSError:
        return ""

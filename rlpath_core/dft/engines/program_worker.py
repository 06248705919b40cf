"""Run the program of one job and judge what it did: ``python -m rlpath_core.dft.engines.program_worker FOLDER``.

Never twice: the folder's lock is held while the program runs, and by the program itself, so that it counts even when
this process was killed; a folder that has a ``result.json`` is left alone. A full disk still leaves an answer, for
which a little space is kept back beforehand. The wall-time limit of ``RLPATH_WALL_SECONDS`` is the launcher's to
enforce; it holds here too, a moment later, for the job whose launcher has died.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from rlpath_core.dft.engines.base import OUTPUT, REQUEST, RESULT, Calculation, write_result
from rlpath_core.dft.engines.program import Ended, ProgramEngine, tail
from rlpath_core.dft.engines.python_worker import LOCK, LOCKED, WALL
from rlpath_core.errors import InputError
from rlpath_core.structure import Structure
from rlpath_core.structure.io import from_mapping

RESERVE = ".reserve"
RESERVED = 1 << 18
"""Bytes; room for the result of some thousand atoms."""
NEARLY_FULL = 1 << 20
GRACE = 20.0
"""Seconds that the launcher has before this process enforces the limit itself."""
NO_SPACE = ("No space left on device", "Disk quota exceeded", "disk full")
NO_MEMORY = (
    "Out Of Memory",
    "oom-kill",
    "oom_kill",
    "OOM Killed",
    "Cannot allocate memory",
    "insufficient virtual memory",
)


def main(argv: Sequence[str]) -> int:
    (folder,) = (Path(argument) for argument in argv)
    with held(folder) as locks:
        if (folder / RESULT).exists():
            return 0
        try:
            calculation = calculate(folder, locks)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            calculation = Calculation(False, f"the disk is full: {folder}", "disk")
        request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
        (folder / RESERVE).unlink(missing_ok=True)
        write_result(folder, request["job_id"], request["engine"], calculation)
    return 0


def calculate(folder: Path, locks: tuple[int, ...]) -> Calculation:
    """Run the program in ``folder`` and have its engine judge."""
    from rlpath_core.dft.engines import ENGINES

    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    engine = ENGINES[request["engine"]](request["settings"])
    if not isinstance(engine, ProgramEngine):
        raise InputError(f"engine {request['engine']!r} is no program of its own")
    structure = from_mapping(request["structure"])
    _remove(folder, engine.outputs)
    with open(folder / RESERVE, "wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, RESERVED)
    began = time.monotonic()
    command = engine.program(folder)
    try:
        code = _run(command, folder, engine.log, locks)
    except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
        reason = f"{engine.missing(command[0])} ({socket.gethostname()}: {error.strerror})"
        return Calculation(False, reason)
    calculation = judged(engine, folder, structure, Ended(code, folder / engine.log))
    _remove(folder, engine.scratch)
    evidence = {**calculation.evidence, "exit_code": code, "host": socket.gethostname()}
    return replace(calculation, evidence=evidence, seconds=time.monotonic() - began)


def _run(command: Sequence[str], folder: Path, log_name: str, locks: tuple[int, ...]) -> int:
    """The exit code; negative for a signal. Whatever ends this process ends the program and all that it started."""

    def end(number: int, frame: object) -> None:
        _end_descendants()
        os._exit(128 + number)

    before = signal.signal(signal.SIGTERM, end)  # before there is a program that SIGTERM could leave behind
    limit = float(os.environ.get(WALL, 0))
    try:
        with open(folder / log_name, "wb") as log:
            process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, pass_fds=locks
            )
            return process.wait(limit + GRACE if limit else None)
    except subprocess.TimeoutExpired:
        _end_descendants()
        print(f"wall-time limit of {limit:g} s", file=sys.stderr)
        os._exit(124)
    finally:
        signal.signal(signal.SIGTERM, before)


def judged(engine: ProgramEngine, folder: Path, structure: Structure, ended: Ended) -> Calculation:
    """The engine's word, and where it is not a label, what the machine had to do with it."""
    try:
        calculation = engine.answer(folder, structure, ended)
    except InputError as error:
        calculation = Calculation(False, str(error))
    except Exception as error:  # outputs can be anything, and so can what a parser makes of them
        calculation = Calculation(
            False, f"the output of {engine.name} cannot be read ({type(error).__name__}: {str(error)[:200]})"
        )
    if calculation.converged:
        return calculation
    said = tail(ended.log) + tail(folder / OUTPUT)
    if shutil.disk_usage(folder).free < NEARLY_FULL or any(words in said for words in NO_SPACE):
        return replace(calculation, reason=f"the disk is full: {folder}", failure="disk")
    if ended.code in (-signal.SIGKILL, 128 + signal.SIGKILL) or any(words in said for words in NO_MEMORY):
        reason = f"{engine.name} was killed, for want of memory perhaps; {calculation.reason}"
        return replace(calculation, reason=reason, failure="memory")
    if ended.code < 0 and calculation.failure is None:
        name = signal.Signals(-ended.code).name
        return replace(calculation, reason=f"{engine.name} died of {name}; {calculation.reason}")
    return calculation


@contextmanager
def held(folder: Path) -> Iterator[tuple[int, ...]]:
    """The folder's lock, inherited or waited for. Yields the file to pass on to the program."""
    inherited = _inherited(folder / LOCK)
    if inherited is not None:
        yield (inherited,)
    elif os.environ.get(LOCKED):
        yield ()
    else:
        with open(folder / LOCK, "a") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield (stream.fileno(),)


def _inherited(path: Path) -> int | None:
    """An open file of this process that is ``path`` and holds its lock."""
    for entry in list(Path("/proc/self/fd").iterdir()) if path.exists() else []:
        with suppress(OSError):  # listing the folder was itself an open file, which is closed by now
            if os.path.samestat(os.fstat(int(entry.name)), path.stat()):
                fcntl.flock(int(entry.name), fcntl.LOCK_EX | fcntl.LOCK_NB)
                return int(entry.name)
    return None


def _remove(folder: Path, globs: Sequence[str]) -> None:
    for pattern in globs:
        for path in folder.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _end_descendants() -> None:
    """Kill everything that this process has started, and what that has started."""
    family = [os.getpid()]
    for member in family:
        for children in Path(f"/proc/{member}/task").glob("*/children"):
            with suppress(OSError):
                family += [int(child) for child in children.read_text().split()]
    for member in family[1:]:
        with suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (InputError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(1)

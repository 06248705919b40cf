"""The process in which Python engines calculate: ``python -m rlpath_core.dft.engines.runner [FOLDER ...]``.

With folders it calculates them and ends. Without, it is a worker: each line on stdin is a JSON list of folders, and for
each it answers on stdout ``{"started": [...]}`` once it holds their locks and ``{"ended": [...]}`` when their
``result.json`` is there. It ends at the end of stdin.

Never twice: a job's folder is locked by flock while it is calculated. A worker whose parent was killed finishes the
job in hand, which is work well spent, then finds stdin closed and ends; whoever wants the same job meanwhile waits for
the lock, finds ``result.json`` and does nothing. Such an orphan cannot hang for ever, since the wall-time limit is an
alarm in the worker itself, one that ends the process even inside compiled code.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from rlpath_core.dft.engines.base import OUTPUT, REQUEST, RESULT, Calculation, PythonEngine, write_result
from rlpath_core.errors import InputError
from rlpath_core.structure.io import from_mapping

WALL = "RLPATH_WALL_SECONDS"
LOCK, RUNS = ".lock", "runs.log"
LOCKED = "RLPATH_LOCKED"
"""Set where the parent (a job script) holds the folder's lock, and keeps its log of runs."""

_engines: dict[str, PythonEngine] = {}


def main(argv: Sequence[str]) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it ends its workers
    # What a program prints must not be taken for an answer: stdout becomes stderr, answers go out on a copy.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    if argv:
        run([Path(folder) for folder in argv], None)
        return 0
    for line in sys.stdin:
        run([Path(folder) for folder in json.loads(line)], answers)
    return 0


def run(folders: Sequence[Path], answers: IO[str] | None) -> None:
    """Calculate the folders that have no result yet, all requests of one engine and settings together."""
    with ExitStack() as stack:
        if not os.environ.get(LOCKED):
            for folder in sorted(folders):  # one order for all processes, so that no two wait for each other
                stack.enter_context(_locked(folder))
        _answer(answers, {"started": [str(folder) for folder in folders]})
        limit = float(os.environ.get(WALL, 0))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, limit)
        todo = [folder for folder in folders if not (folder / RESULT).exists()]
        if not os.environ.get(LOCKED):
            _log_runs(todo)
        groups: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
        for folder in todo:
            request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
            groups.setdefault(json.dumps([request["engine"], request["settings"]]), []).append((folder, request))
        for key, members in groups.items():
            with _printing_to(members[0][0] / OUTPUT):
                done = _calculate(key, [request for _, request in members])
            for (folder, request), calculation in zip(members, done, strict=True):
                write_result(folder, request["job_id"], request["engine"], calculation)
        signal.setitimer(signal.ITIMER_REAL, 0)
    _answer(answers, {"ended": [str(folder) for folder in folders]})


def _calculate(key: str, requests: Sequence[dict[str, Any]]) -> list[Calculation]:
    from rlpath_core.dft.engines import ENGINES

    if key not in _engines:
        name, settings = json.loads(key)
        engine = ENGINES[name](settings)
        if not isinstance(engine, PythonEngine):
            raise InputError(f"engine {name!r} does not run in Python; its own command calculates it")
        _engines[key] = engine
    return _engines[key].calculate([from_mapping(request["structure"]) for request in requests])


def _log_runs(folders: Sequence[Path]) -> None:
    """A line for every calculation that begins: what a job cost, and that it ran once."""
    for folder in folders:
        with open(folder / RUNS, "a", encoding="utf-8") as log:
            log.write(f"{datetime.now().isoformat()} on {socket.gethostname()} process {os.getpid()}\n")


@contextmanager
def _locked(folder: Path) -> Any:
    with open(folder / LOCK, "a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def _printing_to(path: Path) -> Any:
    """Everything printed meanwhile, by compiled code too, goes to ``path``."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with open(path, "ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for target, fd in enumerate(kept, start=1):
            os.dup2(fd, target)
            os.close(fd)


def _answer(answers: IO[str] | None, value: dict[str, Any]) -> None:
    if answers is not None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BrokenPipeError:  # the parent is gone; the result is on disk
        os._exit(0)

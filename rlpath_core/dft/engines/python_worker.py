"""The process in which Python engines calculate: ``python -m rlpath_core.dft.engines.python_worker [FOLDER ...]``.

With folders it calculates them and ends. Without, it is the worker of a ``process.Child``, whose call ``calculate``
takes ``folders``: it reports once it holds their locks, and answers when each has its ``result.json``.

Never twice: a job's folder is locked by flock while it is calculated. A worker whose parent was killed finishes its job
and ends; whoever wants the same job meanwhile waits for the lock, finds ``result.json`` and does nothing. Such an
orphan cannot hang forever, since the wall-time limit is an alarm in the worker itself, which ends the process even
inside compiled code.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from rlpath_core.dft.engines.base import OUTPUT, REQUEST, RESULT, Calculation, PythonEngine, write_result
from rlpath_core.errors import InputError
from rlpath_core.process.worker import Call, serve
from rlpath_core.structure.io import from_mapping

WALL = "RLPATH_WALL_SECONDS"
LOCK, RUNS = ".lock", "runs.log"
LOCKED = "RLPATH_LOCKED"
"""Set where the parent (a job script) holds the folder's lock, and keeps its log of runs."""

_engines: dict[str, PythonEngine] = {}


def main(argv: Sequence[str]) -> int:
    if argv:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the launcher to handle
        run([Path(folder) for folder in argv])
    else:
        serve({"calculate": calculate}, finish_if_orphaned=True)
    return 0


def calculate(call: Call) -> None:
    """`run` the ``folders``."""
    run([Path(folder) for folder in call.header["folders"]], lambda: call.report({}))


def run(folders: Sequence[Path], started: Callable[[], None] = lambda: None) -> None:
    """Calculate the folders that have no result yet, all requests of one engine and settings together.

    ``started`` is called once all folders are locked.
    """
    with ExitStack() as stack:
        if not os.environ.get(LOCKED):
            for folder in sorted(folders):  # one order for all processes, so that no two wait for each other
                stack.enter_context(_locked(folder))
        started()
        limit = float(os.environ.get(WALL, 0))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, limit)
        stack.callback(signal.setitimer, signal.ITIMER_REAL, 0)
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
def _locked(folder: Path) -> Iterator[None]:
    with open(folder / LOCK, "a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def _printing_to(path: Path) -> Iterator[None]:
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

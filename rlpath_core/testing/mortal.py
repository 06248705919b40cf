"""Work on the labels of a store in processes that are killed: for tests of what survives it.

``Mortal`` is a process that has done its imports; each call is a fork of it, which does one thing (``label``,
``submit``, ``collect``, ``retry`` or ``cancel`` of ``rlpath_core.dft``) and is killed with SIGKILL at a named step or
after a time.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlpath_core.config import check
from rlpath_core.dft import faultpoints, labelling
from rlpath_core.dft.options import DftConfig
from rlpath_core.files import atomic_write
from rlpath_core.store import Store


class Mortal:
    """``mortal("label", steps={"judgement committed": 1})`` is one fork, from its first breath to its end.

    folder  of the store
    config  the ``dft`` section
    round   worked on, unless a call says otherwise

    A call's words:

    steps   to be killed at whichever of these is reached first, each for the time that is its value:
            ``{"planned": 1}``. The step's name is then in the file ``killed`` of the store
    pause   steps of these at which it writes the step's name to ``paused`` instead, waits until that file is gone,
            and is killed at the step after it
    after   to be killed after so many seconds
    frees   ``[step, path]``: to remove that file when it reaches the step
    wait    of ``collect``

    Returns ``{"status": exit code, "result": what the function returned}``. Raises RuntimeError where that raised.
    """

    def __init__(self, folder: Path, config: dict[str, Any], round: int = 1) -> None:
        self.job = {"folder": str(folder), "config": config, "round": round}
        command = [sys.executable, "-m", "rlpath_core.testing.mortal"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, what: str, **more: Any) -> dict[str, Any]:
        self.send(what, **more)
        return self.receive()

    def send(self, what: str, **more: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({**self.job, "what": what, **more}) + "\n")
        self.process.stdin.flush()

    def has_answered(self) -> bool:
        assert self.process.stdout is not None
        return bool(select.select([self.process.stdout.fileno()], [], [], 0)[0])

    def receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def close(self) -> None:
        self.process.communicate()


def watch(folder: Path, wanted: dict[str, int], pause: Sequence[str], frees: Sequence[str]) -> None:
    seen: Counter[str] = Counter()
    dies = False

    def reached(at: faultpoints.Step) -> None:
        nonlocal dies
        if frees and at == frees[0]:
            Path(frees[1]).unlink(missing_ok=True)
        seen[at] += 1
        here = seen[at] == wanted.get(at)
        if dies or (here and at not in pause):
            note(folder / "killed", at)
            os.kill(os.getpid(), signal.SIGKILL)
        if here:
            dies = True
            note(folder / "paused", at)
            while (folder / "paused").exists():
                time.sleep(0.005)

    faultpoints.observer = reached


def note(path: Path, text: str) -> None:
    with atomic_write(path) as stream:
        stream.write(text)


def work(job: dict[str, Any]) -> Any:
    folder, round = Path(job["folder"]), job["round"]
    watch(folder, job.get("steps", {}), job.get("pause", ()), job.get("frees", ()))
    config = check(DftConfig, job["config"], "config")
    lmdb = folder / "labels" / f"round-{round}.lmdb"
    with Store(folder) as store:
        if job["what"] in ("retry", "cancel"):
            return getattr(labelling, job["what"])(store, config, round=round)
        more = {"wait": job["wait"]} if "wait" in job else {}
        return asdict(getattr(labelling, job["what"])(store, config, round=round, lmdb=lmdb, **more))


def child(job: dict[str, Any], answer: int) -> None:
    try:
        said = {"result": work(job)}
    except BaseException as error:
        said = {"error": f"{type(error).__name__}: {error}\n{traceback.format_exc()}"}
    os.write(answer, json.dumps(said).encode())
    os._exit(0)


def main() -> None:
    for slow in ("torch_geometric.data", "ase.neighborlist"):
        importlib.import_module(slow)
    for line in sys.stdin:
        job = json.loads(line)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            child(job, writing)
        os.close(writing)
        if job.get("after") is not None:
            time.sleep(job["after"])
            os.kill(pid, signal.SIGKILL)
        with os.fdopen(reading, "rb") as stream:
            said = stream.read() or b"{}"
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps({"status": status, **json.loads(said)}), flush=True)


if __name__ == "__main__":
    main()

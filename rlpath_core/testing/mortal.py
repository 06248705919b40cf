"""Work on the labels of a store in processes that are killed: for tests of what survives it.

``Mortal`` is a process that has paid for its imports; each call is a fork of it, which does one thing (``label``,
``submit``, ``collect``, ``retry``, ``cancel`` of ``rlpath_core.dft.hook``) and is killed with SIGKILL at a named step
or after a time, as asked.
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
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlpath_core.dft import hook, steps
from rlpath_core.spec.dft import DftConfig
from rlpath_core.spec.load import check
from rlpath_core.store import Store


class Mortal:
    """``mortal("label", step="judgement committed")`` is one fork, from its first breath to its end.

    folder  of the store
    config  the ``dft`` section
    round   worked on, unless a call says otherwise

    A call's words: ``step`` and ``count``, to be killed when that step is reached for the ``count``th time; ``pause``,
    to create the file ``paused`` there, wait until it is gone, and be killed at the step after it; ``after``, to be
    killed after so many seconds; ``wait`` of ``collect``. Returns ``{"status": exit code, "result": what the function
    returned}``. Raises RuntimeError where that raised.
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


def watch(folder: Path, step: str, count: int, pause: bool) -> None:
    seen, paused = 0, False

    def reached(at: steps.Step) -> None:
        nonlocal seen, paused
        seen += at == step
        if paused or (at == step and seen == count and not pause):
            os.kill(os.getpid(), signal.SIGKILL)
        if at == step and seen == count:
            paused = True
            (folder / "paused").touch()
            while (folder / "paused").exists():
                time.sleep(0.005)

    steps.watch = reached


def work(job: dict[str, Any]) -> Any:
    folder, round = Path(job["folder"]), job["round"]
    if job.get("step"):
        watch(folder, job["step"], job.get("count", 1), job.get("pause", False))
    config = check(DftConfig, job["config"], "config")
    lmdb = folder / "labels" / f"round-{round}.lmdb"
    with Store(folder) as store:
        if job["what"] in ("retry", "cancel"):
            return getattr(hook, job["what"])(store, config, round=round)
        more = {"wait": job["wait"]} if "wait" in job else {}
        return asdict(getattr(hook, job["what"])(store, config, round=round, lmdb=lmdb, **more))


def child(job: dict[str, Any], answer: int) -> None:
    try:
        said = {"result": work(job)}
    except BaseException as error:
        said = {"error": f"{type(error).__name__}: {error}\n{traceback.format_exc()}"}
    os.write(answer, json.dumps(said).encode())
    os._exit(0)


def main() -> None:
    importlib.import_module("torch_geometric.data")
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

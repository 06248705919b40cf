"""Work on the labels of a store in processes that are killed: for tests of what survives it.

``KillableProcess`` is a process that has done its imports; each call is a fork of it, which does one thing (``label``,
``submit``, ``collect``, ``retry`` or ``cancel`` of ``rlpath_core.dft``) and is killed with SIGKILL at a named step or
after a time.
"""

from __future__ import annotations

import importlib
import json
import os
import select
import signal
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
from rlpath_core.process.child import Child
from rlpath_core.process.worker import Call, serve
from rlpath_core.store import Store


class KillableProcess:
    """``process("label", steps={"judgement committed": 1})`` forks, and returns when the fork has ended.

    Parameters
    ----------
    folder
        Of the store.
    config
        The ``dft`` section.
    round
        The round of the labels, unless a call has another.

    Keywords of a call
    ------------------
    steps
        The fork is killed at whichever of these it reaches first, each at the time that is its value:
        ``{"planned": 1}``. It writes the step's name to the file ``killed`` of the store.
    pause
        Those of ``steps`` at which it writes the step's name to ``paused`` instead, waits until that file is removed,
        and is killed at the step after it.
    after
        It is killed after so many seconds.
    frees
        ``[step, path]``: it removes that file when it reaches the step.
    wait
        Of ``collect``.

    Returns ``{"status": exit code, "result": what the function returned}``. Raises FatalError if that raised an error.
    """

    def __init__(self, folder: Path, config: dict[str, Any], round: int = 1) -> None:
        self.job = {"folder": str(folder), "config": config, "round": round}
        self.child = Child([sys.executable, "-m", "rlpath_core.testing.killable"], "the process that forks")

    def __call__(self, what: str, **more: Any) -> dict[str, Any]:
        return self.child.ask("fork", {**self.job, "what": what, **more})[0]

    def send(self, what: str, **more: Any) -> None:
        """Call, and do not wait."""
        self.child.send("fork", {**self.job, "what": what, **more})

    def has_answered(self) -> bool:
        return bool(select.select([self.child], [], [], 0)[0])

    def receive(self) -> dict[str, Any]:
        """The answer to what was sent."""
        message = self.child.receive()
        if message is None or "error" in message[0]:
            raise self.child.unpack_error(message[0]["error"]) if message else RuntimeError("it has ended")
        answer: dict[str, Any] = message[0]["answer"]
        return answer

    def close(self) -> None:
        self.child.end()


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
            return getattr(labelling, job["what"])(store, config, round_index=round)
        more = {"wait": job["wait"]} if "wait" in job else {}
        return asdict(getattr(labelling, job["what"])(store, config, round_index=round, lmdb=lmdb, **more))


def fork(call: Call) -> dict[str, Any]:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            answer = {"result": work(call.header)}
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}\n{traceback.format_exc()}"}
        os.write(writing, json.dumps(answer).encode())
        os._exit(0)
    os.close(writing)
    if call.header.get("after") is not None:
        time.sleep(call.header["after"])
        os.kill(pid, signal.SIGKILL)
    with os.fdopen(reading, "rb") as stream:
        answer = json.loads(stream.read() or b"{}")
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return {"status": status, **answer}


if __name__ == "__main__":
    for slow in ("torch_geometric.data", "ase.neighborlist"):
        importlib.import_module(slow)
    serve({"fork": fork}, finish_if_orphaned=True)

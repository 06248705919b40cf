"""Runs in forks of one process, which are killed after some batches of the model: for tests of what survives it."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any


def serve_forks(child: Callable[[dict[str, Any], int], None]) -> None:
    """Do the jobs that stdin has, a line of JSON each, in a fork of this process, which has paid for the imports.

    ``child(job, pipe)`` writes a byte to ``pipe`` for every batch, as ``testing.models.SignallingModel`` does. Of a
    job, ``batches`` (null: to the end) says after which of them the fork is killed by SIGKILL, and ``pause`` how many
    seconds later. Each line of stdout has the ``status`` of the fork, and the ``batches`` that it made.
    """
    for line in sys.stdin:
        job = json.loads(line)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            child(job, writing)
            os._exit(0)
        os.close(writing)
        batches = 0
        while batches != job["batches"] and os.read(reading, 1):
            batches += 1
        time.sleep(job["pause"])
        if job["batches"] is not None:
            os.kill(pid, signal.SIGKILL)
        os.close(reading)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps({"status": status, "batches": batches}), flush=True)

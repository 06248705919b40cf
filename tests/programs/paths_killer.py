"""paths_killer.py: runs of saddle searches in forks of this process, which are killed after some batches.

Each line of stdin is a job: ``folder``, ``config``, ``between``, ``batches`` (null: to the end) and ``pause``, the
seconds between that batch and SIGKILL. The run is begun or resumed. Each line of stdout: ``status`` of the fork, and
the ``batches`` that it made.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from rlpath_core.config import check
from rlpath_core.paths.options import PathsConfig
from rlpath_core.paths.run import find_paths
from rlpath_core.store import Store
from rlpath_core.testing.models import SignallingModel
from rlpath_core.testing.steps import gold_on_aluminium


def child(job: dict[str, Any], pipe: int) -> None:
    folder, starts = Path(job["folder"]), [gold_on_aluminium(), gold_on_aluminium(hop=1)]
    with Store(folder) as store:
        checked = check(PathsConfig, job["config"], "x")
        model = SignallingModel(pipe)
        find_paths(checked, model, starts, folder / "run", store, seed=1, resume=True, between=job["between"])


for line in sys.stdin:  # this process has paid for the imports
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

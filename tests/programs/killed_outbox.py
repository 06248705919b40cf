"""killed_outbox.py STORE RUN_DIR STEP N: an outbox that is killed before call N of STEP, or after call -N."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from rlpath_core.outbox import decisions, queue
from rlpath_core.outbox.options import OutboxConfig
from rlpath_core.store import Store

name, at = sys.argv[3], int(sys.argv[4])
module = queue if hasattr(queue, name) else decisions
step, calls = getattr(module, name), 0


def killing(*args: Any, **kwargs: Any) -> Any:
    global calls
    calls += 1
    if calls == at:
        os.kill(os.getpid(), signal.SIGKILL)
    value = step(*args, **kwargs)
    if calls == -at:
        os.kill(os.getpid(), signal.SIGKILL)
    return value


setattr(module, name, killing)
with Store(sys.argv[1]) as store:
    queue.process_outbox(store, Path(sys.argv[2]), OutboxConfig(budget=2), round_index=1)

"""Child of test_remote_model: starts a model's process, says which, and waits to be killed.

With ``fork``, another copy of it, which was born with the same pipes, outlives it for a while; ``deaf``, it hears no
signals but SIGKILL.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from rlpath_core.backends.remote import Process
from rlpath_core.errors import InputError

process = Process(Path(sys.executable), "a model")
with contextlib.suppress(InputError):  # the answer shows that it is up
    process.ask({"manifest": "/nowhere", "options": {}, "threads": None}, {})
if sys.argv[1] == "deaf":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
if sys.argv[1] == "fork" and os.fork() == 0:
    time.sleep(60)
    os._exit(0)
print(process.pid, flush=True)
time.sleep(60)

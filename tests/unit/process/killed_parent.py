"""Parent of test_child: has a child in the middle of a call, prints the child's process id, and waits to be killed.

Arguments: how it lives (``plain``; ``fork``: a copy of it, which holds the same open files, outlives it; ``deaf``: it
ignores signals but SIGKILL), the worker's mode, and the file until which the call lasts.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

from rlpath_core.process.child import Child


def started(report):
    if way == "fork" and ctypes.CDLL(None).fork() == 0:  # not os.fork(), in which the copy closes its channel
        time.sleep(60)
        os._exit(0)
    print(report["pid"], flush=True)


way, mode, until = sys.argv[1:]
if way == "deaf":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
child = Child([sys.executable, str(Path(__file__).with_name("handlers.py")), mode], "a worker")
child.ask("hold", {"until": until}, report=started)

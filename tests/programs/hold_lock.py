"""hold_lock.py LOCK: holds the lock, says so, and waits to be killed."""

import sys
import time

from rlpath_core.locks import exclusive

with exclusive(sys.argv[1], "x"):
    print("held", flush=True)
    time.sleep(600)

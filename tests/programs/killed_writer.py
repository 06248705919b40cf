"""killed_writer.py SOURCE LMDB: copies labelled structures and is killed after the fifth."""

import os
import signal
import sys

from rlpath_core.data import S2EFWriter, read_labelled

with S2EFWriter(sys.argv[2]) as writer:
    for one in read_labelled(sys.argv[1]):
        if writer.add(one, one.sid) == 4:
            os.kill(os.getpid(), signal.SIGKILL)

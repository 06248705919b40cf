"""launcher_to_kill.py JOB (command|worker): a local launcher starts a job, says so, and waits to be killed."""

import sys
from pathlib import Path

from rlpath_core.dft.engines.tblite import TbliteEngine
from rlpath_core.dft.launchers.base import Submission
from rlpath_core.dft.launchers.local import LocalLauncher

folder = Path(sys.argv[1])
launcher = LocalLauncher(1)
if sys.argv[2] == "command":
    launcher.submit([Submission("x", folder, ("sh", "-c", "sleep 2; touch ended"))])
else:
    launcher.submit([Submission("x", folder, ("false",), tuple(TbliteEngine().worker()))])
print([event.kind for event in launcher.wait(60)], launcher._slots[0].process.pid, flush=True)
launcher.wait(60)

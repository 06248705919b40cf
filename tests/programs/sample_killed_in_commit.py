"""sample_killed_in_commit.py FOLDER CONFIG N: a sampling run that SIGKILL ends in its checkpoint number N.

The checkpoint's files are written by then, its transaction is not committed.
"""

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

from rlpath_core.config import check
from rlpath_core.files import AppendedFiles
from rlpath_core.sampling import sample
from rlpath_core.sampling.options import SamplingConfig
from rlpath_core.store import Store
from rlpath_core.testing.emt import EMTModel
from rlpath_core.testing.systems import triclinic

folder, config, number = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
append, calls = AppendedFiles.append, 0


def killing(self: AppendedFiles, texts: Mapping[str, str]) -> dict[str, int]:
    global calls
    calls += 1
    lengths = append(self, texts)
    if calls == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return lengths


AppendedFiles.append = killing  # type: ignore[method-assign]
with Store(folder) as store:
    sample(check(SamplingConfig, config, "x"), EMTModel(), triclinic(), folder / "run", store, seed=1)

"""paths_killer.py: runs of saddle searches in forks of this process, which are killed after some batches.

A job has ``folder``, ``config`` and ``between`` besides what ``testing.forks`` wants. The run is begun or resumed.
"""

from pathlib import Path
from typing import Any

from rlpath_core.config import check
from rlpath_core.paths.options import PathsConfig
from rlpath_core.paths.run import find_paths
from rlpath_core.store import Store
from rlpath_core.testing.forks import serve_forks
from rlpath_core.testing.models import SignallingModel
from rlpath_core.testing.steps import gold_on_aluminium


def child(job: dict[str, Any], pipe: int) -> None:
    folder, starts = Path(job["folder"]), [gold_on_aluminium(), gold_on_aluminium(hop=1)]
    with Store(folder) as store:
        checked = check(PathsConfig, job["config"], "x")
        model = SignallingModel(pipe)
        find_paths(checked, model, starts, folder / "run", store, seed=1, resume=True, between=job["between"])


serve_forks(child)

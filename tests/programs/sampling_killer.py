"""sampling_killer.py: sampling runs in forks of this process, which are killed after some batches.

A job has ``folder`` and ``config`` besides what ``testing.forks`` wants. The run is begun or resumed.
"""

from pathlib import Path
from typing import Any

from rlpath_core.config import check
from rlpath_core.sampling import sample
from rlpath_core.sampling.options import SamplingConfig
from rlpath_core.store import Store
from rlpath_core.testing.forks import serve_forks
from rlpath_core.testing.models import SignallingModel
from rlpath_core.testing.systems import triclinic


def child(job: dict[str, Any], pipe: int) -> None:
    folder = Path(job["folder"])
    with Store(folder) as store:
        checked = check(SamplingConfig, job["config"], "x")
        sample(checked, SignallingModel(pipe), triclinic(), folder / "run", store, seed=1, resume=True)


serve_forks(child)

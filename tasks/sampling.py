"""Sampling as one task: a batch of walkers is coarse enough, and its own checkpoint resumes it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run

from rlpath_core.config import check
from rlpath_core.sampling.command import SampleSpec
from tasks.policy import RETRIES
from tasks.progress import Progress


@task(name="sample", tags=["gpu"], cache_policy=NO_CACHE, **RETRIES)
def sample(spec: dict[str, Any]) -> dict[str, Any]:
    """Explore with a model from one or several structures. Not cached: an existing run is resumed or refused."""
    checked = check(SampleSpec, spec, "sample")
    # What is slow to import comes after what may be wrong with the input.
    from rlpath_core.backends import load_model
    from rlpath_core.sampling import sample as run_walkers
    from rlpath_core.sampling.preflight import check_starts
    from rlpath_core.store import Store
    from rlpath_core.structure import read_structures

    start = read_structures(checked.structure_json)
    check_starts(start, checked.structure_json)
    model = load_model(
        checked.manifest, weights=checked.weights, device=checked.device, head=checked.head, amp=checked.amp
    )
    if checked.committee:
        from rlpath_core.backends.committee import Committee

        others = [load_model(path, device=checked.device, amp=checked.amp) for path in checked.committee]
        model = Committee(model, others)
    for structure in start:  # before the store makes a folder
        model.check_elements(structure, str(checked.structure_json))
    with Store(checked.run_dir) as store, Progress("sample", checked.sampling.steps) as progress:
        summary = run_walkers(
            checked.sampling,
            model,
            start,
            checked.run_dir,
            store,
            seed=checked.seed,
            # a second try finds what the first one wrote
            resume=checked.resume or bool((task_run.run_count or 1) > 1),
            progress=progress,
        )
    return asdict(summary)

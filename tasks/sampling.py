"""Sampling as one task: a batch of walkers is coarse enough, and its own checkpoint resumes it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run

from rlpath_core.sampling.command import SampleSpec
from tasks.policy import RETRIES
from tasks.progress import Progress


@task(name="sample", tags=["gpu"], cache_policy=NO_CACHE, **RETRIES)
def sample(spec: SampleSpec) -> dict[str, Any]:
    """Explore with a model from one or several structures. Not cached: an existing run is resumed or refused."""
    from rlpath_core.backends import load_model
    from rlpath_core.sampling import sample as run_walkers
    from rlpath_core.sampling.preflight import check_starts
    from rlpath_core.store import Store
    from rlpath_core.structure import read_structures

    start = read_structures(spec.structure_json)
    check_starts(start, spec.structure_json, spec.sampling)
    model = load_model(spec.manifest, weights=spec.weights, device=spec.device, head=spec.head, amp=spec.amp)
    if spec.committee:
        from rlpath_core.backends.committee import Committee

        others = [load_model(path, device=spec.device, amp=spec.amp) for path in spec.committee]
        model = Committee(model, others)
    for structure in start:  # before the store makes a folder
        model.check_elements(structure, str(spec.structure_json))
    with Store(spec.run_dir) as store, Progress("sample", spec.sampling.steps) as progress:
        summary = run_walkers(
            spec.sampling,
            model,
            start,
            spec.run_dir,
            store,
            seed=spec.seed,
            # a second try finds what the first one wrote
            resume=spec.resume or bool((task_run.run_count or 1) > 1),
            progress=progress,
        )
    return asdict(summary)

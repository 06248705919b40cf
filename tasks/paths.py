"""Saddle searches as one task: many searches share one model, and its own checkpoint resumes the run."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import task_run

from rlpath_core.paths.command import Beginning, PathsSpec
from rlpath_core.paths.record import SEARCHES
from tasks.policy import RETRIES
from tasks.progress import Progress


@task(name="paths", tags=["gpu"], cache_policy=NO_CACHE, **RETRIES)
def paths(spec: PathsSpec) -> dict[str, Any]:
    """Find reaction paths with a model. Not cached: an existing run is resumed or refused."""
    from rlpath_core.backends import load_model
    from rlpath_core.errors import InputError
    from rlpath_core.paths.command import beginning
    from rlpath_core.paths.given import check_given, prepared_ends
    from rlpath_core.paths.run import find_paths
    from rlpath_core.store import Store

    begin, head = beginning(spec), spec.head
    if spec.campaign is not None:
        begin, head = _of_campaign(spec, begin)
    reference = spec.manifest or begin.model
    if reference is None:
        raise InputError("the run names no model: give --manifest", spec.sampling_run)
    structures = check_given(begin.structures, begin.files)
    model = load_model(reference, weights=spec.weights, device=spec.device, head=head, amp=spec.amp)
    for structure, file in zip(structures, begin.files, strict=True):  # before the store makes a folder
        model.check_elements(structure, str(file))
    ends = None
    if begin.between and not (spec.run_dir / SEARCHES).exists():
        files = begin.files[0], begin.files[1]
        quench = spec.paths.verify.quench
        ends = prepared_ends(structures[0], structures[1], model, quench, spec.max_end_force, files)
    with Store(spec.run_dir) as store, Progress("paths", spec.paths.max_searches) as progress:
        summary = find_paths(
            spec.paths,
            model,
            structures,
            spec.run_dir,
            store,
            seed=spec.seed,
            # a second try finds what the first one wrote
            resume=spec.resume or bool((task_run.run_count or 1) > 1),
            progress=progress,
            joined=begin.joined,
            between=begin.between,
            given=ends,
        )
    return asdict(summary)


def _of_campaign(spec: PathsSpec, begin: Beginning) -> tuple[Beginning, str | None]:
    """With the campaign's last model, and the head that it is asked for unless the user names one."""
    from rlpath_core.campaign import load_campaign
    from rlpath_core.campaign.rounds import finished

    assert spec.campaign is not None
    campaign = load_campaign(spec.campaign)
    with campaign.store() as store:
        manifest = campaign.manifest(max(finished(store), default=0))
    return replace(begin, model=manifest), spec.head or (campaign.head(manifest) if spec.manifest is None else None)

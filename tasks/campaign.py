"""The stages of a campaign's round. What they did is in the campaign's database, which makes them safe to repeat;
so nothing of them is cached here."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from rlpath_core.campaign import load_campaign
from tasks.policy import RETRIES
from tasks.progress import Progress


@task(name="evaluate-start", tags=["gpu"], cache_policy=NO_CACHE, **RETRIES)
def evaluate_start(campaign_dir: str, round: int) -> dict[str, Any]:
    """How good the starting model is: round 0 of the learning curve."""
    return load_campaign(campaign_dir).evaluate_start(round)


@task(name="explore", tags=["gpu"], cache_policy=NO_CACHE, **RETRIES)
def explore(campaign_dir: str, round: int) -> dict[str, Any]:
    """Sample with the current model and choose what is worth a label."""
    with Progress(f"explore round {round}") as progress:
        return load_campaign(campaign_dir).explore(round, progress)


@task(name="find-paths", tags=["gpu"], cache_policy=NO_CACHE, **RETRIES)
def find_paths(campaign_dir: str, round: int) -> dict[str, Any]:
    """Search saddles with the current model, and queue them with what proves them."""
    with Progress(f"find paths round {round}") as progress:
        return load_campaign(campaign_dir).find_paths(round, progress)


@task(name="label", tags=["dft"], cache_policy=NO_CACHE, **RETRIES)
def label(campaign_dir: str, round: int) -> dict[str, Any]:
    """Reference energies and forces of what was chosen."""
    with Progress(f"label round {round}") as progress:
        return load_campaign(campaign_dir).label(round, progress)


@task(name="learn", tags=["gpu"], cache_policy=NO_CACHE, **RETRIES)
def learn(campaign_dir: str, round: int) -> dict[str, Any]:
    """Fine-tune on all labels so far and evaluate on the held-out set."""
    with Progress(f"learn round {round}", bar=False) as progress:
        return load_campaign(campaign_dir).learn(round, progress)


STAGES = {
    "evaluate_start": evaluate_start,
    "explore": explore,
    "find_paths": find_paths,
    "label": label,
    "learn": learn,
}

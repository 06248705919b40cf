"""The stages of a campaign as flows of their own, so that each runs on the pool that it belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from rlpath_core.locks import exclusive
from tasks.campaign import STAGES
from tasks.policy import call
from tasks.progress import logger

ORPHAN_SECONDS = 24 * 3600.0
"""How long a stage waits for one that a killed loop left running; the kernel frees its lock when it ends."""


def run_stage(stage: str, campaign_dir: str, round: int) -> dict[str, Any]:
    """One stage, never beside another of the same campaign: a stage that a killed loop left behind ends first, and
    what it did is then found done."""
    lock = Path(campaign_dir) / ".stage.lock"
    with exclusive(lock, "a stage of this campaign", wait=ORPHAN_SECONDS, waiting=logger().warning):
        return call(STAGES[stage], campaign_dir, round)


def _run_name() -> str:
    given = flow_run.get_parameters()
    return f"{Path(given['campaign_dir']).name} round {given['round']} {flow_run.get_flow_name()}"


@flow(name="evaluate-start", flow_run_name=_run_name)
def evaluate_start(campaign_dir: str, round: int = 0) -> dict[str, Any]:
    """Measure the starting model."""
    return run_stage("evaluate_start", campaign_dir, round)


@flow(name="explore", flow_run_name=_run_name)
def explore(campaign_dir: str, round: int) -> dict[str, Any]:
    """Sample with the current model."""
    return run_stage("explore", campaign_dir, round)


@flow(name="find-paths", flow_run_name=_run_name)
def find_paths(campaign_dir: str, round: int) -> dict[str, Any]:
    """Search saddles with the current model."""
    return run_stage("find_paths", campaign_dir, round)


@flow(name="label", flow_run_name=_run_name)
def label(campaign_dir: str, round: int) -> dict[str, Any]:
    """Choose and calculate the round's labels."""
    return run_stage("label", campaign_dir, round)


@flow(name="learn", flow_run_name=_run_name)
def learn(campaign_dir: str, round: int) -> dict[str, Any]:
    """Fine-tune and evaluate."""
    return run_stage("learn", campaign_dir, round)

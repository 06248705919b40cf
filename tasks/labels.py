"""The outbox and the reference calculations. Both keep their state in the database, so nothing is cached here."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from rlpath_core.dft import label as label_round
from rlpath_core.dft.options import DftConfig
from rlpath_core.outbox import process_outbox
from rlpath_core.outbox.options import OutboxConfig
from rlpath_core.store import Store
from tasks.policy import RETRIES
from tasks.progress import Progress


@task(name="outbox", cache_policy=NO_CACHE, **RETRIES)
def outbox(folder: str, run_dir: str, config: OutboxConfig, round: int | None = None) -> dict[str, Any]:
    """Take the candidates that a run has queued, drop near-duplicates, select within the budget."""
    with Store(Path(folder)) as store:
        return asdict(process_outbox(store, Path(run_dir), config, round_index=round))


@task(name="dft-submit", tags=["dft"], cache_policy=NO_CACHE, **RETRIES)
def dft_submit(folder: str, lmdb: str, config: DftConfig, round: int | None = None) -> dict[str, Any]:
    """Submit what was chosen, wait, collect: every label once, in the database and the LMDB."""
    with Store(Path(folder)) as store, Progress("dft-submit") as progress:
        return asdict(label_round(store, config, round_index=round, lmdb=Path(lmdb), progress=progress))

"""A stage as a deployment's run on another pool: asked for once, followed to its end, started again when it crashes."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterIdempotencyKey
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Scheduled

from rlpath_core.backends.registry import FAIRCHEM, backend_of
from rlpath_core.errors import FatalError
from tasks.policy import VERSION
from tasks.progress import logger

POLL_SECONDS = 0.5
CRASH_LIMIT = 3
"""Restarts of one run whose process died."""
CRASH_PAUSE = 5.0
LATE_SECONDS = 30.0
"""A run that no worker has taken after this time is worth a warning: its pool may have none."""
HINT = "Start one: `rlpath services up`"
HINTS: dict[str | None, str] = {"gpu-fairchem": "Start one: `rlpath services up` once FairChem's environment exists"}


def deployment_of(backend: str | None) -> str:
    """The name of the deployments on the pool of the environment that ``backend`` runs in."""
    return "fairchem" if backend is not None and backend_of(backend).environment is FAIRCHEM else "default"


def run_on_pool(stage: str, campaign_dir: Path, round: int, deployment: str = "default") -> None:
    """Have ``stage`` run by a worker of the pool of that deployment and wait for it.

    Raises FatalError when it fails, is cancelled, or crashes more often than CRASH_LIMIT. After a kill of the
    caller, the same call finds the unfinished run by its idempotency key and follows that one.
    """
    with get_client(sync_client=True) as client:
        _follow(client, _ask(client, stage, campaign_dir, round, deployment), f"{stage} of round {round}")


def _ask(client: SyncPrefectClient, stage: str, campaign_dir: Path, round: int, deployment: str) -> FlowRun:
    """The unfinished run of this stage, else a new one.

    A run that ended although the stage is not done (its cause was fixed since, or the campaign's folder is new) is not
    asked for again.
    """
    for attempt in itertools.count():
        key = f"{campaign_dir}/round-{round}/{stage}/v{VERSION}/{attempt}"
        known = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=[key])), limit=1
        )
        if known and (known[0].state is None or not known[0].state.is_final()):
            logger().info("%s of round %d is running already: run %s", stage, round, known[0].name)
            return known[0]
        if not known:
            break
    name = f"{stage.replace('_', '-')}/{deployment}"
    try:
        return run_deployment(  # type: ignore[return-value]
            name,
            parameters={"campaign_dir": str(campaign_dir), "round": round},
            tags=[f"campaign:{campaign_dir.name}"],
            idempotency_key=key,
            timeout=0,
        )
    except ObjectNotFound as error:
        raise FatalError(
            f"the server has no deployment {name}: run `rlpath services up`, or execution=inline"
        ) from error


def _follow(client: SyncPrefectClient, run: FlowRun, what: str) -> None:
    crashes = 0
    asked = time.monotonic()
    while True:
        state = run.state
        if state is not None and state.is_completed():
            return
        if state is not None and state.is_crashed() and crashes < CRASH_LIMIT:
            crashes += 1
            logger().warning("%s crashed (%s): starting it again, %d of %d", what, state.message, crashes, CRASH_LIMIT)
            # The worker reports a crash twice, some seconds apart: the second must not hit the run that starts anew.
            time.sleep(CRASH_PAUSE)
            client.set_flow_run_state(run.id, Scheduled(name="AwaitingRetry"), force=True)
            asked = time.monotonic()
        elif state is not None and state.is_final():
            raise FatalError(f"{what} ended as {state.name}: {state.message} (run {run.name}, {run.id})")
        elif state is not None and state.is_scheduled() and time.monotonic() - asked > LATE_SECONDS:
            pool = run.work_pool_name
            logger().warning("%s waits: no worker of pool %s has taken it. %s", what, pool, HINTS.get(pool, HINT))
            asked = time.monotonic()
        time.sleep(POLL_SECONDS)
        run = client.read_flow_run(run.id)

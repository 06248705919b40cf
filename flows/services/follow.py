"""``rlpath loop --services``: starts the services, runs the deployment ``al-loop/default`` and follows it to its end.

Given again after any interruption, the same command follows a loop that still runs, and continues one that was killed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterTags,
    LogFilter,
    LogFilterFlowRunId,
    LogFilterLevel,
    LogFilterTimestamp,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import LogSort

from flows.al_loop import closing, given_params
from flows.services import local
from rlpath_core.campaign import check_environments, load_campaign, open_campaign
from rlpath_core.campaign.options import CampaignConfig
from rlpath_core.campaign.resolve import resolve_campaign
from rlpath_core.errors import FatalError, InputError

DEPLOYMENT = "al-loop/default"
POLL_SECONDS = 1.0


def run_deployment(config: str | None, params: dict[str, Any], resolved: CampaignConfig) -> int:
    """Have the campaign run by the services and follow it; the exit code of the command."""
    folder = resolved.campaigns_dir / resolved.campaign
    if (folder / "config.yaml").exists():
        campaign = open_campaign(*given_params(config, params))
        if campaign.next_round() is None:
            print(f"campaign {resolved.campaign!r} is done: all {resolved.rounds} rounds are in {folder}")
            print(closing(campaign))
            return 0
    if not os.environ.get("PREFECT_API_URL"):  # the workers are this machine's
        check_environments(resolved)
    url = local.up()
    with local.connected(url):
        run_id, name = ask({"config": config, "params": params}, folder)
        print(f"following run {name}: {url.removesuffix('/api')}/runs/flow-run/{run_id}", flush=True)
        try:
            follow(run_id, f"campaign:{resolved.campaign}")
        except KeyboardInterrupt:
            print("the loop continues; the same command follows it again, `rlpath services down` ends it")
            return 130
    print(closing(load_campaign(folder)))
    return 0


def ask(parameters: dict[str, Any], folder: Path) -> tuple[UUID, str]:
    """The unfinished run of this campaign, else a new one, as ``prefect deployment run`` makes it."""
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(DEPLOYMENT)
        for run in unfinished(client, deployment.id):
            try:
                config = resolve_campaign(*given_params(**run.parameters))
            except (InputError, TypeError):
                continue
            if config.campaigns_dir / config.campaign == folder:
                return run.id, f"{run.name}, which is running already"
        run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters)
        return run.id, run.name


def unfinished(client: SyncPrefectClient, deployment_id: UUID) -> Iterator[FlowRun]:
    wanted = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=[deployment_id]))
    yield from (
        run for run in client.read_flow_runs(flow_run_filter=wanted) if run.state is None or not run.state.is_final()
    )


def follow(run_id: UUID, tag: str) -> None:
    """Print the log lines of the loop and its stages until the loop ends; FatalError when it did not end well."""
    stages = FlowRunFilter(tags=FlowRunFilterTags(all_=[tag]))
    with get_client(sync_client=True) as client:
        lines = LogLines(client)
        while True:
            run = client.read_flow_run(run_id)
            children = client.read_flow_runs(flow_run_filter=stages)
            lines.show({run.id: "loop"} | {child.id: child.name for child in children})
            if run.state is not None and run.state.is_final():
                break
            time.sleep(POLL_SECONDS)
        if not run.state.is_completed():
            raise FatalError(
                f"the loop ended as {run.state.name}: {run.state.message} What is done is kept; run it again"
            )


class LogLines:
    """The log of several runs, each line printed once."""

    def __init__(self, client: SyncPrefectClient) -> None:
        self._client = client
        self._seen: set[UUID] = set()
        self._since = datetime.now().astimezone()

    def show(self, names: dict[UUID, str]) -> None:
        wanted = LogFilter(
            level=LogFilterLevel(ge_=20),
            flow_run_id=LogFilterFlowRunId(any_=list(names)),
            timestamp=LogFilterTimestamp(after_=self._since),  # type: ignore[arg-type]
        )
        for line in self._client.read_logs(wanted, limit=200, sort=LogSort.TIMESTAMP_ASC):
            if line.id not in self._seen:
                self._seen.add(line.id)
                at = line.timestamp.astimezone().strftime("%H:%M:%S")
                print(f"{at}  {line.message}", flush=True)

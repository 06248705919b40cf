"""Registers the pools and deployments of prefect.yaml, and the automation. Running it again changes nothing.

One process over the client's API: each call of the `prefect` command takes 3-4 s, and there would be more than fifteen.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import yaml
from prefect import get_client
from prefect.automations import Automation
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.exceptions import ObjectAlreadyExists
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.workers.process import ProcessWorker

from rlpath_core import __version__
from rlpath_core.packaged import packaged

SILENCE = 90
"""Seconds without a heartbeat after which a run counts as crashed; heartbeats come every 30 s (prefect.toml)."""


def read_project() -> dict[str, Any]:
    project: dict[str, Any] = yaml.safe_load(packaged("prefect.yaml").read_text(encoding="utf-8"))
    return project


def pool_names() -> list[str]:
    return list(read_project()["definitions"]["pools"])


def deployments() -> list[tuple[Flow[..., Any], dict[str, Any]]]:
    """Each deployment of prefect.yaml with its flow."""
    return [
        (load_flow_from_entrypoint(entry["entrypoint"], use_placeholder_flow=False), entry)
        for entry in read_project()["deployments"]
    ]


def register_pools(client: SyncPrefectClient) -> None:
    """Create the pools. One that exists keeps its settings, such as a limit that its owner set."""
    template = ProcessWorker.get_default_base_job_template()
    for name, settings in read_project()["definitions"]["pools"].items():
        pool = WorkPoolCreate(name=name, type="process", base_job_template=template, **(settings or {}))
        try:
            client.create_work_pool(pool)
        except ObjectAlreadyExists:
            continue


def register_deployments(client: SyncPrefectClient) -> list[str]:
    """Create or update the deployments; returns their names."""
    names = []
    for flow, entry in deployments():
        client.create_deployment(
            flow_id=client.create_flow_from_name(flow.name),
            name=entry["name"],
            version=__version__,
            entrypoint=entry["entrypoint"],
            description=entry.get("description") or flow.description,
            tags=entry.get("tags", []),
            parameters=entry.get("parameters", {}),
            work_pool_name=entry["work_pool"]["name"],
            job_variables=entry["work_pool"]["job_variables"],
            parameter_openapi_schema=flow.parameters.model_dump(exclude_unset=False),
            enforce_parameter_schema=True,
            pull_steps=[],
        )
        names.append(f"{flow.name}/{entry['name']}")
    return names


def register_automation() -> None:
    """A run whose process and worker both died sends no heartbeat: after SILENCE seconds it is marked Crashed."""
    name = "rlpath: a silent run has crashed"
    ended = {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Cancelled", "Crashed", "AwaitingRetry")}
    wanted = Automation(
        name=name,
        description=f"No heartbeat for {SILENCE} s: the process is gone, and its worker with it.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *ended},
            match={"prefect.resource.id": "prefect.flow-run.*"},  # type: ignore[arg-type]
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SILENCE),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=f"no heartbeat for {SILENCE} s")],
    )
    try:
        Automation.read(name=name)  # type: ignore[unused-coroutine]
    except ValueError:
        wanted.create()  # type: ignore[unused-coroutine]


def register() -> list[str]:
    with get_client(sync_client=True) as client:
        register_pools(client)
        names = register_deployments(client)
    register_automation()
    return names

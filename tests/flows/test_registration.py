"""prefect.yaml against what the server has after registration, and against the flows themselves."""

from __future__ import annotations

import pytest
from prefect import get_client

from flows.services.register import deployments, pool_names, read_project, register

pytestmark = pytest.mark.flows

WANTED = {
    "al-loop": "cpu",
    "outbox": "cpu",
    "action-quality": "cpu",
    "visualize": "cpu",
    "sample": "gpu-mace",
    "paths": "gpu-mace",
    "train": "gpu-mace",
    "evaluate": "gpu-mace",
    "run": "gpu-mace",
    "dft-submit": "dft",
    "evaluate-start": "gpu-mace",
    "explore": "gpu-mace",
    "find-paths": "gpu-mace",
    "label": "dft",
    "learn": "gpu-mace",
}


FAIRCHEM = {flow for flow, pool in WANTED.items() if pool == "gpu-mace"}


def test_every_flow_is_deployed_on_its_pool() -> None:
    pools = {(flow.name, entry["name"]): entry["work_pool"]["name"] for flow, entry in deployments()}
    default = {(flow, "default"): pool for flow, pool in WANTED.items()}
    assert pools == default | {(flow, "fairchem"): "gpu-fairchem" for flow in FAIRCHEM}
    assert set(WANTED.values()) <= set(pool_names()) == {"cpu", "gpu-mace", "gpu-fairchem", "dft"}


def test_registration_is_idempotent_and_equals_the_file() -> None:
    names = register()
    assert sorted(names) == sorted([f"{flow}/default" for flow in WANTED] + [f"{flow}/fairchem" for flow in FAIRCHEM])
    with get_client(sync_client=True) as client:
        first = {name: client.read_deployment_by_name(name) for name in names}
        limit = client.read_work_pool("gpu-mace").concurrency_limit
    assert limit is None
    register()
    with get_client(sync_client=True) as client:
        for flow, entry in deployments():
            name = f"{flow.name}/{entry['name']}"
            again = client.read_deployment_by_name(name)
            assert again.id == first[name].id
            assert again.entrypoint == entry["entrypoint"]
            assert again.work_pool_name == entry["work_pool"]["name"]
            assert again.job_variables == entry["work_pool"]["job_variables"]
            assert again.job_variables["stream_output"] is False
            assert again.parameter_openapi_schema == flow.parameters.model_dump()
            assert not again.pull_steps
        pools = {pool.name: pool.type for pool in client.read_work_pools()}
    assert pools == dict.fromkeys(pool_names(), "process")


def test_a_limit_set_by_hand_survives_registration() -> None:
    from prefect.client.schemas.actions import WorkPoolUpdate

    register()
    with get_client(sync_client=True) as client:
        client.update_work_pool("gpu-mace", WorkPoolUpdate(concurrency_limit=2))
        register()
        assert client.read_work_pool("gpu-mace").concurrency_limit == 2
        client.update_work_pool("gpu-mace", WorkPoolUpdate(concurrency_limit=None))


def test_stage_names_agree() -> None:
    from rlpath_core.campaign.campaign import STAGES as CORE
    from tasks.campaign import STAGES

    entrypoints = {entry["entrypoint"] for entry in read_project()["deployments"]}
    assert set(STAGES) == set(CORE)
    assert {f"flows.stages.{stage}" for stage in STAGES} <= entrypoints

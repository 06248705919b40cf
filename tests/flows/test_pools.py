"""How the loop follows a stage that runs elsewhere. The test reports the states, as a worker would."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled, Completed, Crashed, Failed, Pending, Running, State

from flows import al_loop, pools
from flows.services.register import register
from rlpath_core.campaign import Campaign, open_campaign
from rlpath_core.errors import FatalError
from rlpath_core.files import write_json

pytestmark = pytest.mark.flows


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    register()
    monkeypatch.setattr(pools, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(pools, "CRASH_PAUSE", 0.05)


def runs_of(client: SyncPrefectClient, campaign: Path) -> list[FlowRun]:
    wanted = FlowRunFilter(tags=FlowRunFilterTags(all_=[f"campaign:{campaign.name}"]))
    return sorted(client.read_flow_runs(flow_run_filter=wanted), key=lambda run: run.created or 0)  # type: ignore[return-value,arg-type]


def wait_for(ready: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def report(client: SyncPrefectClient, run: UUID, *states: State) -> None:
    for state in states:
        client.set_flow_run_state(run, state, force=True)


def follow_in_background(
    campaign: Path, stage: str = "explore", deployment: str = "default"
) -> tuple[threading.Thread, list[BaseException | None]]:
    ended: list[BaseException | None] = []

    def work() -> None:
        try:
            pools.run_on_pool(stage, campaign, 1, deployment)
            ended.append(None)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, ended


def test_a_crashed_stage_is_started_again_as_the_same_run(tmp_path: Path) -> None:
    campaign = tmp_path / "crashing"
    with get_client(sync_client=True) as client:
        thread, ended = follow_in_background(campaign)
        wait_for(lambda: runs_of(client, campaign))
        run = runs_of(client, campaign)[0].id
        for _ in range(pools.CRASH_LIMIT):
            report(client, run, Pending(), Running(), Crashed(message="killed"))
            wait_for(lambda: client.read_flow_run(run).state_name == "AwaitingRetry")
        report(client, run, Pending(), Running(), Completed())
        thread.join(120)
        assert ended == [None]
        assert [found.id for found in runs_of(client, campaign)] == [run]


def test_a_stage_that_crashes_for_ever_ends_the_loop(tmp_path: Path) -> None:
    campaign = tmp_path / "hopeless"
    with get_client(sync_client=True) as client:
        thread, ended = follow_in_background(campaign)
        wait_for(lambda: runs_of(client, campaign))
        run = runs_of(client, campaign)[0].id
        for _ in range(pools.CRASH_LIMIT):
            report(client, run, Crashed(message="killed"))
            wait_for(lambda: client.read_flow_run(run).state_name == "AwaitingRetry")
        report(client, run, Crashed(message="killed"))
        thread.join(120)
    assert isinstance(ended[0], FatalError)


@pytest.mark.parametrize("end", [Failed(message="InputError: no such element"), Cancelled(message="by hand")])
def test_a_failed_or_cancelled_stage_says_why(tmp_path: Path, end: State) -> None:
    campaign = tmp_path / f"ends-{end.type.value.lower()}"
    with get_client(sync_client=True) as client:
        thread, ended = follow_in_background(campaign)
        wait_for(lambda: runs_of(client, campaign))
        report(client, runs_of(client, campaign)[0].id, Pending(), Running(), end)
        thread.join(120)
    assert isinstance(ended[0], FatalError)
    assert end.message is not None
    assert end.message in str(ended[0])


def test_a_new_loop_follows_the_run_that_a_killed_one_left(tmp_path: Path) -> None:
    campaign = tmp_path / "adopted"
    with get_client(sync_client=True) as client:
        first, _ = follow_in_background(campaign)
        wait_for(lambda: runs_of(client, campaign))
        second, ended = follow_in_background(campaign)
        time.sleep(1)
        assert second.is_alive()
        assert len(runs_of(client, campaign)) == 1
        report(client, runs_of(client, campaign)[0].id, Pending(), Running(), Completed())
        first.join(120)
        second.join(120)
        assert ended == [None]
        # The stage is asked for again (its result was lost, or it failed and was mended): that is a new run.
        third, again = follow_in_background(campaign)
        wait_for(lambda: len(runs_of(client, campaign)) == 2)
        report(client, runs_of(client, campaign)[1].id, Pending(), Running(), Completed())
        third.join(120)
    assert again == [None]


@pytest.mark.parametrize(
    ("backend", "pool"),
    [("mace", "gpu-mace"), ("equiformer_v2", "gpu-fairchem"), ("gemnet_oc", "gpu-fairchem"), (None, "dft")],
)
def test_a_stage_goes_to_the_pool_of_the_backend_that_it_needs(tmp_path: Path, backend: str | None, pool: str) -> None:
    campaign, stage = tmp_path / f"of-{backend}", "label" if backend is None else "learn"
    with get_client(sync_client=True) as client:
        thread, ended = follow_in_background(campaign, stage, pools.deployment_of(backend))
        wait_for(lambda: runs_of(client, campaign))
        run = runs_of(client, campaign)[0]
        assert run.work_pool_name == pool
        report(client, run.id, Pending(), Running(), Completed())
        thread.join(120)
    assert ended == [None]


def test_a_loop_of_two_backends_asks_for_each_stage_where_its_model_is_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "start.json").write_text("{}")
    (tmp_path / "eqv2.yml").write_text("optim: {batch_size: 2, max_epochs: 1, lr_initial: 0.001}\n")
    start = {"model": str(tmp_path / "start.json")}
    eqv2 = start | {"train": {"config_yml": str(tmp_path / "eqv2.yml")}}
    campaign = open_campaign(
        {
            "campaigns_dir": str(tmp_path),
            "backend": ["mace", "equiformer_v2"],
            "backends": {"mace": start, "equiformer_v2": eqv2},
        }
    )
    asked = []

    def ask_only(stage: str, folder: Path, round: int, deployment: str) -> None:
        asked.append((stage, deployment))
        write_json(folder / "stages" / f"round-{round}-{stage}.json", {"seconds": {}})

    monkeypatch.setattr(al_loop, "run_on_pool", ask_only)
    monkeypatch.setattr(Campaign, "finish_round", lambda *_: {"labels": 0})
    for round in (0, 1, 2, 3):
        al_loop.run_round(campaign, round, True, al_loop.LoopBar(campaign))
    assert asked == [
        ("evaluate_start", "default"),
        *(("explore", "default"), ("find_paths", "default"), ("label", "default"), ("learn", "default")),
        *(("explore", "default"), ("find_paths", "default"), ("label", "default"), ("learn", "fairchem")),
        *(("explore", "fairchem"), ("find_paths", "fairchem"), ("label", "default"), ("learn", "default")),
    ]

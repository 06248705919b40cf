"""The active-learning loop: explore, find saddles, label, learn, measure. ``python -m flows.al_loop [--params ...]``

The loop only sequences. The campaign's folder and database record what is done, so the same command resumes it after
any kill.
"""

from __future__ import annotations

import base64
import re
import sys
import time
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.runtime import flow_run

from flows.cli import Command, Given, absolute, execute, server_url
from flows.pools import deployment_of, run_on_pool
from flows.stages import run_stage
from rlpath_core.campaign import Campaign, check_environments, load_campaign, open_campaign
from rlpath_core.campaign.options import CampaignConfig
from rlpath_core.campaign.resolve import resolve_campaign
from rlpath_core.config import Section, merge, read_mapping
from rlpath_core.errors import FatalError
from rlpath_core.locks import exclusive
from tasks.policy import in_prefect
from tasks.progress import logger


def _run_name() -> str:
    given = flow_run.get_parameters()
    name = given.get("campaign") or (given.get("params") or {}).get("campaign") or "default"
    return f"{name} loop"


@flow(name="al-loop", flow_run_name=_run_name)
def al_loop(
    config: str | None = None,
    params: dict[str, Any] | None = None,
    campaign: str | None = None,
    seed: int | None = None,
    rounds: int | None = None,
    execution: str | None = None,
) -> str:
    """Run or continue a campaign to its last round and return its folder.

    ``config`` is the campaign's file, which stands alone; without one, the demonstration (configs/al_loop.yaml).
    ``params`` are keys laid on the file, and so are the four other arguments. ``execution: pools`` gives each stage to
    a worker of its pool, ``inline`` runs the stages in this process.
    """
    opened = open_campaign(*given_params(config, params, campaign, seed, rounds, execution))
    pools = opened.config.execution == "pools"
    if pools and not in_prefect():
        logger().info("no Prefect server answers: the stages run in this process, one after the other")
        pools = False
    if not pools:
        check_environments(opened.config)
    with exclusive(opened.folder / ".lock", f"a loop on campaign {opened.config.campaign!r}"):
        bar = LoopBar(opened)
        while (round := opened.next_round()) is not None:
            run_round(opened, round, pools, bar)
        bar.show()
    return str(opened.folder)


def given_params(
    config: str | None = None,
    params: dict[str, Any] | None = None,
    campaign: str | None = None,
    seed: int | None = None,
    rounds: int | None = None,
    execution: str | None = None,
) -> tuple[dict[str, Any], Path | None]:
    """The flow's arguments as one mapping, and the file that relative paths in it refer to."""
    short = {"campaign": campaign, "seed": seed, "rounds": rounds, "execution": execution}
    given = merge(read_mapping(config) if config else {}, params or {})
    return given | {key: value for key, value in short.items() if value is not None}, Path(config) if config else None


def run_round(campaign: Campaign, round: int, pools: bool, bar: LoopBar) -> None:
    """The stages of one round that are left, then its entry in the report."""
    began = time.monotonic()
    own = 0.0
    for stage in campaign.stages(round):
        logger().info("round %d: %s", round, stage)
        bar.show(f"round {round}: {stage}")
        if pools:
            run_on_pool(stage, campaign.folder, round, deployment_of(campaign.stage_backend(stage, round)))
        else:
            run_stage(stage, str(campaign.folder), round)
        ended = campaign.ended(stage, round)
        if ended is None:
            raise FatalError(
                f"{stage} of round {round} ended elsewhere, but {campaign.folder} does not have its result"
            )
        own += sum(ended["seconds"].values())
    # What a stage did before this loop took over is no time of this loop: never below zero.
    entry = campaign.finish_round(round, max(0.0, time.monotonic() - began - own))
    logger().info("round %d is done: %s labels%s", round, entry["labels"], _errors(entry))
    if in_prefect():
        publish(campaign, round)


def _errors(entry: dict[str, Any]) -> str:
    """The round's force errors as the end of a sentence; empty for a round that measured none."""
    held_out = "force_mae" in entry
    errors = entry if held_out else entry.get("error_on_new_labels")
    if not errors:
        return ""
    of = "held-out set" if held_out else "new labels before training"
    return f", force MAE {1000 * errors['force_mae']:.1f} and RMSE {1000 * errors['force_rmse']:.1f} meV/Å on the {of}"


def publish(campaign: Campaign, round: int) -> None:
    """The round's table and learning curve where the Prefect UI shows them; no failure of it ends the loop."""
    key = artifact_key(campaign)
    try:
        table, picture = campaign.artifact(round)
        data = f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"
        create_markdown_artifact(
            f"# {campaign.config.campaign}: round {round}\n\n{table}\n\n![learning curve]({data})\n\n"
            f"Report: `{campaign.folder / 'report.html'}`\n",
            key=f"{key}-rounds",
            description=f"rounds of campaign {campaign.config.campaign}",
        )
        create_image_artifact(data, key=f"{key}-learning-curve", description=f"learning curve after round {round}")
    except Exception as error:
        logger().warning("no artifact for round %d: %s", round, error)


def artifact_key(campaign: Campaign) -> str:
    return re.sub(r"[^a-z0-9]+", "-", campaign.config.campaign.lower()).strip("-")


class LoopBar:
    """One bar in the Prefect UI for the whole loop, in stages."""

    def __init__(self, campaign: Campaign) -> None:
        self._campaign = campaign
        self._artifact: Any = None

    def show(self, what: str = "done") -> None:
        if not in_prefect():
            return
        rounds = range(self._campaign.config.rounds + 1)
        left = sum(len(self._campaign.stages(round)) for round in rounds)
        percent = 100.0 * (1.0 - left / sum(len(self._campaign.stages_of(round)) for round in rounds))
        try:
            if self._artifact is None:
                self._artifact = create_progress_artifact(
                    percent, key=f"{artifact_key(self._campaign)}-progress", description=what
                )
            else:
                update_progress_artifact(self._artifact, progress=percent, description=what)
        except Exception as error:
            logger().warning("no progress artifact: %s", error)


def closing(campaign: Campaign) -> str:
    """What the command lines end with: the table and where the report is."""
    folder = campaign.folder / "network"
    steps = f"elementary steps: {folder}\n" if folder.exists() else ""
    state = "is done" if campaign.next_round() is None else "is not done"
    return (
        f"{campaign.table()}\n"
        f"campaign {campaign.config.campaign} {state}: {campaign.config.rounds} rounds wanted\n"
        f"{steps}"
        f"report: {campaign.folder / 'report.html'}\n"
        f"learning curve: {campaign.folder / 'learning_curve.png'}"
    )


class Flags(Section):
    """Flags beside the keys of a campaign."""

    config: Path | None = None
    """The campaign's file, as `rlpath init` writes it; without one, the demonstration (configs/al_loop.yaml)."""
    services: bool = False
    """Start the local Prefect server and workers, have them run the loop, and follow it."""


def act(given: Given) -> int | None:
    flags = given.checked(Flags, params=False)
    params, source = given.of(CampaignConfig), flags.config or given.source
    config = None if source is None else absolute(source)
    # Bad input is one line: it is found here, before Prefect could log a traceback of it.
    resolved = resolve_campaign(*given_params(config, params))
    if flags.services:
        from flows.services.follow import run_deployment

        return run_deployment(config, params, resolved)
    if resolved.execution == "inline" or server_url() is None:
        check_environments(resolved)
    print(closing(load_campaign(execute(al_loop, config=config, params=params))))
    return None


main = Command(
    "loop",
    "Run or continue an active-learning campaign.",
    act,
    params=CampaignConfig,
    flags=("campaign", "seed", "rounds", "execution", "device"),
    own=Flags,
)


if __name__ == "__main__":
    sys.exit(main())

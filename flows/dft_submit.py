"""Reference calculations of what the outbox chose: ``python -m flows.dft_submit [ACTION] --run_dir runs/sample``.

Actions: ``run`` (submit, wait, collect; what is done where none is given), ``submit``, ``collect``, ``status``,
``failures``, ``retry``, ``cancel``. Between two commands nothing has to run but the scheduler.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from prefect import flow
from pydantic import Field

from flows.cli import Command, Given, execute, layered, show
from rlpath_core import dft
from rlpath_core.config import Section, check
from rlpath_core.dft.options import DftConfig, DftSpec
from rlpath_core.dft.resolve import resolve_dft
from rlpath_core.dft.status import failures, status, table
from rlpath_core.store import Store, find_store
from tasks.labels import dft_submit as dft_submit_task
from tasks.policy import call


@flow(name="dft-submit")
def dft_submit(
    run_dir: str, config: dict[str, Any] | None = None, round: int | None = None, lmdb: str | None = None
) -> dict[str, Any]:
    """Submit what is selected in the store of ``run_dir``, wait, and collect each label once, also into ``lmdb``."""
    folder = find_store(run_dir)
    checked = check(DftConfig, config or {}, "config")
    return call(dft_submit_task, str(folder), lmdb or lmdb_of(folder, round), checked, round)


def lmdb_of(folder: Path, round: int | None) -> str:
    return str(folder / "labels" / ("labels.lmdb" if round is None else f"round-{round}.lmdb"))


class Flags(Section):
    """What to do; the keys of ``DftSpec`` say with which calculations."""

    action: Literal["run", "submit", "collect", "status", "failures", "retry", "cancel"] = "run"
    """run: submit, wait and collect. submit: give what is selected to the scheduler and return. collect: take in what
    has ended, once, or with --wait until everything has. status: jobs by state and round, and the scheduler's reasons
    for those that wait. failures: what failed, and why. retry: submit failed jobs again with the next submit or run.
    cancel: end what is submitted or running."""
    wait: bool = False
    """collect: until everything has ended."""
    job: list[str] | None = None
    """retry, cancel: these jobs only (the beginning of an id); `all`, or none given, for all."""
    as_json: bool = Field(False, alias="json")
    """status, failures: as JSON."""


def act(given: Given) -> None:
    flags, spec = given.checked(Flags, params=False), given.checked(DftSpec)
    config = layered(DftConfig, "dft", spec.config, spec.dft)
    folder = find_store(spec.run_dir)
    saved = folder / "config.yaml"
    if not config and saved.exists():  # a campaign's jobs are known by the settings that they were made with
        config = layered(DftConfig, "dft", saved, spec.dft)
    where, beside = spec.config or "--params", None if spec.config is None else spec.config.parent
    checked = resolve_dft(check(DftConfig, config, where), where, folder=beside)
    config = checked.model_dump(mode="json")
    lmdb = None if spec.lmdb is None else str(spec.lmdb)
    if flags.action == "run":
        show(execute(dft_submit, run_dir=str(spec.run_dir), config=config, round=spec.round, lmdb=lmdb))
        return
    with Store(folder) as store:
        act_on(store, checked, spec.round, lmdb or lmdb_of(folder, spec.round), flags)


def act_on(store: Store, config: DftConfig, round: int | None, lmdb: str, flags: Flags) -> None:
    """Every action but ``run``; needs no server."""
    action = flags.action
    if action in ("status", "failures"):
        rows = status(store, round, config) if action == "status" else failures(store, round)
        print(json.dumps(rows, indent=2) if flags.as_json else table(rows))
    elif action == "submit":
        show(asdict(dft.submit(store, config, round_index=round, lmdb=lmdb)))
    elif action == "collect":
        show(asdict(dft.collect(store, config, round_index=round, lmdb=lmdb, wait=flags.wait)))
    else:
        jobs = {"retry": dft.retry, "cancel": dft.cancel}[action](store, config, round_index=round, jobs=flags.job)
        print(f"{action}: {len(jobs)}", *jobs, sep="\n")


main = Command("dft", "Label what the outbox chose.", act, params=DftSpec, own=Flags, positional="action")


if __name__ == "__main__":
    sys.exit(main())

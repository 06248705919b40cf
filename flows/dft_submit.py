"""Reference calculations of what the outbox chose: ``python -m flows.dft_submit [ACTION] --run_dir runs/sample``.

Actions: ``run`` (submit, wait, collect; what is done where none is given), ``submit``, ``collect``, ``status``,
``failures``, ``retry``, ``cancel``. Between two commands nothing has to run but the scheduler.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefect import flow

from flows.cli import absolute, execute, only, params_of, parser, run_command, section, show
from rlpath_core import dft
from rlpath_core.config import check, parse_params
from rlpath_core.dft.options import DftConfig, DftSpec
from rlpath_core.dft.status import failures, status, table
from rlpath_core.errors import InputError
from rlpath_core.store import Store, find_store
from tasks.labels import dft_submit as dft_submit_task
from tasks.policy import call

KEYS = tuple(DftSpec.model_fields)
ACTIONS = {
    "run": "submit, wait and collect",
    "submit": "give what is selected to the scheduler and return",
    "collect": "take in what has ended, once, or with --wait until all has",
    "status": "how many are in which state, by round",
    "failures": "what failed, and why",
    "retry": "make failed jobs submitted again, for the next submit or run",
    "cancel": "end what is submitted or running",
}


@flow(name="dft-submit")
def dft_submit(
    run_dir: str, config: dict[str, Any] | None = None, round: int | None = None, lmdb: str | None = None
) -> dict[str, Any]:
    """Submit what is selected in the store of ``run_dir``, wait, and collect each label once, also into ``lmdb``."""
    folder = find_store(run_dir)
    return call(dft_submit_task, str(folder), lmdb or lmdb_of(folder, round), config or {}, round)


def lmdb_of(folder: Path, round: int | None) -> str:
    return str(folder / "labels" / ("labels.lmdb" if round is None else f"round-{round}.lmdb"))


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser("dft_submit", "Label what the outbox chose.")
    actions = "; ".join(f"{name}: {what}" for name, what in ACTIONS.items())
    arguments.add_argument("action", nargs="?", choices=list(ACTIONS), default="run", help=actions)
    arguments.add_argument("--run_dir", help="a sampling run's or a campaign's folder")
    arguments.add_argument("--config", help="YAML of the engine and launcher (configs/dft.yaml)")
    arguments.add_argument("--round", type=int, help="only what this round of the campaign selected")
    arguments.add_argument("--lmdb", help="where the labels go; default: labels/ beside the database")
    arguments.add_argument("--wait", action="store_true", help="collect: until everything is settled")
    arguments.add_argument("--job", action="append", help="retry, cancel: this job only (the beginning of its id)")
    arguments.add_argument("--json", action="store_true", help="status, failures: as JSON")
    given = arguments.parse_args(argv)

    def command() -> None:
        params, source = parse_params(params_of(given), DftSpec)
        params |= {key: value for key in KEYS if (value := getattr(given, key, None)) is not None}
        only(params, KEYS, source)
        if "run_dir" not in params:
            raise InputError("--run_dir is required", source or "--params", "run_dir")
        config = section(params, "dft", params.get("config"))
        checked = check(DftConfig, config, params.get("config") or source or "--params")
        folder = find_store(params["run_dir"])
        saved = folder / "config.yaml"
        if not config and saved.exists():  # a campaign's jobs are known by the settings that they were made with
            config = section({}, "dft", str(saved))
            checked = check(DftConfig, config, saved)
        round, lmdb = params.get("round"), params.get("lmdb") and absolute(params["lmdb"])
        if given.action == "run":
            show(execute(dft_submit, run_dir=absolute(params["run_dir"]), config=config, round=round, lmdb=lmdb))
            return
        with Store(folder) as store:
            act(given.action, store, checked, round, lmdb or lmdb_of(folder, round), given)

    return run_command(command)


def act(action: str, store: Store, config: DftConfig, round: int | None, lmdb: str, given: Any) -> None:
    """Every action but ``run``; needs no server."""
    if action in ("status", "failures"):
        rows = (status if action == "status" else failures)(store, round)
        print(json.dumps(rows, indent=2) if given.json else table(rows))
    elif action == "submit":
        show(asdict(dft.submit(store, config, round=round, lmdb=lmdb)))
    elif action == "collect":
        show(asdict(dft.collect(store, config, round=round, lmdb=lmdb, wait=given.wait)))
    else:
        jobs = {"retry": dft.retry, "cancel": dft.cancel}[action](store, config, round=round, jobs=given.job)
        print(f"{action}: {len(jobs)}", *jobs, sep="\n")


if __name__ == "__main__":
    sys.exit(main())

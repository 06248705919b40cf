"""Reference calculations of what the outbox chose: ``python -m flows.dft_submit --run_dir runs/sample``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow

from flows.cli import absolute, execute, only, params_of, parser, run_command, section, show, store_of
from rlpath_core.errors import InputError
from rlpath_core.spec.dft import DftConfig
from rlpath_core.spec.load import check, parse_params
from tasks.labels import dft_submit as dft_submit_task
from tasks.policy import call

KEYS = ("run_dir", "config", "dft", "round", "lmdb")
PATH_KEYS = ("run_dir", "config", "lmdb")


@flow(name="dft-submit")
def dft_submit(
    run_dir: str, config: dict[str, Any] | None = None, round: int | None = None, lmdb: str | None = None
) -> dict[str, Any]:
    """Submit what is selected in the store of ``run_dir``, wait, and collect each label once, also into ``lmdb``."""
    folder = store_of(run_dir)
    target = lmdb or str(Path(folder) / "labels" / ("labels.lmdb" if round is None else f"round-{round}.lmdb"))
    return call(dft_submit_task, str(folder), target, config or {}, round)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser("dft_submit", "Label what the outbox chose.")
    arguments.add_argument("--run_dir", help="a sampling run's or a campaign's folder")
    arguments.add_argument("--config", help="YAML of the engine and launcher (configs/dft.yaml)")
    arguments.add_argument("--round", type=int, help="only what this round of the campaign selected")
    arguments.add_argument("--lmdb", help="where the labels go; default: labels/ beside the database")
    given = arguments.parse_args(argv)

    def command() -> None:
        params, source = parse_params(params_of(given), PATH_KEYS)
        params |= {key: value for key in KEYS if (value := getattr(given, key, None)) is not None}
        only(params, KEYS, source)
        if "run_dir" not in params:
            raise InputError("--run_dir is required", source or "--params", "run_dir")
        config = section(params, "dft", params.get("config"))
        check(DftConfig, config, params.get("config") or source or "--params")
        store_of(params["run_dir"])
        lmdb = params.get("lmdb") and absolute(params["lmdb"])
        show(
            execute(
                dft_submit, run_dir=absolute(params["run_dir"]), config=config, round=params.get("round"), lmdb=lmdb
            )
        )

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())

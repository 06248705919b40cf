"""Which actions live, why the others die, what they find: ``python -m flows.action_quality --run_dir runs/sample``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows.cli import absolute, execute, only, params_of, parser, run_command
from rlpath_core.config import parse_params
from rlpath_core.errors import InputError
from rlpath_core.sampling.command import QualitySpec
from rlpath_core.sampling.quality import write_quality
from tasks.policy import in_prefect

KEYS = ("run_dir", "json")


@flow(name="action-quality")
def action_quality(run_dir: str) -> tuple[str, dict[str, Any]]:
    """The report of a sampling run as text and as numbers; in Prefect also as an artifact."""
    text, statistics = write_quality(absolute(run_dir, must_exist="run_dir"))
    if in_prefect():
        create_markdown_artifact(f"```\n{text}\n```", key="action-quality", description=run_dir)
    return text, statistics


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser("action_quality", "Acceptance, magnitudes, forces and new basins by action.")
    arguments.add_argument("--run_dir", help="output folder of a sampling run; the report is written there too")
    arguments.add_argument("--json", action="store_true", default=None, help="print JSON in place of the table")
    given = arguments.parse_args(argv)

    def command() -> None:
        params, source = parse_params(params_of(given), QualitySpec)
        params |= {key: value for key in KEYS if (value := getattr(given, key, None)) is not None}
        only(params, KEYS, source)
        if "run_dir" not in params:
            raise InputError("--run_dir is required", source or "--params", "run_dir")
        text, statistics = execute(action_quality, run_dir=absolute(params["run_dir"], must_exist="run_dir"))
        print(json.dumps(statistics, indent=2) if params.get("json") else text)

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())

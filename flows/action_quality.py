"""Which actions live, why the others die, what they find: ``python -m flows.action_quality --run_dir runs/sample``."""

from __future__ import annotations

import json
import sys
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from flows.cli import Command, Given, absolute, execute
from rlpath_core.config import Section
from rlpath_core.sampling.command import QualitySpec
from rlpath_core.sampling.quality import write_quality
from tasks.policy import in_prefect


@flow(name="action-quality")
def action_quality(run_dir: str) -> tuple[str, dict[str, Any]]:
    """The report of a sampling run as text and as numbers; in Prefect also as an artifact."""
    text, statistics = write_quality(absolute(run_dir, must_exist="run_dir"))
    if in_prefect():
        create_markdown_artifact(f"```\n{text}\n```", key="action-quality", description=run_dir)
    return text, statistics


class Flags(Section):
    """Flags beside the keys of ``QualitySpec``."""

    as_json: bool = Field(False, alias="json")
    """Print JSON in place of the table."""


def act(given: Given) -> None:
    run_dir = given.checked(QualitySpec).run_dir
    text, statistics = execute(action_quality, run_dir=absolute(run_dir, must_exist="run_dir"))
    print(json.dumps(statistics, indent=2) if given.checked(Flags, params=False).as_json else text)


main = Command(
    "action-quality", "Acceptance, magnitudes, forces and new basins by action.", act, params=QualitySpec, own=Flags
)


if __name__ == "__main__":
    sys.exit(main())

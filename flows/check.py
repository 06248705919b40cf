"""What rlpath sees in structures, data sets and models: ``python -m flows.check FILE... [--manifest M]``."""

from __future__ import annotations

import sys

from flows.cli import Command, Given
from rlpath_core.checking import CheckSpec, check_files
from rlpath_core.files import write_json


def act(given: Given) -> int:
    spec = given.checked(CheckSpec)
    reports = []
    for report in check_files(spec):
        print("\n".join(report.lines()), flush=True)
        reports.append(report)
    if spec.json_output is not None:
        write_json(spec.json_output, [report.as_json() for report in reports])
    return 2 if any(report.error for report in reports) else 0


main = Command(
    "check",
    "What rlpath sees in structures, data sets and models, and what looks wrong.",
    act,
    own=CheckSpec,
    positional="files",
)


if __name__ == "__main__":
    sys.exit(main())

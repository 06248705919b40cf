"""What one process leaves for the next in the folder of a job that it gives to Slurm.

``submission.<attempt>.json``  written before the job is submitted: its name in the scheduler, its array index, and
                               the folder that it was submitted from, so that a copy of a campaign claims no jobs
``missing.<attempt>``          since when the scheduler has not known a job that left no end mark
"""

from __future__ import annotations

import json
from pathlib import Path

from rlpath_core.dft.launchers.base import Submission
from rlpath_core.errors import InputError

SPOOL = "scheduler"
"""The folder beside those of the jobs with the scripts and the output of what was submitted."""


def submission_of(submission: Submission) -> Path:
    return submission.folder / f"submission.{submission.attempt}.json"


def missing_of(submission: Submission) -> Path:
    return submission.folder / f"missing.{submission.attempt}"


def announced(submission: Submission) -> tuple[str, int | None] | None:
    """The job name and array index under which an earlier process meant to submit it.

    None if there is none, or if that was in another folder, of which this one is a copy.
    """
    try:
        value = json.loads(submission_of(submission).read_text(encoding="utf-8"))
        place = str(value["job"]), value["index"]
        spool = value.get("spool")  # rlpath 0.2 wrote none
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"cannot be read ({error}); remove it if no such job is queued", submission_of(submission)
        ) from error
    return place if spool is None or _same(Path(spool), submission.folder.parent / SPOOL) else None


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return one == other


def times(submission: Submission) -> int:
    """How often the attempt was submitted: more than once if the scheduler lost it before it began."""
    try:
        return int(json.loads(submission_of(submission).read_text(encoding="utf-8"))["times"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0

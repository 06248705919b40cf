"""The named steps of a label's way, from the queue to the LMDB: between any two of them a process may be killed.

The steps are there for whoever wants to watch, or to test that claim: set ``watch`` to a function and it is called at
each of them. Nothing else depends on it.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum


class Step(StrEnum):
    """In the order in which a job passes them; the first group is of the submitting process."""

    PLANNED = "planned"
    INTENT_OPEN = "intent, before commit"
    INTENT = "intent committed"
    INPUT = "one input written"
    INPUTS = "all inputs written"
    ASKED = "scheduler asked"
    ANNOUNCED = "one submission announced"
    SUBMITTING = "before submission"
    SUBMITTED = "submitted, id unknown to the database"
    RECORDED = "id in the database"

    POLLED = "machine polled"
    RUNNING = "running committed"
    ENDED = "end seen"
    JUDGED_OPEN = "judged, before commit"
    JUDGED = "judgement committed"
    ENTERING = "before the LMDB"
    ENTERED = "one label in the LMDB"
    LABEL_OPEN = "label's row, before commit"
    LABELLED = "label committed"

    ASIDE = "failed result put aside"
    RETRY = "retry committed"


watch: Callable[[Step], None] | None = None


def reached(step: Step) -> None:
    if watch is not None:
        watch(step)

"""For tests: the named steps between the queue and a label, at each of which a test may kill the process.

``observer``, if it is set, is called with every step that is reached. Nothing else depends on it.
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


observer: Callable[[Step], None] | None = None


def faultpoint(step: Step) -> None:
    if observer is not None:
        observer(step)

"""From candidates to a round's labels: the slab frame, near-duplicates, the budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlpath_core.lazy import loader

if TYPE_CHECKING:
    from rlpath_core.outbox.chosen import select_chosen, skip_rest
    from rlpath_core.outbox.dedup import Memory, rmsd
    from rlpath_core.outbox.group import Match
    from rlpath_core.outbox.handwritten import ImportSummary, import_queue
    from rlpath_core.outbox.queue import OutboxSummary, process_outbox

__all__ = [
    "ImportSummary",
    "Match",
    "Memory",
    "OutboxSummary",
    "import_queue",
    "process_outbox",
    "rmsd",
    "select_chosen",
    "skip_rest",
]

__getattr__ = loader(
    __name__,
    {
        "ImportSummary": "handwritten",
        "Match": "group",
        "Memory": "dedup",
        "OutboxSummary": "queue",
        "import_queue": "handwritten",
        "process_outbox": "queue",
        "rmsd": "dedup",
        "select_chosen": "chosen",
        "skip_rest": "chosen",
    },
)

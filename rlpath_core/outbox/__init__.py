"""From candidates to a round's labels: the slab frame, near-duplicates, the budget."""

from rlpath_core.outbox.canonicalize import Canonical, canonicalize
from rlpath_core.outbox.dedup import Match, Memory, rmsd
from rlpath_core.outbox.handwritten import ImportSummary, import_queue
from rlpath_core.outbox.queue import OutboxSummary, process_outbox

__all__ = [
    "Canonical",
    "ImportSummary",
    "Match",
    "Memory",
    "OutboxSummary",
    "canonicalize",
    "import_queue",
    "process_outbox",
    "rmsd",
]

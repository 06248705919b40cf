"""Labels: engines know chemistry, launchers know machines, the hook knows what is wanted and what is there.

Names load when they are first used: every worker process of an engine passes through this package, and need not wait
for the database's imports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlpath_core.lazy import loader

if TYPE_CHECKING:
    from rlpath_core.dft.hook import LabelSummary, cancel, collect, label, retry, submit
    from rlpath_core.dft.identity import job_id

__all__ = ["LabelSummary", "cancel", "collect", "job_id", "label", "retry", "submit"]

__getattr__ = loader(
    __name__,
    {
        "LabelSummary": "hook",
        "cancel": "hook",
        "collect": "hook",
        "label": "hook",
        "retry": "hook",
        "submit": "hook",
        "job_id": "identity",
    },
)

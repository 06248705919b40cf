"""Labels: engines know chemistry, launchers know machines, ``labelling`` knows what is wanted and what exists.

Names load when they are first used: every worker process of an engine imports this package, and does not need the
database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlpath_core.lazy import loader

if TYPE_CHECKING:
    from rlpath_core.dft.identity import job_id
    from rlpath_core.dft.labelling import LabelSummary, cancel, collect, label, retry, submit

__all__ = ["LabelSummary", "cancel", "collect", "job_id", "label", "retry", "submit"]

__getattr__ = loader(
    __name__,
    {
        "LabelSummary": "labelling",
        "cancel": "labelling",
        "collect": "labelling",
        "label": "labelling",
        "retry": "labelling",
        "submit": "labelling",
        "job_id": "identity",
    },
)

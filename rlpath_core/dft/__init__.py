"""Labels: engines know chemistry, launchers know machines, the hook knows what is wanted and what is there.

Names load when they are first used: every worker process of an engine passes through this package, and need not wait
for the database's imports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlpath_core.dft.hook import LabelSummary, cancel, collect, label, retry, submit
    from rlpath_core.dft.identity import job_id

_WHERE = {
    "LabelSummary": "hook",
    "cancel": "hook",
    "collect": "hook",
    "label": "hook",
    "retry": "hook",
    "submit": "hook",
}
_WHERE |= {"job_id": "identity"}

__all__ = ["LabelSummary", "cancel", "collect", "job_id", "label", "retry", "submit"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)

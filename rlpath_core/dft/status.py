"""The state of a store's calculations, from the database alone: neither engine nor scheduler is asked."""

from __future__ import annotations

from typing import Any

from rlpath_core.dft.verdict import EXPLAINED
from rlpath_core.store import Store, queries

STATES = ("selected", "submitted", "running", "done", "labelled", "failed")


def status(store: Store, round_index: int | None = None) -> list[dict[str, Any]]:
    """One row per round: number of structures in each state, tries and core-hours so far."""
    out = []
    for found in queries.job_states(store, round_index):
        counts = {state: found.counts.get(state, 0) for state in STATES}
        if any(counts.values()):
            row = {"round": found.round} | counts
            out.append(row | {"tries": found.tries, "core_hours": float(f"{found.core_seconds / 3600:.4g}")})
    return out


def failures(store: Store, round_index: int | None = None) -> list[dict[str, Any]]:
    """One row per job that failed or is being tried again: kind, tries, folder and reason."""
    return [
        {
            "job": failure.job_id[:12],
            "round": failure.round,
            "state": failure.state,
            "kind": EXPLAINED.get(failure.kind or "", failure.kind or ""),
            "tries": failure.tries,
            "folder": failure.folder[: len("dft/") + 12],
            "reason": failure.reason or "",
        }
        for failure in queries.failures(store, round_index)
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Rows with the same keys as aligned text columns."""
    if not rows:
        return "nothing"
    texts = [list(rows[0])] + [["-" if value is None else str(value) for value in row.values()] for row in rows]
    widths = [max(len(line[n]) for line in texts) for n in range(len(texts[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in texts
    )

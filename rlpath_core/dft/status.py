"""Where a store's calculations stand, from the database alone: no engine, no scheduler is asked."""

from __future__ import annotations

from collections import Counter
from typing import Any

import sqlalchemy as sa

from rlpath_core.dft.verdict import EXPLAINED
from rlpath_core.store import Store, orm

STATES = ("selected", "submitted", "running", "done", "labelled", "failed")


def status(store: Store, round: int | None = None) -> list[dict[str, Any]]:
    """A row per round: how many structures are in each state, tries and core-hours so far."""
    queue = sa.select(orm.QueueRow.round, orm.QueueRow.state, sa.func.count()).group_by(
        orm.QueueRow.round, orm.QueueRow.state
    )
    cost = (
        sa.select(orm.QueueRow.round, sa.func.sum(orm.JobRow.tries), sa.func.sum(orm.JobRow.core_seconds))
        .join(orm.QueueRow, orm.QueueRow.structure_id == orm.JobRow.structure_id)
        .group_by(orm.QueueRow.round)
    )
    with store.reading() as session:
        counts: dict[int | None, Counter[str]] = {}
        for k, state, count in session.execute(queue):
            counts.setdefault(k, Counter())[state] += count
        costs = {k: (tries, seconds) for k, tries, seconds in session.execute(cost)}
    out = []
    for k in sorted(counts, key=lambda k: -1 if k is None else k):
        if (round is not None and k != round) or not any(counts[k][state] for state in STATES):
            continue
        tries, seconds = costs.get(k, (0, 0.0))
        row = {"round": k} | {state: counts[k][state] for state in STATES}
        out.append(row | {"tries": tries, "core_hours": round_to(seconds / 3600)})
    return out


def failures(store: Store, round: int | None = None) -> list[dict[str, Any]]:
    """A row per job that is no label, or is being tried again: kind, tries, folder and reason."""
    query = (
        sa.select(orm.JobRow, orm.QueueRow.round)
        .join(orm.QueueRow, orm.QueueRow.structure_id == orm.JobRow.structure_id)
        .where(sa.or_(orm.JobRow.state == "failed", orm.JobRow.reason.is_not(None)))
        .order_by(orm.QueueRow.id, orm.JobRow.created_at)
    )
    if round is not None:
        query = query.where(orm.QueueRow.round == round)
    with store.reading() as session:
        rows = session.execute(query).all()
    return [
        {
            "job": job.id[:12],
            "round": k,
            "state": job.state,
            "kind": EXPLAINED.get(job.failure or "", job.failure or ""),
            "tries": job.tries,
            "folder": job.folder[: len("dft/") + 12],
            "reason": job.reason or "",
        }
        for job, k in rows
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """Rows of one shape as aligned text; the last column runs on."""
    if not rows:
        return "nothing"
    texts = [list(rows[0])] + [["-" if value is None else str(value) for value in row.values()] for row in rows]
    widths = [max(len(line[n]) for line in texts) for n in range(len(texts[0]))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in texts
    )


def round_to(value: float, digits: int = 4) -> float:
    return float(f"{value:.{digits}g}")

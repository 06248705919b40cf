"""Decisions on candidates: their rows, the queue's states, and the two files that are written from them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from rlpath_core.files import atomic_write
from rlpath_core.outbox.options import OutboxConfig
from rlpath_core.store import orm
from rlpath_core.store.records import Decision, QueueEntry

SUBMIT, SKIP = "dft_submit.jsonl", "dft_skip.jsonl"
SELECTED, SKIPPED, KEPT = "selected", "skipped", "kept"
OVER_BUDGET = "over budget"
SCORE_DIGITS = 6
"""Decimals of a score that count, those of ``dft_queue.jsonl``: rounding noise does not decide between equal scores."""


def score(entry: QueueEntry) -> float:
    """The score of a candidate as far as it counts."""
    return round(entry.score, SCORE_DIGITS)


def exploded(entry: QueueEntry, config: OutboxConfig) -> str | None:
    """Why a candidate is not worth a label: a predicted force or a score above the limits; None if it is."""
    for name, value, limit in (
        ("max_force", entry.max_force, config.max_force),
        ("score", score(entry), config.max_score),
    ):
        if value is not None and limit is not None and not value <= limit:  # NaN is above every limit
            return f"exploded: {name} {value:.4g} is above {limit:g}"
    return None


def commit(session: Session, made: Sequence[orm.DecisionRow], folder: str, round_index: int | None) -> None:
    """Every decision, and the queue's states, in the caller's transaction."""
    for row in made:
        row.folder, row.round = folder, round_index
    session.add_all(made)
    changed = [
        {
            "key": row.structure_id,
            "new_state": row.verdict,
            "new_reason": row.reason,
            "new_duplicate_of": row.duplicate_of,
            "new_round": round_index,
        }
        for row in made
        if row.verdict != KEPT
    ]
    if changed:  # one statement for all of them
        table = orm.QueueRow.__table__
        assert isinstance(table, sa.Table)
        update = sa.update(table).where(table.c.structure_id == sa.bindparam("key"), table.c.state == "queued")
        columns = ("state", "reason", "duplicate_of", "round")
        session.connection().execute(update.values({name: sa.bindparam(f"new_{name}") for name in columns}), changed)


def export(run_dir: Path, decided: Sequence[Decision]) -> None:
    """Write ``dft_submit.jsonl`` and ``dft_skip.jsonl`` of a run folder, whole, from all decisions on it."""
    _write(run_dir / SUBMIT, [_line(decision) for decision in decided if decision.verdict == SELECTED])
    _write(run_dir / SKIP, [_line(decision) for decision in decided if decision.verdict == SKIPPED])


def _line(decision: Decision) -> dict[str, Any]:
    line = {
        "id": decision.n,
        "structure_id": decision.structure_id,
        "file": f"structures/{decision.structure_id}.npz",
        "round": decision.round,
        "run_id": decision.run_id,
        "attempt": decision.attempt,
        "stage": decision.stage,
        "trigger": decision.trigger,
        "score": decision.score,
        "max_force": decision.max_force,
    }
    if decision.verdict == SKIPPED:
        line |= {"reason": decision.reason, "duplicate_of": decision.duplicate_of, "rmsd": decision.rmsd}
    return line


def _write(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    with atomic_write(path) as stream:
        stream.write(text)

"""Candidates on their way into the queue: each structure once in a database, whoever met it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.orm import Session

from rlpath_core.sampling.plain import line, rounded
from rlpath_core.sampling.triggers import Candidate
from rlpath_core.store import Store, orm

CHUNK = 500


@dataclass(frozen=True)
class Queued:
    """A candidate, and the number and the action of what found it: an attempt, or a saddle search."""

    attempt: int
    action: str
    candidate: Candidate


class Queueing:
    """What a run adds to the queue.

    Parameters
    ----------
    store
        Its database.
    run_id
        The run.
    lines
        How many candidates the run has queued before.

    Attributes
    ----------
    ids
        Structures that are in the queue or were kept by ``keep_new``.
    """

    def __init__(self, store: Store, run_id: str, lines: int = 0) -> None:
        self.run_id, self.lines = run_id, lines
        with store.reading() as session:
            self.ids = set(session.scalars(sa.select(orm.QueueRow.structure_id)))

    def keep_new(self, candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
        """Those that nobody has queued before."""
        fresh = []
        for candidate in candidates:
            if candidate.structure.id not in self.ids:
                self.ids.add(candidate.structure.id)
                fresh.append(candidate)
        return tuple(fresh)

    def not_queued_by_others(self, session: Session, queued: Sequence[Queued]) -> list[Queued]:
        """Without those that another run on the same database has queued since this one began."""
        ids = [entry.candidate.structure.id for entry in queued]
        by_others: set[str] = set()
        for first in range(0, len(ids), CHUNK):
            some = orm.QueueRow.structure_id.in_(ids[first : first + CHUNK])
            by_others |= set(session.scalars(sa.select(orm.QueueRow.structure_id).where(some)))
        return [entry for entry in queued if entry.candidate.structure.id not in by_others]

    def put(self, session: Session, queued: Sequence[Queued]) -> None:
        """Add the rows; the structures are stored already."""
        round_index = session.get_one(orm.RunRow, self.run_id).round
        session.add_all(
            orm.QueueRow(
                structure_id=entry.candidate.structure.id,
                run_id=self.run_id,
                attempt=entry.attempt,
                stage=entry.candidate.stage,
                trigger=entry.candidate.trigger,
                score=entry.candidate.score,
                max_force=rounded(entry.candidate.max_force),
                energy=rounded(entry.candidate.energy),
                round=round_index,
            )
            for entry in queued
        )


def queue_text(queued: Sequence[Queued], run_id: str, first_id: int) -> str:
    """The lines of ``dft_queue.jsonl``; ``first_id`` is the first one's number in the file, from 1."""
    return "".join(
        line(
            {
                "id": first_id + k,
                "structure_id": entry.candidate.structure.id,
                "attempt": entry.attempt,
                "action": entry.action,
                "stage": entry.candidate.stage,
                "trigger": entry.candidate.trigger,
                "score": rounded(float(entry.candidate.score)),
                "max_force": rounded(float(entry.candidate.max_force)),
                "energy": rounded(float(entry.candidate.energy)),
                "run_id": run_id,
            }
        )
        for k, entry in enumerate(queued)
    )

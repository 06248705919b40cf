"""A ``dft_queue.jsonl`` that was written by hand, or by another sampler, becomes rows of the queue."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydantic import ConfigDict, Field

from rlpath_core.config import Section, check
from rlpath_core.errors import InputError
from rlpath_core.files import read_lines
from rlpath_core.store import Store, insert_new, orm, queries


class QueueLine(Section):
    """One line of ``dft_queue.jsonl``: what the outbox needs of it. Other keys are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)

    structure_id: str = Field(pattern="^[0-9a-f]{64}$")
    """The content id of the structure; structures/<id>.npz has to exist."""
    score: float = 0.0
    """The trigger score; of near-duplicates the one with the highest score is kept."""
    max_force: float | None = None
    """The predicted largest force, in eV/Å."""
    energy: float | None = None
    """The predicted energy, in eV."""
    run_id: str | None = None
    """The run that found the structure; by default that of the folder."""
    attempt: int | None = None
    """The attempt of that run."""
    stage: str = "sample"
    """What the structure was when it was queued, such as sample or quench_step."""
    trigger: Any = ""
    """Why it was queued."""


@dataclass(frozen=True)
class ImportSummary:
    """Lines of the file: structures that were queued now, and those that were in the queue before."""

    lines: int
    queued: int
    known: int


def import_queue(store: Store, path: str | Path, run_dir: str | Path) -> ImportSummary:
    """Queue the structures that a JSONL file names; each is queued once, however often it is imported.

    Predicted values that rows of version 0.1 lack are filled in.

    Parameters
    ----------
    store
        Holds ``structures/<id>.npz`` of every line.
    path
        The JSONL file.
    run_dir
        The run folder whose outbox takes the candidates.

    Raises
    ------
    InputError
        If a line is damaged or its structure is missing, naming the line; then nothing is queued.
    """
    lines = [_checked(line, path, number) for number, line in enumerate(read_lines(path), start=1)]
    here = [run.id for run in queries.runs_in(store, run_dir)]
    elsewhere = {run.id: run.folder for run in queries.runs(store) if run.id not in here}
    default = here[0] if here else f"queue-{Path(run_dir).resolve().name}"
    known = {entry.structure_id for entry in queries.queue(store)}
    rows: dict[str, dict[str, Any]] = {}
    structures = {}
    for number, line in enumerate(lines, start=1):
        run_id = line.run_id or default
        if run_id in elsewhere:
            raise InputError(f"run {run_id} was written to {elsewhere[run_id]}: give that as --run_dir", path, number)
        try:
            (structures[line.structure_id],) = store.get([line.structure_id])
        except InputError as error:
            raise InputError(str(error), path, number) from error
        rows.setdefault(
            line.structure_id,
            {
                "structure_id": line.structure_id,
                "run_id": run_id,
                "attempt": line.attempt or 0,
                "stage": line.stage,
                "trigger": line.trigger if isinstance(line.trigger, str) else json.dumps(line.trigger),
                "score": line.score,
                "max_force": line.max_force,
                "energy": line.energy,
            },
        )
    folder = store.relative(run_dir)
    with store.session() as session:
        store.put(list(structures.values()), session)
        runs = sorted({row["run_id"] for row in rows.values()})
        insert_new(session, orm.RunRow, [{"id": run_id, "kind": "imported", "folder": folder} for run_id in runs])
        insert_new(session, orm.QueueRow, list(rows.values()))
        for name in ("max_force", "energy"):
            column = getattr(orm.QueueRow, name)
            for row in rows.values():
                if row["structure_id"] in known and row[name] is not None:
                    missing = (orm.QueueRow.structure_id == row["structure_id"]) & column.is_(None)
                    session.execute(sa.update(orm.QueueRow).where(missing).values({name: row[name]}))
    queued = len(rows.keys() - known)
    return ImportSummary(len(lines), queued, len(lines) - queued)


def _checked(line: dict[str, Any], path: str | Path, number: int) -> QueueLine:
    try:
        return check(QueueLine, line, path)
    except InputError as error:
        raise InputError(f"{error.key}: {error.what}" if error.key else error.what, path, number) from error

"""Questions to ``rlpath.db`` and their answers: the only place outside the writers of rows that has SQL.

Every function takes an open store, reads in one transaction, and returns frozen dataclasses. Energies are in eV, forces
in eV/Å, digests and ids are hex strings of 64 characters. ``round_index=None`` means all rounds.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from rlpath_core.store import orm
from rlpath_core.store.records import (
    ActionCount,
    Attempt,
    Basin,
    Decision,
    Failure,
    JobStates,
    Label,
    LabelStory,
    Model,
    Network,
    OpenJob,
    Origin,
    QueueEntry,
    Round,
    Run,
    Transition,
)
from rlpath_core.store.store import Store

T = TypeVar("T")


def rounds(store: Store) -> list[Round]:
    """Finished rounds in order."""
    return answers(store, Round, sa.select(*columns_of(Round, orm.RoundRow)).order_by(orm.RoundRow.round))


def runs(store: Store) -> list[Run]:
    """All runs, in the order in which they began."""
    return answers(store, Run, sa.select(*columns_of(Run, orm.RunRow)).order_by(orm.RunRow.started_at, orm.RunRow.id))


def runs_in(store: Store, run_dir: str | Path) -> list[Run]:
    """The runs that were written to ``run_dir``, also if the store was moved since.

    Version 0.1 kept absolute paths; after a move only their end, the place in the store, is still true.
    """
    inside = store.relative(run_dir)

    def here(folder: str) -> bool:
        if store.relative(store.folder / folder) == inside:
            return True
        return Path(folder).is_absolute() and (
            not Path(folder).exists() if inside == "." else folder.endswith(f"/{inside}")
        )

    return [run for run in runs(store) if here(run.folder)]


def models(store: Store) -> list[Model]:
    """All registered models, oldest first."""
    return answers(store, Model, sa.select(*columns_of(Model, orm.ModelRow)).order_by(orm.ModelRow.created_at))


def basins(store: Store, round_index: int | None = None) -> list[Basin]:
    """Basins, lowest energy first; of equal ones the first found comes first."""
    by_run = sa.select(orm.BasinRow.run_id, sa.func.min(orm.BasinRow.energy).label("lowest"))
    lowest = by_run.group_by(orm.BasinRow.run_id).subquery()
    columns = columns_of(
        Basin,
        orm.BasinRow,
        run=orm.BasinRow.run_id,
        round=orm.RunRow.round,
        above=orm.BasinRow.energy - lowest.c.lowest,
        action=sa.func.coalesce(orm.AttemptRow.action, "start"),
    )
    found_by = (orm.AttemptRow.run_id == orm.BasinRow.run_id) & (orm.AttemptRow.n == orm.BasinRow.first_attempt)
    query = (
        sa.select(*columns)
        .join(orm.RunRow, orm.RunRow.id == orm.BasinRow.run_id)
        .join(lowest, lowest.c.run_id == orm.BasinRow.run_id)
        .outerjoin(orm.AttemptRow, found_by)
        .order_by(orm.BasinRow.energy, orm.BasinRow.id)
    )
    return answers(store, Basin, of_round(query, orm.RunRow.round, round_index))


def transitions(store: Store, round_index: int | None = None) -> list[Transition]:
    """Transitions between different basins, in the order in which they were first seen."""
    row = orm.TransitionRow
    columns = columns_of(Transition, row, start=row.from_basin, end=row.to_basin)
    query = sa.select(*columns).join(orm.RunRow, orm.RunRow.id == row.run_id).order_by(row.id)
    return answers(store, Transition, of_round(query, orm.RunRow.round, round_index))


def network(store: Store, round_index: int | None = None) -> Network:
    """The basins and the transitions between them."""
    return Network(basins(store, round_index), transitions(store, round_index))


def attempts(
    store: Store,
    round_index: int | None = None,
    *,
    run_id: str | None = None,
    action: str | None = None,
    accepted: bool | None = None,
    limit: int | None = None,
) -> list[Attempt]:
    """Attempts that fit all that is given, by run, in the order in which they were recorded (that of steps.jsonl)."""
    row = orm.AttemptRow
    query = (
        sa.select(*columns_of(Attempt, row, basin=orm.BasinRow.name))
        .join(orm.RunRow, orm.RunRow.id == row.run_id)
        .outerjoin(orm.BasinRow, orm.BasinRow.id == row.basin_id)
        .order_by(orm.RunRow.started_at, row.run_id, row.id)
        .limit(limit)
    )
    for column, value in ((row.run_id, run_id), (row.action, action), (row.accepted, accepted)):
        if value is not None:
            query = query.where(column == value)
    return answers(store, Attempt, of_round(query, orm.RunRow.round, round_index))


def action_counts(store: Store, round_index: int | None = None) -> list[ActionCount]:
    """Attempts and acceptances by action, in alphabetical order."""
    row = orm.AttemptRow
    columns = columns_of(
        ActionCount, row, attempts=sa.func.count(), accepted=sa.func.sum(row.accepted.cast(sa.Integer))
    )
    query = sa.select(*columns).join(orm.RunRow, orm.RunRow.id == row.run_id).group_by(row.action).order_by(row.action)
    return answers(store, ActionCount, of_round(query, orm.RunRow.round, round_index))


def queue(store: Store, round_index: int | None = None) -> list[QueueEntry]:
    """The queue, in the order in which structures entered it; ``round`` is that of the latest decision."""
    row = orm.QueueRow
    place = sa.func.row_number().over(partition_by=row.run_id, order_by=row.id)
    entries = sa.select(row.id, *columns_of(QueueEntry, row, n=place)).subquery()
    query = sa.select(*(entries.c[f.name] for f in fields(QueueEntry))).order_by(entries.c.id)
    return answers(store, QueueEntry, of_round(query, entries.c.round, round_index))


def decisions(store: Store) -> list[Decision]:
    """Decisions of all outboxes, in the order in which they were made."""
    row, queued = orm.DecisionRow, orm.QueueRow
    other = {name: getattr(queued, name) for name in ("run_id", "attempt", "stage", "trigger", "score", "max_force")}
    query = sa.select(*columns_of(Decision, row, **other)).join(queued, queued.structure_id == row.structure_id)
    return answers(store, Decision, query.order_by(row.id))


def job_states(store: Store, round_index: int | None = None) -> list[JobStates]:
    """Counts of queue states by round, rounds in order, structures without a round first."""
    queue, job = orm.QueueRow, orm.JobRow
    states = sa.select(queue.round, queue.state, sa.func.count()).group_by(queue.round, queue.state)
    costs = (
        sa.select(queue.round, sa.func.sum(job.tries), sa.func.sum(job.core_seconds))
        .join(queue, queue.structure_id == job.structure_id)
        .group_by(queue.round)
    )
    with store.reading() as session:
        counts: dict[int | None, Counter[str]] = {}
        for k, state, count in session.execute(of_round(states, queue.round, round_index)):
            counts.setdefault(k, Counter())[state] += count
        spent = {k: (tries, seconds) for k, tries, seconds in session.execute(costs)}
    ordered = sorted(counts, key=lambda k: -1 if k is None else k)
    return [JobStates(k, dict(counts[k]), *spent.get(k, (0, 0.0))) for k in ordered]


def open_jobs(store: Store, round_index: int | None = None) -> list[OpenJob]:
    """Jobs that are submitted or running, in the order of the queue."""
    job, queue = orm.JobRow, orm.QueueRow
    query = (
        sa.select(*columns_of(OpenJob, job))
        .outerjoin(queue, queue.structure_id == job.structure_id)
        .where(job.state.in_(("submitted", "running")))
        .order_by(queue.id, job.created_at)
    )
    return answers(store, OpenJob, of_round(query, job.round, round_index))


def failures(store: Store, round_index: int | None = None) -> list[Failure]:
    """Failed jobs and those that are tried again, in the order of the queue."""
    job, queue = orm.JobRow, orm.QueueRow
    query = (
        sa.select(*columns_of(Failure, job, job_id=job.id, kind=job.failure))
        .outerjoin(queue, queue.structure_id == job.structure_id)
        .where(sa.or_(job.state == "failed", job.reason.is_not(None)))
        .order_by(queue.id, job.created_at)
    )
    return answers(store, Failure, of_round(query, job.round, round_index))


def labels(store: Store, round_index: int | None = None, *, up_to: int | None = None) -> list[Label]:
    """Labels in the order in which they were entered; ``up_to`` is the last round that counts."""
    row = orm.LabelRow
    query = sa.select(*columns_of(Label, row)).order_by(row.created_at, row.lmdb, row.lmdb_key)
    if up_to is not None:
        query = query.where(row.round <= up_to)
    return answers(store, Label, of_round(query, row.round, round_index))


def training_labels(store: Store, model_sha256: str) -> list[Label]:
    """Every label that a model was trained on, its ancestors' included."""
    row, used = orm.LabelRow, orm.TrainingLabelRow
    query = sa.select(*columns_of(Label, row)).join(used, used.job_id == row.job_id)
    query = query.where(used.model_sha256 == model_sha256).order_by(row.created_at, row.lmdb, row.lmdb_key)
    return answers(store, Label, query)


def label_origins(store: Store) -> list[Origin]:
    """Labels by the action and the stage that queued them, most frequent first."""
    attempt, queue, label = orm.AttemptRow, orm.QueueRow, orm.LabelRow
    columns = {"stage": queue.stage, "labels": sa.func.count(), "max_force": sa.func.max(label.max_force)}
    query = (
        sa.select(*columns_of(Origin, attempt, **columns))
        .join(queue, (queue.run_id == attempt.run_id) & (queue.attempt == attempt.n))
        .join(label, label.structure_id == queue.structure_id)
        .group_by(attempt.action, queue.stage)
        .order_by(sa.func.count().desc(), attempt.action, queue.stage)
    )
    return answers(store, Origin, query)


def label_story(store: Store, beginning: str) -> list[LabelStory]:
    """What made the labels whose structure or job id starts with ``beginning``."""
    label, job, queue, attempt, run = orm.LabelRow, orm.JobRow, orm.QueueRow, orm.AttemptRow, orm.RunRow
    other = {
        "run_id": queue.run_id,
        "attempt": queue.attempt,
        "action": attempt.action,
        "parameters": attempt.parameters,
        "start_id": attempt.start_id,
        "seed": run.seed,
        "model_sha256": run.model_sha256,
        "stage": queue.stage,
        "trigger": queue.trigger,
        "score": queue.score,
        "predicted_energy": queue.energy,
        "predicted_max_force": queue.max_force,
        "engine": job.engine,
        "settings": job.settings,
        "folder": job.folder,
        "trained": sa.null(),
    }
    query = (
        sa.select(*columns_of(LabelStory, label, **other))
        .join(job, job.id == label.job_id)
        .join(queue, queue.structure_id == label.structure_id)
        .join(run, run.id == queue.run_id)
        .outerjoin(attempt, (attempt.run_id == queue.run_id) & (attempt.n == queue.attempt))
        .where(sa.or_(_starts(label.structure_id, beginning), _starts(label.job_id, beginning)))
        .order_by(label.created_at, label.job_id)
    )
    used = orm.TrainingLabelRow
    with store.reading() as session:
        rows = [dict(row._mapping) for row in session.execute(query)]
        for row in rows:
            trained = sa.select(used.model_sha256).join(orm.ModelRow, orm.ModelRow.sha256 == used.model_sha256)
            trained = trained.where(used.job_id == row["job_id"]).order_by(orm.ModelRow.created_at)
            row["trained"] = list(session.scalars(trained))
    return [LabelStory(**row) for row in rows]


def find(store: Store, beginning: str) -> dict[str, list[dict[str, Any]]]:
    """Every structure, queue entry, job, label, model and run whose id starts with ``beginning``, as columns by table.

    Queue entries, jobs and labels are also found by their structure.
    """
    keys = {
        orm.StructureRow: (orm.StructureRow.id,),
        orm.QueueRow: (orm.QueueRow.structure_id,),
        orm.JobRow: (orm.JobRow.id, orm.JobRow.structure_id),
        orm.LabelRow: (orm.LabelRow.job_id, orm.LabelRow.structure_id),
        orm.ModelRow: (orm.ModelRow.sha256,),
        orm.RunRow: (orm.RunRow.id,),
    }
    out = {}
    with store.reading() as session:
        for table, columns in keys.items():
            query = sa.select(table.__table__).where(sa.or_(*(_starts(column, beginning) for column in columns)))
            if rows := [dict(row._mapping) for row in session.execute(query)]:
                out[table.__tablename__] = rows
    return out


def counts(store: Store) -> dict[str, int]:
    """Rows by table."""
    with store.reading() as session:
        tables = sorted(orm.Base.metadata.tables.items())
        return {name: session.scalar(sa.select(sa.func.count()).select_from(table)) or 0 for name, table in tables}


def columns_of(cls: type[Any], row: Any, **other: Any) -> list[sa.ColumnElement[Any]]:
    """A column for each field of ``cls``: the one in ``other``, or the row's of that name."""
    return [(other[f.name] if f.name in other else getattr(row, f.name)).label(f.name) for f in fields(cls)]


def answers(store: Store, cls: type[T], query: sa.Select[Any]) -> list[T]:
    with store.reading() as session:
        return [cls(**row._mapping) for row in session.execute(query)]


def of_round(query: Any, column: Any, round_index: int | None) -> Any:
    return query if round_index is None else query.where(column == round_index)


def _starts(column: Any, beginning: str) -> sa.ColumnElement[bool]:
    return column.startswith(beginning, autoescape=True)

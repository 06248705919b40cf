"""Questions about searches, minima, saddles and steps; as in ``queries``, every function takes an open store."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import aliased

from rlpath_core.store import orm
from rlpath_core.store.queries import answers, columns_of, of_round
from rlpath_core.store.records import (
    Confirmation,
    ModelMinimum,
    ModelSaddle,
    SaddleStory,
    Search,
    StepFigures,
    StepNetwork,
)
from rlpath_core.store.store import Store

STAGES = ("saddle", "end", "mode")
"""Stages of candidates that come from steps."""


def searches(store: Store, round_index: int | None = None, *, run_id: str | None = None) -> list[Search]:
    """Saddle searches by run, in the order in which they were recorded (that of saddles.jsonl)."""
    return answers(store, Search, _searches(round_index, run_id))


def network(store: Store, round_index: int | None = None, *, run_id: str | None = None) -> StepNetwork | None:
    """The catalogue as the newest run that has one left it, or the newest of a round, or the given run.

    Minima and saddles come in the order in which they were found. None if there is no such run.
    """
    with store.reading() as session:
        query = _runs().limit(1)
        query = of_round(query, orm.RunRow.round, round_index)
        newest = session.scalar(query if run_id is None else query.where(orm.RunRow.id == run_id))
    if newest is None:
        return None
    minima = answers(store, ModelMinimum, _minima().where(orm.ModelMinimumRow.run_id == newest))
    return StepNetwork(newest, minima, _saddle_records(store, orm.ModelSaddleRow.run_id == newest))


def runs_with_catalogues(store: Store) -> list[str]:
    """Ids of the runs that left a catalogue, newest first."""
    with store.reading() as session:
        return list(session.scalars(_runs()))


def saddle_story(store: Store, name: str) -> SaddleStory | None:
    """What each model says of a saddle, and the searches that found it. None for an unknown name."""
    models = _saddle_records(store, orm.SaddleRow.name == name)
    found_by = answers(store, Search, _searches(None, None).where(orm.SaddleRow.name == name))
    return SaddleStory(name, models, found_by) if models else None


def model_saddles(store: Store, round_index: int | None = None) -> list[ModelSaddle]:
    """What models say of saddles, run by run, oldest first; those of a round, or all."""
    condition = sa.true() if round_index is None else orm.RunRow.round == round_index
    return _saddle_records(store, condition)


def confirmed_steps(store: Store, up_to: int | None = None) -> list[ModelSaddle]:
    """Steps that the reference confirms, each as the newest model that it confirms has it, in order of their names.

    ``up_to`` is the last round that counts.
    """
    condition: sa.ColumnElement[bool] = orm.ConfirmationRow.confirmed.is_(True)
    if up_to is not None:
        condition &= orm.RunRow.round <= up_to
    newest = {saddle.name: saddle for saddle in _saddle_records(store, condition)}
    return sorted(newest.values(), key=lambda saddle: (len(saddle.name), saddle.name))


def engines_of_labels(store: Store) -> dict[str, str]:
    """The engine behind each label, by job."""
    query = sa.select(orm.LabelRow.job_id, orm.JobRow.engine).join(orm.JobRow, orm.JobRow.id == orm.LabelRow.job_id)
    with store.reading() as session:
        return {row.job_id: row.engine for row in session.execute(query)}


def step_figures(store: Store, round_index: int | None = None) -> StepFigures:
    """Steps known and confirmed by the end of a round, or by now."""
    queue, label = orm.QueueRow, orm.LabelRow
    of_steps = sa.select(sa.func.count()).select_from(label).join(queue, queue.structure_id == label.structure_id)
    of_steps = of_steps.where(queue.stage.in_(STAGES))
    if round_index is not None:
        of_steps = of_steps.where(label.round <= round_index)
    with store.reading() as session:
        labels = session.scalar(of_steps) or 0
    newest = network(store, round_index)
    present = [] if newest is None else [saddle for saddle in newest.saddles if saddle.status == "present"]
    said = [(saddle, saddle.reference) for saddle in present if saddle.reference is not None]
    errors = [error for saddle, one in said for error in barrier_errors(saddle, one.barrier, one.barrier_back)]
    return StepFigures(
        known=len(present),
        confirmed=len(confirmed_steps(store, round_index)),
        labels=labels,
        barrier_mae=sum(errors) / len(errors) if errors else None,
        barrier_error=max(errors, default=None),
    )


def barrier_errors(saddle: ModelSaddle, there: float | None, back: float | None) -> list[float]:
    """How far a model's barriers are from the reference's, eV, as far as the ends have labels."""
    pairs = (there, saddle.barrier), (back, saddle.barrier_back)
    return [abs(reference - of_model) for reference, of_model in pairs if reference is not None]


def _runs() -> sa.Select[Any]:
    """Ids of runs with a catalogue, newest first."""
    with_minima = sa.select(orm.ModelMinimumRow.run_id).distinct()
    run = orm.RunRow
    return sa.select(run.id).where(run.id.in_(with_minima)).order_by(run.started_at.desc(), run.id.desc())


def _searches(round_index: int | None, run_id: str | None) -> sa.Select[Any]:
    row = orm.SearchRow
    query = (
        sa.select(*columns_of(Search, row, saddle=orm.SaddleRow.name))
        .join(orm.RunRow, orm.RunRow.id == row.run_id)
        .outerjoin(orm.SaddleRow, orm.SaddleRow.id == row.saddle_id)
        .order_by(orm.RunRow.started_at, row.run_id, row.id)
    )
    if run_id is not None:
        query = query.where(row.run_id == run_id)
    return of_round(query, orm.RunRow.round, round_index)


def _minima() -> sa.Select[Any]:
    row, named, run = orm.ModelMinimumRow, orm.MinimumRow, orm.RunRow
    other = aliased(orm.MinimumRow)
    columns = columns_of(ModelMinimum, row, **_common(named), merged_into=other.name)
    return (
        sa.select(*columns)
        .join(named, named.id == row.minimum_id)
        .join(run, run.id == row.run_id)
        .outerjoin(other, other.id == row.merged_into)
        .order_by(run.started_at, run.id, named.id)
    )


def _common(named: Any) -> dict[str, Any]:
    run = orm.RunRow
    return {"name": named.name, "first_run": named.run_id, "round": run.round, "model_sha256": run.model_sha256}


def _saddle_records(store: Store, condition: sa.ColumnElement[bool]) -> list[ModelSaddle]:
    row, named, run, said = orm.ModelSaddleRow, orm.SaddleRow, orm.RunRow, orm.ConfirmationRow
    other, start, end = aliased(orm.SaddleRow), aliased(orm.MinimumRow), aliased(orm.MinimumRow)
    names = {"merged_into": other.name, "start": start.name, "end": end.name}
    columns = columns_of(ModelSaddle, row, **_common(named), **names, reference=said.model_saddle_id)
    of_reference = columns_of(Confirmation, said)
    query = (
        sa.select(*columns, *(column.label(f"reference_{column.name}") for column in of_reference))
        .join(named, named.id == row.saddle_id)
        .join(run, run.id == row.run_id)
        .join(start, start.id == row.from_minimum)
        .join(end, end.id == row.to_minimum)
        .outerjoin(other, other.id == row.merged_into)
        .outerjoin(said, said.model_saddle_id == row.id)
        .where(condition)
        .order_by(run.started_at, run.id, named.id)
    )
    with store.reading() as session:
        found = [dict(one._mapping) for one in session.execute(query)]
    return [_saddle(one) for one in found]


def _saddle(row: dict[str, Any]) -> ModelSaddle:
    values = {field.name: row[field.name] for field in fields(ModelSaddle)}
    if values["reference"] is not None:
        values["reference"] = Confirmation(**{f.name: row[f"reference_{f.name}"] for f in fields(Confirmation)})
        if values["reference"].confirmed:
            values["state"] = "reference_confirmed"
    return ModelSaddle(**values)

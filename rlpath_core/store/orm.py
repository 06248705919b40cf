"""The tables of ``rlpath.db``: every structure's story, from the action that made it to the model it trained.

One SQLAlchemy 2 declarative model per table; Alembic migrations in ``store/migrations`` build the same schema.
Times are UTC. Energies eV, forces eV/Å. ``model_sha256`` is always a manifest's digest.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, ForeignKey, Index, MetaData, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SHA = String(64)


def _now() -> datetime:
    return datetime.now(UTC)


class Base(DeclarativeBase):
    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON, datetime: DateTime(timezone=True)}
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class StructureRow(Base):
    """A structure whose coordinates are in ``structures/<id>.npz``."""

    __tablename__ = "structures"
    id: Mapped[str] = mapped_column(SHA, primary_key=True)
    formula: Mapped[str] = mapped_column(String(200), index=True)
    n_atoms: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(default=_now)


class ModelRow(Base):
    """A model bundle; ``parent_sha256`` is the one that it was fine-tuned from."""

    __tablename__ = "models"
    sha256: Mapped[str] = mapped_column(SHA, primary_key=True)
    backend: Mapped[str] = mapped_column(String(40))
    manifest: Mapped[str]
    weights_sha256: Mapped[str] = mapped_column(SHA)
    parent_sha256: Mapped[str | None] = mapped_column(ForeignKey("models.sha256"))
    run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id", use_alter=True))
    created_at: Mapped[datetime] = mapped_column(default=_now)


class RunRow(Base):
    """One sampling run, or the origin of an imported queue. ``state`` is what a sampling run resumes from.

    ``folder`` is relative to the store if it lies inside (absolute in databases of version 0.1).
    """

    __tablename__ = "runs"
    id: Mapped[str] = mapped_column(String(200), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    folder: Mapped[str]
    round: Mapped[int | None]
    seed: Mapped[int | None]
    model_sha256: Mapped[str | None] = mapped_column(ForeignKey("models.sha256"))
    config: Mapped[dict[str, Any]] = mapped_column(default=dict)
    state: Mapped[dict[str, Any]] = mapped_column(default=dict)
    status: Mapped[str] = mapped_column(String(20), default="running")
    started_at: Mapped[datetime] = mapped_column(default=_now)
    finished_at: Mapped[datetime | None]


class AttemptRow(Base):
    """One attempt of a sampling run: from which structure, by which action, to which, and how it ended."""

    __tablename__ = "attempts"
    __table_args__ = (UniqueConstraint("run_id", "n"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    n: Mapped[int]
    walker: Mapped[int]
    start_id: Mapped[str] = mapped_column(ForeignKey("structures.id"))
    action: Mapped[str] = mapped_column(String(60))
    parameters: Mapped[dict[str, Any]] = mapped_column(default=dict)
    accepted: Mapped[bool]
    reason: Mapped[str | None]
    structure_id: Mapped[str | None] = mapped_column(ForeignKey("structures.id"))
    quenched_id: Mapped[str | None] = mapped_column(ForeignKey("structures.id"))
    basin_id: Mapped[int | None] = mapped_column(ForeignKey("basins.id", use_alter=True))
    energy: Mapped[float | None]
    max_force: Mapped[float | None]
    force_calls: Mapped[int] = mapped_column(default=0)


class BasinRow(Base):
    """A minimum of a run's model; ``name`` is unique in the run (``b0000`` on)."""

    __tablename__ = "basins"
    __table_args__ = (UniqueConstraint("run_id", "name"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    name: Mapped[str] = mapped_column(String(40))
    structure_id: Mapped[str] = mapped_column(ForeignKey("structures.id"))
    energy: Mapped[float]
    visits: Mapped[int] = mapped_column(default=1)
    first_attempt: Mapped[int]


class TransitionRow(Base):
    """A walk from one basin to another by one action; ``count`` times in the run."""

    __tablename__ = "transitions"
    __table_args__ = (UniqueConstraint("run_id", "from_basin", "to_basin", "action"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    from_basin: Mapped[int] = mapped_column(ForeignKey("basins.id"))
    to_basin: Mapped[int] = mapped_column(ForeignKey("basins.id"))
    action: Mapped[str] = mapped_column(String(60))
    count: Mapped[int] = mapped_column(default=1)


class QueueRow(Base):
    """A candidate for a label: queued -> selected | skipped -> submitted -> running -> done | failed -> labelled.

    A structure is queued once in a database, however often it is met.
    """

    __tablename__ = "queue"
    __table_args__ = (Index("ix_queue_state_round", "state", "round"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    structure_id: Mapped[str] = mapped_column(ForeignKey("structures.id"), unique=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    attempt: Mapped[int]
    stage: Mapped[str] = mapped_column(String(20))
    trigger: Mapped[str]
    score: Mapped[float]
    round: Mapped[int | None]
    state: Mapped[str] = mapped_column(String(20), default="queued")
    reason: Mapped[str | None]
    duplicate_of: Mapped[str | None] = mapped_column(SHA)
    max_force: Mapped[float | None]
    """Largest predicted force, eV/Å."""
    energy: Mapped[float | None]
    """Predicted total energy, eV."""
    updated_at: Mapped[datetime] = mapped_column(default=_now, onupdate=_now)


class DecisionRow(Base):
    """What an outbox decided on a candidate: ``dft_submit.jsonl`` and ``dft_skip.jsonl`` are written from these.

    ``folder`` is the outbox's run folder, relative to the store if it lies inside. ``n`` is the candidate's line in the
    ``dft_queue.jsonl`` of the run that queued it.
    """

    __tablename__ = "decisions"
    __table_args__ = (Index("ix_decisions_folder_verdict", "folder", "verdict"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    folder: Mapped[str] = mapped_column(String(500))
    structure_id: Mapped[str] = mapped_column(ForeignKey("structures.id"), index=True)
    n: Mapped[int | None]
    round: Mapped[int | None]
    verdict: Mapped[str] = mapped_column(String(20))
    reason: Mapped[str | None]
    duplicate_of: Mapped[str | None] = mapped_column(SHA)
    rmsd: Mapped[float | None]
    decided_at: Mapped[datetime] = mapped_column(default=_now)


class JobRow(Base):
    """One calculation. ``id`` is sha256(structure id + engine + resolved settings): asking twice gives the first.

    ``tries`` counts how often it was given to a machine; ``failure`` is the kind of what went wrong the last time,
    ``reason`` is the message.
    """

    __tablename__ = "jobs"
    id: Mapped[str] = mapped_column(SHA, primary_key=True)
    structure_id: Mapped[str] = mapped_column(ForeignKey("structures.id"), index=True)
    engine: Mapped[str] = mapped_column(String(40))
    settings: Mapped[dict[str, Any]] = mapped_column(default=dict)
    launcher: Mapped[str] = mapped_column(String(40))
    scheduler_id: Mapped[str | None]
    folder: Mapped[str]
    round: Mapped[int | None]
    state: Mapped[str] = mapped_column(String(20), default="submitted", index=True)
    reason: Mapped[str | None]
    tries: Mapped[int] = mapped_column(default=0)
    seconds: Mapped[float | None]
    failure: Mapped[str | None] = mapped_column(String(20))
    wall_seconds: Mapped[float | None]
    """Limits of the present try, if an earlier one needed more than the config gives."""
    memory_mb: Mapped[int | None]
    core_seconds: Mapped[float] = mapped_column(default=0.0, server_default="0")
    """Wall time x cores of all tries."""
    retry_of: Mapped[str | None] = mapped_column(SHA)
    """The job of the same structure whose electronic steps ran out, if this one has safer settings."""
    created_at: Mapped[datetime] = mapped_column(default=_now)
    updated_at: Mapped[datetime] = mapped_column(default=_now, onupdate=_now)


class LabelRow(Base):
    """A converged calculation whose positions equal the request: one label per job, for ever."""

    __tablename__ = "labels"
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    structure_id: Mapped[str] = mapped_column(ForeignKey("structures.id"), index=True)
    energy: Mapped[float]
    max_force: Mapped[float]
    round: Mapped[int | None] = mapped_column(index=True)
    forces: Mapped[str]
    """Path of the job's result file, relative to the database's folder."""
    lmdb: Mapped[str | None]
    lmdb_key: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(default=_now)


class TrainingLabelRow(Base):
    """Which labels a model was trained on."""

    __tablename__ = "training_labels"
    model_sha256: Mapped[str] = mapped_column(ForeignKey("models.sha256"), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("labels.job_id"), primary_key=True)


class RoundRow(Base):
    """One round of a campaign, as in ``rounds.json``."""

    __tablename__ = "rounds"
    round: Mapped[int] = mapped_column(primary_key=True)
    model_sha256: Mapped[str] = mapped_column(ForeignKey("models.sha256"))
    metrics: Mapped[dict[str, Any]] = mapped_column(default=dict)
    finished_at: Mapped[datetime] = mapped_column(default=_now)


class SearchRow(Base):
    """One saddle search of a paths run: from which guess, to what, and what verification said.

    ``saddle_id`` is the saddle that it found, new or known.
    """

    __tablename__ = "searches"
    __table_args__ = (UniqueConstraint("run_id", "n"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    n: Mapped[int]
    proposal: Mapped[str] = mapped_column(String(60))
    search: Mapped[str] = mapped_column(String(60))
    parameters: Mapped[dict[str, Any]] = mapped_column(default=dict)
    guess_id: Mapped[str | None] = mapped_column(ForeignKey("structures.id"))
    result_id: Mapped[str | None] = mapped_column(ForeignKey("structures.id"))
    state: Mapped[str] = mapped_column(String(20))
    rejection: Mapped[str | None]
    figures: Mapped[dict[str, Any]] = mapped_column(default=dict)
    calls: Mapped[int] = mapped_column(default=0)
    saddle_id: Mapped[int | None] = mapped_column(ForeignKey("saddles.id"), index=True)


class MinimumRow(Base):
    """A minimum of the catalogue; ``name`` stays when the model changes. ``run_id`` is the run that found it."""

    __tablename__ = "minima"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20), unique=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))


class SaddleRow(Base):
    """A saddle of the catalogue, as ``MinimumRow``."""

    __tablename__ = "saddles"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20), unique=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))


class ModelMinimumRow(Base):
    """What the model of a run says of a minimum: present, merged into another one, or vanished.

    Of a minimum that is not present, all other columns are as the last model that had it left them.
    """

    __tablename__ = "model_minima"
    __table_args__ = (UniqueConstraint("run_id", "minimum_id"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    minimum_id: Mapped[int] = mapped_column(ForeignKey("minima.id"), index=True)
    status: Mapped[str] = mapped_column(String(20))
    merged_into: Mapped[int | None] = mapped_column(ForeignKey("minima.id"))
    reason: Mapped[str | None]
    """Why it vanished."""
    structure_id: Mapped[str] = mapped_column(ForeignKey("structures.id"))
    energy: Mapped[float]
    fmax: Mapped[float]
    frequencies: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))
    """cm⁻¹; imaginary ones are negative."""
    found: Mapped[int]
    """Searches that ended in it, those of earlier runs included."""
    searches: Mapped[int]
    """Searches that began from it."""


class ModelSaddleRow(Base):
    """What the model of a run says of a saddle: as ``ModelMinimumRow``, and what verification showed.

    ``start_id`` and ``end_id`` are the structures that the two sides of this saddle relaxed into, which may be symmetry
    copies of those of ``from_minimum`` and ``to_minimum``. ``minus_id`` and ``plus_id`` are displaced
    along the mode towards them: the mode is their difference over its norm.
    """

    __tablename__ = "model_saddles"
    __table_args__ = (UniqueConstraint("run_id", "saddle_id"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    saddle_id: Mapped[int] = mapped_column(ForeignKey("saddles.id"), index=True)
    status: Mapped[str] = mapped_column(String(20))
    merged_into: Mapped[int | None] = mapped_column(ForeignKey("saddles.id"))
    reason: Mapped[str | None]
    from_minimum: Mapped[int] = mapped_column(ForeignKey("minima.id"))
    to_minimum: Mapped[int] = mapped_column(ForeignKey("minima.id"))
    structure_id: Mapped[str] = mapped_column(ForeignKey("structures.id"), index=True)
    minus_id: Mapped[str] = mapped_column(ForeignKey("structures.id"))
    plus_id: Mapped[str] = mapped_column(ForeignKey("structures.id"))
    start_id: Mapped[str] = mapped_column(ForeignKey("structures.id"))
    end_id: Mapped[str] = mapped_column(ForeignKey("structures.id"))
    energy: Mapped[float]
    fmax: Mapped[float]
    curvature: Mapped[float | None]
    """The lowest and the next curvature, eV/Å²."""
    next_curvature: Mapped[float | None]
    barrier: Mapped[float]
    """eV above the end structures, from ``start_id`` and back."""
    barrier_back: Mapped[float]
    frequencies: Mapped[list[Any] | None] = mapped_column(JSON(none_as_null=True))
    degeneracy: Mapped[int]
    degeneracy_back: Mapped[int]
    state: Mapped[str] = mapped_column(String(20))
    """connected or rate_ready; whether the reference confirms it is in ``confirmations``."""
    evidence: Mapped[dict[str, Any]] = mapped_column(default=dict)
    found: Mapped[int]


class ConfirmationRow(Base):
    """What the reference says of a saddle of a model, from the labels named: energies eV, force eV/Å.

    ``curvature`` (eV/Å²) is along the model's mode, from the forces of the displaced pair; ``sides`` tells of how many
    of the two. ``barrier_error`` is the larger difference of the model's two barriers from the reference's.
    """

    __tablename__ = "confirmations"
    model_saddle_id: Mapped[int] = mapped_column(ForeignKey("model_saddles.id"), primary_key=True)
    confirmed: Mapped[bool]
    tolerance: Mapped[float]
    fmax: Mapped[float]
    energy: Mapped[float]
    curvature: Mapped[float | None]
    sides: Mapped[int]
    barrier: Mapped[float | None]
    barrier_back: Mapped[float | None]
    barrier_error: Mapped[float | None]
    saddle_job: Mapped[str] = mapped_column(ForeignKey("labels.job_id"))
    minus_job: Mapped[str | None] = mapped_column(ForeignKey("labels.job_id"))
    plus_job: Mapped[str | None] = mapped_column(ForeignKey("labels.job_id"))
    start_job: Mapped[str | None] = mapped_column(ForeignKey("labels.job_id"))
    end_job: Mapped[str | None] = mapped_column(ForeignKey("labels.job_id"))

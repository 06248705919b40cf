"""What the questions in ``queries.py`` are answered with: frozen dataclasses, one per kind of row.

Energies are in eV, forces in eV/Å, digests and ids are hex strings of 64 characters.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class Round:
    """A finished round of a campaign; ``metrics`` is its entry of ``rounds.json``."""

    round: int
    model_sha256: str
    metrics: dict[str, Any]
    finished_at: datetime


@dataclass(frozen=True)
class Run:
    """A sampling run, or the origin of an imported queue; ``folder`` is relative to the store if it lies inside."""

    id: str
    kind: str
    folder: str
    round: int | None
    seed: int | None
    model_sha256: str | None
    status: str


@dataclass(frozen=True)
class Model:
    """A model bundle, and the one that it was fine-tuned from."""

    sha256: str
    backend: str
    manifest: str
    parent_sha256: str | None


@dataclass(frozen=True)
class Basin:
    """A minimum of one run's model.

    energy  eV, predicted
    above   eV above the lowest basin of the same run
    action  what the attempt that found it did; ``start`` for a given structure
    """

    id: int
    run: str
    round: int | None
    name: str
    structure_id: str
    energy: float
    above: float
    visits: int
    action: str


@dataclass(frozen=True)
class Transition:
    """``count`` attempts led from one basin (``start``, by id) to another (``end``) by one action."""

    start: int
    end: int
    action: str
    count: int


@dataclass(frozen=True)
class Network:
    """Basins as nodes, lowest energy first, and transitions as directed edges."""

    basins: list[Basin]
    transitions: list[Transition]


@dataclass(frozen=True)
class Attempt:
    """One attempt of a sampling run."""

    run_id: str
    n: int
    walker: int
    action: str
    accepted: bool
    reason: str | None
    start_id: str
    structure_id: str | None
    basin: str | None
    energy: float | None
    max_force: float | None
    force_calls: int


@dataclass(frozen=True)
class ActionCount:
    """How often an action was attempted, and how often a validator let it pass."""

    action: str
    attempts: int
    accepted: int


@dataclass(frozen=True)
class QueueEntry:
    """A candidate for a label, and its present state; ``max_force`` and ``energy`` are predicted.

    ``n`` counts the entries of its run from 1: the line of ``dft_queue.jsonl``.
    """

    n: int
    structure_id: str
    run_id: str
    attempt: int
    stage: str
    trigger: str
    score: float
    max_force: float | None
    energy: float | None
    round: int | None
    state: str
    reason: str | None


@dataclass(frozen=True)
class Decision:
    """What the outbox of ``folder`` decided on a candidate (``verdict``: selected, skipped or kept), and the candidate.

    ``duplicate_of`` is the structure that it duplicates, at ``rmsd`` Å.
    """

    folder: str
    n: int | None
    structure_id: str
    round: int | None
    verdict: str
    reason: str | None
    duplicate_of: str | None
    rmsd: float | None
    run_id: str
    attempt: int
    stage: str
    trigger: str
    score: float
    max_force: float | None


@dataclass(frozen=True)
class JobStates:
    """How many queued structures of a round are in which state, and what their jobs cost."""

    round: int | None
    counts: dict[str, int]
    tries: int
    core_seconds: float


@dataclass(frozen=True)
class OpenJob:
    """A calculation that is submitted or running."""

    id: str
    launcher: str
    folder: str
    round: int | None
    tries: int


@dataclass(frozen=True)
class Failure:
    """A job that is no label, or that is being tried again after a failure (``state`` tells which)."""

    job_id: str
    round: int | None
    state: str
    kind: str | None
    tries: int
    folder: str
    reason: str | None


@dataclass(frozen=True)
class Label:
    """A reference energy and where the label is stored; ``lmdb`` is relative to the store if it lies inside."""

    job_id: str
    structure_id: str
    round: int | None
    energy: float
    max_force: float
    lmdb: str | None
    lmdb_key: int | None


@dataclass(frozen=True)
class Origin:
    """How many labels came from an action at a stage of its attempts, and the largest reference force among them."""

    action: str
    stage: str
    labels: int
    max_force: float


@dataclass(frozen=True)
class LabelStory:
    """What made a label: the attempt, the model that proposed it and the calculation; and which models it trained.

    Fields of the attempt are None for a structure that no attempt of this store made (an imported queue).
    """

    structure_id: str
    job_id: str
    energy: float
    max_force: float
    round: int | None
    run_id: str
    attempt: int
    action: str | None
    parameters: dict[str, Any] | None
    start_id: str | None
    seed: int | None
    model_sha256: str | None
    stage: str
    trigger: str
    score: float
    predicted_energy: float | None
    predicted_max_force: float | None
    engine: str
    settings: dict[str, Any]
    folder: str
    lmdb: str | None
    lmdb_key: int | None
    trained: list[str]


@dataclass(frozen=True)
class Search:
    """One saddle search of a paths run; ``saddle`` is the name of the saddle that it found, new or known."""

    run_id: str
    n: int
    proposal: str
    search: str
    parameters: dict[str, Any]
    guess_id: str | None
    result_id: str | None
    state: str
    rejection: str | None
    figures: dict[str, Any]
    calls: int
    saddle: str | None


@dataclass(frozen=True)
class ModelMinimum:
    """What the model of a run says of a minimum of the catalogue.

    status         present, merged (into ``merged_into``) or vanished; then the rest is as the last model had it
    reason         why it vanished
    first_run      the run that found it
    fmax           eV/Å
    frequencies    cm⁻¹, None if not computed
    found          searches that ended in it, those of earlier runs included
    searches       searches that began from it
    """

    name: str
    run_id: str
    round: int | None
    model_sha256: str | None
    first_run: str
    status: str
    merged_into: str | None
    reason: str | None
    structure_id: str
    energy: float
    fmax: float
    frequencies: list[float] | None
    found: int
    searches: int


@dataclass(frozen=True)
class Confirmation:
    """What the reference says of a saddle of a model, from labels named by their jobs.

    confirmed      whether the step is ``reference_confirmed`` at this ``tolerance``, eV/Å
    fmax           largest reference force on a movable atom at the model's saddle, eV/Å
    curvature      along the model's mode, eV/Å², from ``sides`` (0 to 2) labels of the displaced pair
    barrier_error  eV: the larger difference between the model's barriers and the reference's at the same structures
    """

    confirmed: bool
    tolerance: float
    fmax: float
    energy: float
    curvature: float | None
    sides: int
    barrier: float | None
    barrier_back: float | None
    barrier_error: float | None
    saddle_job: str
    minus_job: str | None
    plus_job: str | None
    start_job: str | None
    end_job: str | None


@dataclass(frozen=True)
class ModelSaddle:
    """What the model of a run says of a saddle of the catalogue, and what the reference says of that.

    As ``ModelMinimum``, and

    start, end              names of the minima that it joins
    minus_id, plus_id       displaced along the mode towards them; the mode is the difference over its norm
    start_id, end_id        what both sides relaxed into
    curvature               the lowest, eV/Å²; ``next_curvature`` the next
    barrier, barrier_back   eV, from ``start_id`` and from ``end_id``
    state                   connected, rate_ready or reference_confirmed
    reference               None as long as the saddle has no label
    """

    id: int
    name: str
    run_id: str
    round: int | None
    model_sha256: str | None
    first_run: str
    status: str
    merged_into: str | None
    reason: str | None
    start: str
    end: str
    structure_id: str
    minus_id: str
    plus_id: str
    start_id: str
    end_id: str
    energy: float
    fmax: float
    curvature: float | None
    next_curvature: float | None
    barrier: float
    barrier_back: float
    frequencies: list[float] | None
    degeneracy: int
    degeneracy_back: int
    state: str
    evidence: dict[str, Any]
    found: int
    reference: Confirmation | None


@dataclass(frozen=True)
class StepNetwork:
    """All minima and saddles of the catalogue as one run left them, also those that its model does not have."""

    run_id: str
    minima: list[ModelMinimum]
    saddles: list[ModelSaddle]


@dataclass(frozen=True)
class SaddleStory:
    """A saddle through all runs: what each model says of it, oldest first, and the searches that found it."""

    name: str
    models: list[ModelSaddle]
    searches: list[Search]


@dataclass(frozen=True)
class StepFigures:
    """How many elementary steps are known, and what it took to confirm some.

    known          saddles that the newest model has
    confirmed      saddles that the reference confirms, whichever model found them
    labels         labels of saddles, ends and displaced pairs, for confirmed steps and all others
    barrier_mae    eV: the mean absolute error of the barriers, both ways, of the newest model
    barrier_error  eV: the largest one
    """

    known: int
    confirmed: int
    labels: int
    barrier_mae: float | None
    barrier_error: float | None

    @property
    def labels_per_step(self) -> float | None:
        """Labels per confirmed step, None without one."""
        return self.labels / self.confirmed if self.confirmed else None

"""``dft_queue.jsonl`` in, ``dft_submit.jsonl`` and ``dft_skip.jsonl`` out.

The database is the truth. One transaction holds what was decided on the lines read and how far they were read; both
output files are written from it afterwards, whole, so a kill at any moment is mended by the next call and no line
appears twice. The lock is held over the store, so that two outboxes cannot each select one of a pair of duplicates.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from rlpath_core.errors import InputError
from rlpath_core.files import atomic_write
from rlpath_core.locks import exclusive
from rlpath_core.outbox.canonicalize import canonicalize
from rlpath_core.outbox.dedup import Memory
from rlpath_core.outbox.options import OutboxConfig
from rlpath_core.outbox.select import choose
from rlpath_core.store import Store, insert_new, orm
from rlpath_core.structure import Structure

QUEUE, SUBMIT, SKIP = "dft_queue.jsonl", "dft_submit.jsonl", "dft_skip.jsonl"
SELECTED, SKIPPED, KEPT = "selected", "skipped", "kept"
OVER_BUDGET = "over budget"
LOCK_WAIT = 600.0


@dataclass(frozen=True)
class OutboxSummary:
    """What was decided for one folder in one round, calls before this one included: a repeated call says the same.

    read      lines of ``dft_queue.jsonl`` read so far
    selected  structures of this round that get a label
    skipped   count by reason: duplicate, over budget, exploded, already queued
    new       structures that this very call selected
    """

    read: int
    selected: int
    skipped: dict[str, int]
    new: int = 0


@dataclass(frozen=True)
class Candidate:
    """One line of ``dft_queue.jsonl``; ``line`` is its number in the file, 0 for one that was kept earlier."""

    line: int
    n: int | None
    structure_id: str
    run_id: str
    attempt: int
    stage: str
    trigger: str
    score: float
    max_force: float | None
    energy: float | None


@dataclass(frozen=True)
class Decision:
    candidate: Candidate
    verdict: str
    reason: str | None = None
    duplicate_of: str | None = None
    rmsd: float | None = None


def process_outbox(
    store: Store, run_dir: str | Path, config: OutboxConfig, *, round: int | None = None
) -> OutboxSummary:
    """Decide on every new line of ``run_dir/dft_queue.jsonl``: selected for a label, or skipped with the reason.

    Reads on from where it stopped. Near-duplicates of anything ever selected in this store, in whatever state it is by
    now, are skipped; of the rest ``config.budget`` per round are chosen (per call where ``round`` is None). Safe to
    call again after a kill at any moment. Raises InputError for a line that is damaged, naming it, and for a queue
    file that changed in the part that was read before; then nothing is decided and nothing written.
    """
    run_dir = Path(run_dir)
    with exclusive(store.folder / ".outbox.lock", "an outbox of this store", wait=LOCK_WAIT):
        folder = store.relative(run_dir)
        with store.reading() as session:
            before = session.get(orm.OutboxRow, folder) or orm.OutboxRow(folder=folder, offset=0, lines=0, sha256="")
            candidates, after = read_queue(run_dir / QUEUE, before)
            kept = _kept(session)
            spent = _spent(session, round)
        budget = max(0, config.budget - spent)
        decisions: list[Decision] = []
        if candidates or (kept and budget):
            decisions = _decide(store, candidates, kept, config, budget, round, run_dir / QUEUE)
        if decisions or after.offset != before.offset:
            with store.session() as session:
                _commit(store, session, run_dir, after, decisions, round)
        with store.reading() as session:
            rows = _decided(session, folder)
        _write(run_dir / SUBMIT, [_line(*row) for row in rows if row[0].verdict == SELECTED])
        _write(run_dir / SKIP, [_line(*row) for row in rows if row[0].verdict == SKIPPED])
    mine = [decision for decision, _ in rows if decision.round == round]
    return OutboxSummary(
        read=after.lines,
        selected=sum(decision.verdict == SELECTED for decision in mine),
        skipped=dict(Counter(_category(d.reason or "") for d in mine if d.verdict == SKIPPED)),
        new=sum(decision.verdict == SELECTED for decision in decisions),
    )


def read_queue(path: Path, before: orm.OutboxRow) -> tuple[list[Candidate], orm.OutboxRow]:
    """The lines after ``before.offset`` and how far they reach. A last line without its newline is left for later."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}; sampling writes it", path) from error
    if before.offset and hashlib.sha256(content[: before.offset]).hexdigest() != before.sha256:
        raise InputError(
            f"its first {before.offset} bytes are not what was read before: it was cut or replaced. Restore it, or "
            "sample into a new run_dir",
            path,
        )
    end = content.rfind(b"\n") + 1
    lines = content[before.offset : end].splitlines()
    candidates = [
        _parsed(line, path, number, str(before.folder)) for number, line in enumerate(lines, start=before.lines + 1)
    ]
    after = orm.OutboxRow(
        folder=before.folder,
        offset=end,
        lines=before.lines + len(lines),
        sha256=hashlib.sha256(content[:end]).hexdigest(),
    )
    return candidates, after


def _parsed(line: bytes, path: Path, number: int, folder: str) -> Candidate:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise InputError(f"is damaged ({error}); mend or remove the line", path, number) from error
    if not isinstance(value, dict):
        raise InputError("is not a JSON object", path, number)
    structure_id, score = value.get("structure_id"), value.get("score", 0.0)
    if not (isinstance(structure_id, str) and len(structure_id) == 64 and set(structure_id) <= set("0123456789abcdef")):
        raise InputError(f"structure_id is not a sha256 in hex, got {structure_id!r}", path, number)
    if not _number(score) or not math.isfinite(score):
        raise InputError(f"score is not a finite number, got {score!r}", path, number)
    for key in ("max_force", "energy"):
        if value.get(key) is not None and not _number(value[key]):
            raise InputError(f"{key} is not a number, got {value[key]!r}", path, number)
    for key in ("id", "attempt"):
        if value.get(key) is not None and type(value[key]) is not int:
            raise InputError(f"{key} is not an integer, got {value[key]!r}", path, number)
    trigger = value.get("trigger", "")
    return Candidate(
        line=number,
        n=value.get("id"),
        structure_id=structure_id,
        run_id=str(value.get("run_id") or folder),
        attempt=value.get("attempt") or 0,
        stage=str(value.get("stage", "sample")),
        trigger=trigger if isinstance(trigger, str) else json.dumps(trigger),
        score=float(score),
        max_force=value.get("max_force"),
        energy=value.get("energy"),
    )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _decide(
    store: Store,
    candidates: Sequence[Candidate],
    kept: Sequence[Candidate],
    config: OutboxConfig,
    budget: int,
    round: int | None,
    path: Path,
) -> list[Decision]:
    """One decision per line, and one per kept candidate that is selected or left out for good."""
    with store.reading() as session:
        states = _states(session, [c.structure_id for c in candidates])
        known_ids = session.scalars(
            sa.select(orm.QueueRow.structure_id)
            .where(orm.QueueRow.state.not_in(("queued", SKIPPED)))
            .order_by(orm.QueueRow.id)
        ).all()
    decisions: list[Decision] = []
    seen = {c.structure_id for c in kept}
    fresh: list[Candidate] = []
    for candidate in candidates:
        state = "queued" if candidate.structure_id in seen else states.get(candidate.structure_id)
        if state is not None and (state != "queued" or candidate.structure_id in seen):
            decisions.append(Decision(candidate, SKIPPED, f"already {state}", candidate.structure_id, 0.0))
        elif (cause := _exploded(candidate, config)) is not None:
            decisions.append(Decision(candidate, SKIPPED, cause))
        else:
            fresh.append(candidate)
        seen.add(candidate.structure_id)

    # What scores highest stands for its duplicates; candidates that were kept earlier come first.
    fresh.sort(key=lambda c: -c.score)
    known = store.get(known_ids)
    structures = {c.structure_id: s for c, s in _loaded(store, [*kept, *fresh], path)}
    memory = Memory(config.rmsd)
    memory.add(canonicalize(s, config.bottom_layer) for s in known)
    matches = memory.admit([canonicalize(structures[c.structure_id], config.bottom_layer) for c in [*kept, *fresh]])
    unique: list[Candidate] = []
    for candidate, match in zip([*kept, *fresh], matches, strict=True):
        if match is None:
            unique.append(candidate)
        else:
            reason = f"duplicate of {match.id} at RMSD {match.rmsd:.3f}"
            decisions.append(Decision(candidate, SKIPPED, reason, match.id, match.rmsd))

    scores = [c.score for c in unique]
    chosen = choose([structures[c.structure_id] for c in unique], scores, known, budget, config, round)
    decisions += [Decision(unique[k], SELECTED) for k in chosen]
    taken = set(chosen)
    left = [c for k, c in enumerate(unique) if k not in taken]
    if config.keep_unselected:
        decisions += [Decision(c, KEPT) for c in left if c.line]
    else:
        decisions += [Decision(c, SKIPPED, OVER_BUDGET) for c in left]
    return decisions


def _exploded(candidate: Candidate, config: OutboxConfig) -> str | None:
    for name, value, limit in (
        ("max_force", candidate.max_force, config.max_force),
        ("score", candidate.score, config.max_score),
    ):
        if value is not None and limit is not None and not value <= limit:  # also where value is not a number
            return f"exploded: {name} {value:.4g} is above {limit:g}"
    return None


def _loaded(store: Store, candidates: Iterable[Candidate], path: Path) -> list[tuple[Candidate, Structure]]:
    out = []
    for candidate in candidates:
        try:
            out.append((candidate, store.get([candidate.structure_id])[0]))
        except InputError as error:
            raise InputError(str(error), path, candidate.line or None) from error
    return out


def _commit(
    store: Store,
    session: Session,
    run_dir: Path,
    after: orm.OutboxRow,
    decisions: Sequence[Decision],
    round: int | None,
) -> None:
    """Everything that was decided, and how far the file was read, in the caller's transaction."""
    session.merge(after)
    wanted = {d.candidate.structure_id: d.candidate for d in decisions}
    states = _states(session, list(wanted))
    new = [c for key, c in wanted.items() if key not in states]
    # A queue file written by hand, or by another sampler: its rows are made here.
    store.put(store.get([c.structure_id for c in new]), session)
    runs = {c.run_id for c in new}
    insert_new(session, orm.RunRow, [{"id": run, "kind": "sample", "folder": str(run_dir)} for run in sorted(runs)])
    names = ("structure_id", "run_id", "attempt", "stage", "trigger", "score", "max_force", "energy")
    insert_new(session, orm.QueueRow, [{name: getattr(c, name) for name in names} for c in new])
    session.add_all(
        orm.DecisionRow(
            folder=after.folder,
            structure_id=decision.candidate.structure_id,
            n=decision.candidate.n,
            round=round,
            verdict=decision.verdict,
            reason=decision.reason,
            duplicate_of=decision.duplicate_of,
            rmsd=decision.rmsd,
        )
        for decision in decisions
    )
    session.flush()
    changed = [
        {
            "key": decision.candidate.structure_id,
            "new_state": decision.verdict,
            "new_reason": decision.reason,
            "new_duplicate_of": decision.duplicate_of,
            "new_round": round,
            "new_max_force": decision.candidate.max_force,
            "new_energy": decision.candidate.energy,
        }
        for decision in decisions
        if decision.verdict != KEPT and not (decision.reason or "").startswith("already ")
    ]
    if changed:  # one statement for all of them
        table = orm.QueueRow.__table__
        assert isinstance(table, sa.Table)
        columns = ("state", "reason", "duplicate_of", "round", "max_force", "energy")
        update = sa.update(table).where(table.c.structure_id == sa.bindparam("key"), table.c.state == "queued")
        session.connection().execute(update.values({name: sa.bindparam(f"new_{name}") for name in columns}), changed)


def _states(session: Session, ids: Sequence[str]) -> dict[str, str]:
    out: dict[str, str] = {}
    for start in range(0, len(ids), 500):
        rows = session.execute(
            sa.select(orm.QueueRow.structure_id, orm.QueueRow.state).where(
                orm.QueueRow.structure_id.in_(ids[start : start + 500])
            )
        )
        out |= {row.structure_id: row.state for row in rows}
    return out


def _kept(session: Session) -> list[Candidate]:
    """Candidates that an earlier call left queued, highest score first."""
    kept = sa.select(orm.DecisionRow.structure_id).where(orm.DecisionRow.verdict == KEPT)
    rows = session.scalars(
        sa.select(orm.QueueRow)
        .where(orm.QueueRow.state == "queued", orm.QueueRow.structure_id.in_(kept))
        .order_by(orm.QueueRow.score.desc(), orm.QueueRow.id)
    )
    names = ("structure_id", "run_id", "attempt", "stage", "trigger", "score", "max_force", "energy")
    return [Candidate(line=0, n=row.id, **{name: getattr(row, name) for name in names}) for row in rows]


def _spent(session: Session, round: int | None) -> int:
    """How much of the round's budget is gone."""
    if round is None:
        return 0
    decided = sa.select(sa.func.count()).where(orm.DecisionRow.round == round, orm.DecisionRow.verdict == SELECTED)
    return session.scalar(decided) or 0


def _decided(session: Session, folder: str) -> list[tuple[orm.DecisionRow, orm.QueueRow]]:
    rows = session.execute(
        sa.select(orm.DecisionRow, orm.QueueRow)
        .join(orm.QueueRow, orm.QueueRow.structure_id == orm.DecisionRow.structure_id)
        .where(orm.DecisionRow.folder == folder)
        .order_by(orm.DecisionRow.id)
    )
    return [(row[0], row[1]) for row in rows]


def _line(decision: orm.DecisionRow, queued: orm.QueueRow) -> dict[str, Any]:
    line = {
        "id": decision.n,
        "structure_id": decision.structure_id,
        "file": f"structures/{decision.structure_id}.npz",
        "round": decision.round,
        "run_id": queued.run_id,
        "attempt": queued.attempt,
        "stage": queued.stage,
        "trigger": queued.trigger,
        "score": queued.score,
        "max_force": queued.max_force,
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


def _category(reason: str) -> str:
    return next((word for word in (OVER_BUDGET, "duplicate", "exploded") if reason.startswith(word)), "already queued")

"""Queued rows of a run in; selected or skipped rows, ``dft_submit.jsonl`` and ``dft_skip.jsonl`` out.

The database is the truth, the files are written from it. One transaction holds all decisions of a call; both files are
written whole afterwards, so that the next call repairs whatever a kill leaves, and no line appears twice. The lock is
held over the store, so that two outboxes cannot each select one of a pair of duplicates.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlpath_core.errors import InputError
from rlpath_core.locks import exclusive
from rlpath_core.outbox.canonicalize import canonicalize
from rlpath_core.outbox.decisions import KEPT, OVER_BUDGET, SELECTED, SKIPPED, commit, exploded, export, score
from rlpath_core.outbox.dedup import Memory
from rlpath_core.outbox.options import OutboxConfig
from rlpath_core.outbox.select import Pool, check_selection, choose
from rlpath_core.store import Store, orm, queries
from rlpath_core.store.records import QueueEntry
from rlpath_core.store.store import import_command

QUEUE = "dft_queue.jsonl"
LOCK_WAIT = 600.0

log = logging.getLogger("rlpath.outbox")


@dataclass(frozen=True)
class OutboxSummary:
    """What was decided for one run folder in one round, including earlier calls: a repeated call reports the same.

    Attributes
    ----------
    read : int
        Candidates that the run has queued so far.
    selected : int
        Structures of this round that get a label.
    skipped : dict of str to int
        Count by reason: duplicate, over budget, exploded, already queued.
    new : int
        Structures that this very call selected.
    """

    read: int
    selected: int
    skipped: dict[str, int]
    new: int = 0


def process_outbox(
    store: Store, run_dir: str | Path, config: OutboxConfig, *, round_index: int | None = None
) -> OutboxSummary:
    """Decide on every candidate of a run that is still queued: selected for a label, or skipped with the reason.

    Near-duplicates of anything ever selected in this store, in whatever state it is by now, are skipped; of the rest
    ``config.budget`` per round are selected (per call if ``round_index`` is None). May be repeated after a kill at any
    moment.

    Parameters
    ----------
    store
        The database that the run belongs to.
    run_dir
        Output folder of the run; ``dft_submit.jsonl`` and ``dft_skip.jsonl`` are written there.
    config
        Thresholds, budget and the way of selecting.
    round_index
        Round of the campaign that the selection belongs to.

    Raises
    ------
    InputError
        If no run of the database was written to ``run_dir``, or a structure file is missing or damaged; then nothing
        is decided and nothing written.
    """
    check_selection(config)
    run_dir = Path(run_dir)
    with exclusive(store.folder / ".outbox.lock", "an outbox of this store", wait=LOCK_WAIT):
        folder = store.relative(run_dir)
        runs = {run.id for run in queries.runs_in(store, run_dir)}
        if not runs:
            raise InputError(_no_run(run_dir), run_dir)
        entries, before = queries.queue(store), queries.decisions(store)
        kept_ids = {d.structure_id for d in before if d.verdict == KEPT}
        queued = [entry for entry in entries if entry.state == "queued"]
        kept = sorted((e for e in queued if e.structure_id in kept_ids), key=lambda e: -score(e))
        new = [e for e in queued if e.structure_id not in kept_ids and e.run_id in runs]
        known = [e.structure_id for e in entries if e.state not in ("queued", SKIPPED)]
        spent = 0 if round_index is None else sum(d.verdict == SELECTED and d.round == round_index for d in before)
        budget = max(0, config.budget - spent)
        made: list[orm.DecisionRow] = []
        if new or (kept and budget):
            made = _decide(store, new, kept, known, config, budget, round_index)
            with store.session() as session:
                commit(session, made, folder, round_index)
        decided = [decision for decision in queries.decisions(store) if decision.folder == folder]
        export(run_dir, decided)
        read = sum(entry.run_id in runs for entry in entries)
        _compare(run_dir, read)
    mine = [decision for decision in decided if decision.round == round_index]
    return OutboxSummary(
        read=read,
        selected=sum(decision.verdict == SELECTED for decision in mine),
        skipped=dict(Counter(_category(d.reason or "") for d in mine if d.verdict == SKIPPED)),
        new=sum(decision.verdict == SELECTED for decision in made),
    )


def _no_run(run_dir: Path) -> str:
    if (run_dir / QUEUE).exists():
        return f"the database has no run that was written here; to queue its {QUEUE}: {import_command(run_dir / QUEUE)}"
    return "the database has no run that was written here: not the output folder of a sampling run"


def _compare(run_dir: Path, rows: int) -> None:
    """Warn of lines in the queue file that are not in the database, as somebody may have added by hand."""
    path = run_dir / QUEUE
    extra = path.read_bytes().count(b"\n") - rows if path.exists() else 0
    if extra > 0:
        command = import_command(path)
        log.warning("%s: %d lines are not in the database; to queue them: %s", path, extra, command)


def _decide(
    store: Store,
    new: Sequence[QueueEntry],
    kept: Sequence[QueueEntry],
    known_ids: Sequence[str],
    config: OutboxConfig,
    budget: int,
    round_index: int | None,
) -> list[orm.DecisionRow]:
    """One decision per new candidate, and one per kept candidate that is selected or skipped now."""
    made: list[orm.DecisionRow] = []

    def decide(entry: QueueEntry, verdict: str, reason: str | None = None, **match: Any) -> None:
        row = orm.DecisionRow(structure_id=entry.structure_id, n=entry.n, verdict=verdict, reason=reason, **match)
        made.append(row)

    fresh: list[QueueEntry] = []
    for entry in new:
        if (cause := exploded(entry, config)) is not None:
            decide(entry, SKIPPED, cause)
        else:
            fresh.append(entry)

    # The highest score represents its duplicates; candidates that were kept earlier come first.
    ordered = [*kept, *sorted(fresh, key=lambda entry: -score(entry))]
    known, structures = store.get(known_ids), store.get([entry.structure_id for entry in ordered])
    memory = Memory(config.rmsd, config.symmetry_tolerance if config.symmetry else None)
    memory.add(canonicalize(structure, config.bottom_layer, config.symmetry) for structure in known)
    matches = memory.admit([canonicalize(s, config.bottom_layer, config.symmetry) for s in structures])
    copies = sum(match is not None and match.by_symmetry for match in matches)
    if copies:
        log.info("%d of %d duplicates are symmetry copies", copies, len(matches) - matches.count(None))
    unique = [k for k, match in enumerate(matches) if match is None]
    for entry, match in zip(ordered, matches, strict=True):
        if match is not None:
            how = " by symmetry" if match.by_symmetry else ""
            reason = f"duplicate of {match.id} at RMSD {match.rmsd:.3f}{how}"
            decide(entry, SKIPPED, reason, duplicate_of=match.id, rmsd=match.rmsd)

    scores = [score(ordered[k]) for k in unique]
    pool = Pool([structures[k] for k in unique], scores, known, round_index)
    chosen = [unique[k] for k in choose(pool, budget, config)]
    for k in chosen:
        decide(ordered[k], SELECTED)
    for k in sorted(set(unique) - set(chosen)):
        if not config.keep_unselected:
            decide(ordered[k], SKIPPED, OVER_BUDGET)
        elif k >= len(kept):
            decide(ordered[k], KEPT)
    return made


def _category(reason: str) -> str:
    return next((word for word in (OVER_BUDGET, "duplicate", "exploded") if reason.startswith(word)), "already queued")

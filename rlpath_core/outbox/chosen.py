"""Labels for structures that somebody has chosen already: the saddles of a round and what proves them.

No duplicates are looked for: the two points along a saddle's mode lie nearer to it than any outbox would allow, and
that is what they are for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rlpath_core.locks import exclusive
from rlpath_core.outbox.decisions import OVER_BUDGET, SELECTED, SKIPPED, commit, exploded, export
from rlpath_core.outbox.options import OutboxConfig
from rlpath_core.outbox.queue import LOCK_WAIT
from rlpath_core.store import Store, orm, queries
from rlpath_core.store.records import QueueEntry


def select_chosen(
    store: Store, run_dir: str | Path, structure_ids: Sequence[str], config: OutboxConfig, *, round_index: int
) -> list[str]:
    """Select queued structures of a run for a label, in the given order, as long as the round's budget lasts.

    May be repeated after a kill at any moment: what was decided stays, and counts.

    Parameters
    ----------
    store
        The database that the run belongs to.
    run_dir
        Output folder of the run; its ``dft_submit.jsonl`` and ``dft_skip.jsonl`` are written.
    structure_ids
        The most important first. Structures that are not in the run's queue, or were decided on before, are passed
        over.
    config
        ``budget`` counts all structures that were selected in the round, whoever chose them. Structures whose
        predicted force or score is above its limits are skipped as exploded.
    round_index
        Round of the campaign.

    Returns
    -------
    list of str
        The structures of this run that are selected in this round, by this call or an earlier one.
    """

    def decide(queued: dict[str, QueueEntry], left: int) -> list[orm.DecisionRow]:
        made = []
        for structure_id in dict.fromkeys(structure_ids):
            entry = queued.get(structure_id)
            if entry is None:
                continue
            cause = exploded(entry, config)
            if cause is None and left <= 0:
                continue
            left -= cause is None
            verdict = SELECTED if cause is None else SKIPPED
            made.append(orm.DecisionRow(structure_id=structure_id, n=entry.n, verdict=verdict, reason=cause))
        return made

    return _decide(store, Path(run_dir), config.budget, round_index, decide)


def skip_rest(store: Store, run_dir: str | Path, *, round_index: int) -> None:
    """Skip all that is still queued of a run as over the budget. Parameters as in ``select_chosen``."""

    def decide(queued: dict[str, QueueEntry], left: int) -> list[orm.DecisionRow]:
        return [
            orm.DecisionRow(structure_id=entry.structure_id, n=entry.n, verdict=SKIPPED, reason=OVER_BUDGET)
            for entry in queued.values()
        ]

    _decide(store, Path(run_dir), 0, round_index, decide)


def _decide(
    store: Store,
    run_dir: Path,
    budget: int,
    round_index: int,
    decide: Callable[[dict[str, QueueEntry], int], list[orm.DecisionRow]],
) -> list[str]:
    """Record what ``decide`` makes of the run's queued entries and of what is left of the budget."""
    with exclusive(store.folder / ".outbox.lock", "an outbox of this store", wait=LOCK_WAIT):
        folder, runs = store.relative(run_dir), {run.id for run in queries.runs_in(store, run_dir)}
        spent = sum(d.verdict == SELECTED and d.round == round_index for d in queries.decisions(store))
        entries = [entry for entry in queries.queue(store) if entry.run_id in runs and entry.state == "queued"]
        made = decide({entry.structure_id: entry for entry in entries}, budget - spent)
        if made:
            with store.session() as session:
                commit(session, made, folder, round_index)
        decided = [decision for decision in queries.decisions(store) if decision.folder == folder]
        export(run_dir, decided)
    return [d.structure_id for d in decided if d.verdict == SELECTED and d.round == round_index]

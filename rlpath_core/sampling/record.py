"""The record of a run: its rows in the database and its files, so that the two agree after any kill."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from rlpath_core.backends.base import Model
from rlpath_core.files import AppendedFiles
from rlpath_core.sampling.attempt import Attempt, WalkState, round_positions
from rlpath_core.sampling.checkpoint import FORMAT
from rlpath_core.sampling.known_basins import KnownBasin
from rlpath_core.sampling.plain import rounded
from rlpath_core.sampling.queueing import Queued, Queueing
from rlpath_core.sampling.recorders import Block, Recorder, basin_name
from rlpath_core.sampling.run_row import open_run
from rlpath_core.store import Store, orm
from rlpath_core.structure import Structure


class RunRecord:
    """A run's rows and files; ``commit`` makes one block of attempts durable, all or nothing.

    Parameters
    ----------
    store
        Database and structures.
    run_dir
        Folder of the files.
    run_id
        Name of the run in the database.
    recorders
        What writes the files.
    """

    def __init__(self, store: Store, run_dir: Path, run_id: str, recorders: Sequence[Recorder]) -> None:
        self.store = store
        self.run_dir = run_dir.resolve()
        self.run_id = run_id
        self.recorders = recorders
        self.queueing = any(recorder.path == "dft_queue.jsonl" for recorder in recorders)
        self.basin_ids: list[int] = []
        self.saved_visits: list[int] = []

    # -- opening ------------------------------------------------------------------------------------------------

    def open(
        self, config: dict[str, Any], model: Model, starts: Sequence[Structure], round_index: int | None, resume: bool
    ) -> dict[str, Any]:
        """Begin the run, or continue it.

        Parameters
        ----------
        config
            ``config`` and ``identity``, which must not change, and ``limits``, which may.

        Returns
        -------
        What the last checkpoint saved, empty for a new run.

        Raises
        ------
        InputError
            The run exists and is not to be resumed, or differs from the one to resume.
        """
        names = [recorder.path for recorder in self.recorders]
        saved = open_run(
            self.store,
            self.run_id,
            "sampling",
            self.run_dir,
            names,
            config,
            format=FORMAT,
            changeable="steps, target_basins, max_...",
            model=model,
            starts=starts,
            round_index=round_index,
            resume=resume,
        )
        self.files = AppendedFiles(self.run_dir, names, saved.get("lengths", {}))
        self.config = config
        self.queue = Queueing(self.store, self.run_id, saved.get("queue_lines", 0))
        return saved

    def basins(self, saved: dict[str, Any], starts: Sequence[Structure]) -> list[KnownBasin]:
        """Basins of the last checkpoint, and the counts that go with them."""
        query = sa.select(orm.BasinRow).where(orm.BasinRow.run_id == self.run_id)
        with self.store.reading() as session:
            rows = sorted(session.scalars(query), key=lambda row: int(row.name[1:]))
        structures = self.store.get([row.structure_id for row in rows])
        basins: list[KnownBasin] = []
        for row, stored, (departures, origin) in zip(rows, structures, saved.get("basins", []), strict=True):
            # the same content may have been stored first by another run, with other digits past the fourth
            structure = round_positions(starts[origin].moved(stored.positions))
            minimum = WalkState(structure, origin, row.energy, len(basins))
            basins.append(KnownBasin(minimum, row.energy, row.first_attempt, row.visits, departures))
        self.basin_ids = [row.id for row in rows]
        self.saved_visits = [row.visits for row in rows]
        return basins

    # -- during the run -----------------------------------------------------------------------------------------

    def keep_new_candidates(self, attempt: Attempt) -> Attempt:
        """The attempt with only those candidates that nobody has queued before."""
        fresh = self.queue.keep_new(attempt.result.candidates if self.queueing else ())
        return replace(attempt, result=replace(attempt.result, candidates=fresh))

    def commit(
        self,
        attempts: Sequence[Attempt],
        basins: Sequence[KnownBasin],
        states: Sequence[WalkState],
        saved: dict[str, Any],
        finished: bool,
    ) -> None:
        """Structures, rows, files and state of one block: files are on disk before the transaction commits.

        Parameters
        ----------
        attempts
            The attempts of the block, in the order of their numbers.
        basins
            All basins of the run so far.
        states
            Where walks stand: these structures are stored too.
        saved
            The run's state, see ``checkpoint.save``.
        finished
            Whether the run has reached a limit.
        """
        with self.store.session() as session:
            queued = [Queued(a.n, a.trial.action, candidate) for a in attempts for candidate in a.result.candidates]
            queued = self.queue.not_queued_by_others(session, queued)
            keep = {s.id: s for s in (attempt.start.structure for attempt in attempts)}
            keep |= {s.id: s for s in (state.structure for state in states)}
            keep |= {s.id: s for s in (entry.candidate.structure for entry in queued)}
            new = basins[len(self.basin_ids) :]
            keep |= {s.id: s for s in (basin.minimum.structure for basin in new)}
            self.store.put([*keep.values()], session)
            ids = self._put_basins(session, basins, new)
            self._put_attempts(session, attempts, ids, frozenset(keep))
            self._put_transitions(session, attempts, ids)
            self.queue.put(session, queued)
            row = session.get_one(orm.RunRow, self.run_id)
            block = Block(self.run_id, attempts, frozenset(keep), queued, basins, self.queue.lines + 1)
            lengths = self.files.append({recorder.path: recorder.text(block) for recorder in self.recorders})
            row.state = saved | {
                "lengths": lengths,
                "queue_lines": self.queue.lines + len(queued),
                "basins": [(b.departures, b.minimum.origin) for b in basins],
            }
            row.config = self.config
            row.status = "finished" if finished else "running"
            row.finished_at = datetime.now(UTC) if finished else None
        self.queue.lines += len(queued)
        self.basin_ids = ids
        self.saved_visits = [basin.visits for basin in basins]

    def _put_basins(self, session: Session, basins: Sequence[KnownBasin], new: Sequence[KnownBasin]) -> list[int]:
        first = len(self.basin_ids)
        rows = [
            orm.BasinRow(
                run_id=self.run_id,
                name=basin_name(first + k),
                structure_id=basin.minimum.structure.id,
                energy=basin.energy,
                visits=basin.visits,
                first_attempt=basin.first_attempt,
            )
            for k, basin in enumerate(new)
        ]
        session.add_all(rows)
        session.flush()
        changed = [
            {"id": self.basin_ids[k], "visits": basins[k].visits}
            for k in range(first)
            if basins[k].visits != self.saved_visits[k]
        ]
        if changed:
            session.execute(sa.update(orm.BasinRow), changed)
        return self.basin_ids + [row.id for row in rows]

    def _put_attempts(
        self, session: Session, attempts: Sequence[Attempt], ids: list[int], kept: frozenset[str]
    ) -> None:
        rows = []
        for attempt in attempts:
            plan, trial, result = attempt.plan, attempt.trial, attempt.result
            structure_id = None if trial.structure is None else trial.structure.id
            relaxed_id = None if result.relaxed is None else result.relaxed.structure.id
            rows.append(
                {
                    "run_id": self.run_id,
                    "n": plan.n,
                    "walker": plan.walker,
                    "start_id": plan.start.structure.id,
                    "action": trial.action,
                    "parameters": rounded(trial.parameters) | {"scale": rounded(trial.scale)},
                    "accepted": attempt.accepted,
                    "reason": trial.rejection.reason if trial.rejection else None,
                    "structure_id": structure_id if structure_id in kept else None,
                    "quenched_id": relaxed_id if relaxed_id in kept else None,
                    "basin_id": None if result.basin is None else ids[result.basin],
                    "energy": trial.energy,
                    "max_force": trial.max_force,
                    "force_calls": result.force_calls,
                }
            )
        if rows:
            session.execute(sa.insert(orm.AttemptRow), rows)

    def _put_transitions(self, session: Session, attempts: Sequence[Attempt], ids: list[int]) -> None:
        steps = Counter(
            (ids[a.start.basin], ids[a.result.basin], a.trial.action)
            for a in attempts
            if a.start.basin is not None and a.result.basin is not None and a.result.basin != a.start.basin
        )
        table = orm.TransitionRow
        for (from_basin, to_basin, action), count in steps.items():
            row = session.scalar(
                sa.select(table).where(
                    table.run_id == self.run_id,
                    table.from_basin == from_basin,
                    table.to_basin == to_basin,
                    table.action == action,
                )
            )
            if row is None:
                session.add(
                    table(run_id=self.run_id, from_basin=from_basin, to_basin=to_basin, action=action, count=count)
                )
            else:
                row.count += count

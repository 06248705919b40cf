"""What a run has done, kept in the database and in its JSONL files so that the two agree after any kill."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from rlpath_core.backends.base import Model
from rlpath_core.errors import InputError, TransientError
from rlpath_core.sampling.policies import KnownBasin, Site
from rlpath_core.sampling.recorders import Block, Journal, Recorder, basin_name, rounded
from rlpath_core.sampling.triggers import Candidate
from rlpath_core.sampling.walker import Outcome, settle
from rlpath_core.store import Store, orm
from rlpath_core.structure import Structure

CHUNK = 500
FORMAT = 3
"""Of a run's state in the database: another number for every change of it. A run of another format is not resumed."""


@contextmanager
def writing(run_dir: Path) -> Iterator[None]:
    """A full or failing disk becomes a TransientError: what was durable before stays so, and a resume goes on there."""
    try:
        yield
    except (OSError, sa.exc.OperationalError) as error:
        what = error.orig if isinstance(error, sa.exc.OperationalError) else error
        raise TransientError(
            f"{run_dir}: cannot be written ({what}); what the last checkpoint holds is safe: make room, then --resume"
        ) from error


class Ledger:
    """Opens or resumes a run's records; ``commit`` makes one block of attempts durable, all or nothing."""

    def __init__(self, store: Store, run_dir: Path, run_id: str, recorders: Sequence[Recorder]) -> None:
        self.store = store
        self.run_dir = run_dir.resolve()
        self.run_id = run_id
        self.recorders = recorders
        self.queueing = any(recorder.path == "dft_queue.jsonl" for recorder in recorders)
        self.basins: list[KnownBasin] = []
        self.basin_ids: list[int] = []
        self.queue_lines = 0
        self.claimed: set[str] = set()
        self.saved_visits: list[int] = []

    # -- opening ------------------------------------------------------------------------------------------------

    def open(
        self,
        config: dict[str, Any],
        limits: dict[str, Any],
        identity: dict[str, Any],
        round: int | None,
        model: Model,
        starts: Sequence[Structure],
        resume: bool,
    ) -> dict[str, Any]:
        """The state of the run's last checkpoint, empty for a new run. Raises InputError rather than overwrite."""
        self.starts = starts
        with self.store.reading() as session:
            row = session.get(orm.RunRow, self.run_id)
            state = None if row is None else dict(row.state)
            kept = None if row is None else dict(row.config)
            kind = None if row is None else row.kind
        there = [recorder.path for recorder in self.recorders if (self.run_dir / recorder.path).exists()]
        if state is None or kept is None:
            if there:
                raise InputError(
                    f"exists, but the database {self.store.folder} knows no run {self.run_id!r} that wrote it; "
                    "choose another run_dir",
                    self.run_dir / there[0],
                )
            self._begin(config, limits, identity, round, model, starts)
            state = {}
        else:
            if kind != "sampling":
                raise InputError(f"the database has a {kind} run of this name; choose another", "run_id", self.run_id)
            if not resume:
                what = self.run_dir / there[0] if there else f"run {self.run_id}"
                raise InputError("exists already: use --resume to go on, or choose another run_dir", what)
            self._readable(state)
            self._compare(kept, config, identity)
            self._load(state, starts)
        self.journal = Journal(self.run_dir, self.recorders, state.get("lengths", {}))
        self.config = {"config": config, "limits": limits, "identity": identity}
        self.queue_lines = state.get("queue_lines", 0)
        if self.queueing:
            with self.store.reading() as session:
                self.claimed = set(session.scalars(sa.select(orm.QueueRow.structure_id)))
        return state

    def _begin(
        self,
        config: dict[str, Any],
        limits: dict[str, Any],
        identity: dict[str, Any],
        round: int | None,
        model: Model,
        starts: Sequence[Structure],
    ) -> None:
        self.run_dir.mkdir(parents=True, exist_ok=True)
        with self.store.session() as session:
            if model.digest and session.get(orm.ModelRow, model.digest) is None:
                self.store.register_model(
                    session,
                    model.reference,
                    model.digest,
                    model.backend,
                    model.weights_sha256,
                )
            self.store.put(starts, session)
            session.add(
                orm.RunRow(
                    id=self.run_id,
                    kind="sampling",
                    folder=self.store.relative(self.run_dir),
                    round=round,
                    seed=identity["seed"],
                    model_sha256=model.digest or None,
                    config={"config": config, "limits": limits, "identity": identity},
                )
            )

    def _readable(self, state: dict[str, Any]) -> None:
        found = state.get("format", 1)
        if state and found != FORMAT:
            raise InputError(
                f"run {self.run_id} was begun by another version of rlpath (its state has format {found}, this one "
                f"reads {FORMAT}) and cannot go on: choose another run_dir, or finish it with that version",
                self.run_dir,
            )

    def _compare(self, kept: dict[str, Any], config: dict[str, Any], identity: dict[str, Any]) -> None:
        for name, now in (("identity", identity), ("config", config)):
            before = kept[name]
            for key in sorted(set(before) | set(now)):
                if before.get(key) != now.get(key):
                    raise InputError(
                        f"is {now.get(key)!r}, but the run to resume began with {before.get(key)!r}; "
                        "only the limits (steps, target_basins, max_...) may change",
                        self.run_dir,
                        key,
                    )

    def _load(self, state: dict[str, Any], starts: Sequence[Structure]) -> None:
        """Basins of the last checkpoint, and the counts that go with them."""
        query = sa.select(orm.BasinRow).where(orm.BasinRow.run_id == self.run_id).order_by(orm.BasinRow.name)
        with self.store.reading() as session:
            rows = sorted(session.scalars(query), key=lambda row: int(row.name[1:]))
        structures = self.store.get([row.structure_id for row in rows])
        for row, structure, (departures, origin) in zip(rows, structures, state.get("basins", []), strict=True):
            site = Site(_exact(structure, starts[origin], False), origin, row.energy, len(self.basins))
            self.basins.append(KnownBasin(site, row.energy, row.first_attempt, row.visits, departures))
            self.basin_ids.append(row.id)
            self.saved_visits.append(row.visits)

    def sites(self, kept: Sequence[Sequence[Any]], starts: Sequence[Structure]) -> list[Site]:
        """Places from a checkpoint, as ``entry`` noted them."""
        structures = self.store.get([entry[0] for entry in kept])
        return [
            Site(_exact(structure, starts[origin], given), origin, energy, basin)
            for structure, (_, origin, energy, basin, given) in zip(structures, kept, strict=True)
        ]

    def entry(self, site: Site) -> tuple[str, int, float | None, int | None, bool]:
        """What a checkpoint keeps of a place; the last says that it is the given structure itself, unrounded."""
        given = np.array_equal(site.structure.positions, self.starts[site.origin].positions)
        return site.structure.id, site.origin, site.energy, site.basin, given

    # -- during the run -----------------------------------------------------------------------------------------

    def claim(self, outcome: Outcome) -> int:
        """Leave the attempt only those candidates that nobody has queued before; returns how many."""
        if not self.queueing:
            outcome.candidates = []
        fresh = []
        for candidate in outcome.candidates:
            if candidate.structure.id not in self.claimed:
                self.claimed.add(candidate.structure.id)
                fresh.append(candidate)
        outcome.candidates = fresh
        return len(fresh)

    def commit(
        self,
        outcomes: list[Outcome],
        basins: list[KnownBasin],
        here: Sequence[Site],
        state: dict[str, Any],
        finished: bool,
        needed: Sequence[Structure] = (),
    ) -> None:
        """Structures, rows, files and state of one block: files are on disk before the transaction commits.

        ``needed`` are further structures that a resume will ask for.
        """
        with self.store.session() as session:
            queued = [(outcome, candidate) for outcome in outcomes for candidate in outcome.candidates]
            queued = self._not_queued(session, queued)
            keep = {s.id: s for s in (o.start.structure for o in outcomes)}
            keep |= {s.id: s for s in (site.structure for site in here)}
            keep |= {s.id: s for s in (candidate.structure for _, candidate in queued)}
            new = basins[len(self.basin_ids) :]
            keep |= {s.id: s for s in (basin.site.structure for basin in new)}
            self.store.put([*keep.values(), *needed], session)
            ids = self._put_basins(session, basins, new)
            self._put_attempts(session, outcomes, ids, frozenset(keep))
            self._put_transitions(session, outcomes, ids)
            self._put_queue(session, queued)
            row = session.get_one(orm.RunRow, self.run_id)
            block = Block(self.run_id, outcomes, frozenset(keep), queued, basins, self.queue_lines + 1)
            lengths = self.journal.append(block)
            row.state = state | {
                "format": FORMAT,
                "lengths": lengths,
                "queue_lines": self.queue_lines + len(queued),
                "here": [self.entry(site) for site in here],
                "basins": [(b.departures, b.site.origin) for b in basins],
            }
            row.config = self.config
            row.status = "finished" if finished else "running"
            row.finished_at = datetime.now(UTC) if finished else None
        self.queue_lines += len(queued)
        self.basin_ids = ids
        self.saved_visits = [basin.visits for basin in basins]

    def _not_queued(self, session: Session, queued: list[tuple[Outcome, Candidate]]) -> list[tuple[Outcome, Candidate]]:
        """Without those that another run on the same database has queued since this one began."""
        wanted = [candidate.structure.id for _, candidate in queued]
        known: set[str] = set()
        for at in range(0, len(wanted), CHUNK):
            part = sa.select(orm.QueueRow.structure_id).where(orm.QueueRow.structure_id.in_(wanted[at : at + CHUNK]))
            known |= set(session.scalars(part))
        return [entry for entry in queued if entry[1].structure.id not in known]

    def _put_basins(self, session: Session, basins: list[KnownBasin], new: list[KnownBasin]) -> list[int]:
        first = len(self.basin_ids)
        rows = [
            orm.BasinRow(
                run_id=self.run_id,
                name=basin_name(first + k),
                structure_id=basin.site.structure.id,
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

    def _put_attempts(self, session: Session, outcomes: list[Outcome], ids: list[int], kept: frozenset[str]) -> None:
        rows = []
        for outcome in outcomes:
            structure_id = outcome.structure.id if outcome.structure is not None else None
            quenched_id = outcome.quenched.structure.id if outcome.quenched is not None else None
            rows.append(
                {
                    "run_id": self.run_id,
                    "n": outcome.n,
                    "walker": outcome.walker,
                    "start_id": outcome.start.structure.id,
                    "action": outcome.action,
                    "parameters": rounded(outcome.parameters) | {"scale": rounded(outcome.scale)},
                    "accepted": outcome.accepted,
                    "reason": outcome.rejection.reason if outcome.rejection else None,
                    "structure_id": structure_id if structure_id in kept else None,
                    "quenched_id": quenched_id if quenched_id in kept else None,
                    "basin_id": None if outcome.known is None else ids[outcome.known],
                    "energy": outcome.energy,
                    "max_force": outcome.max_force,
                    "force_calls": outcome.force_calls,
                }
            )
        if rows:
            session.execute(sa.insert(orm.AttemptRow), rows)

    def _put_transitions(self, session: Session, outcomes: list[Outcome], ids: list[int]) -> None:
        steps = Counter(
            (ids[o.start.basin], ids[o.known], o.action)
            for o in outcomes
            if o.start.basin is not None and o.known is not None and o.known != o.start.basin
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

    def _put_queue(self, session: Session, queued: list[tuple[Outcome, Candidate]]) -> None:
        round = session.get_one(orm.RunRow, self.run_id).round
        session.add_all(
            orm.QueueRow(
                structure_id=candidate.structure.id,
                run_id=self.run_id,
                attempt=outcome.n,
                stage=candidate.stage,
                trigger=candidate.trigger,
                score=candidate.score,
                max_force=rounded(candidate.max_force),
                energy=rounded(candidate.energy),
                round=round,
            )
            for outcome, candidate in queued
        )


def _exact(stored: Structure, start: Structure, given: bool) -> Structure:
    """A stored structure on the run's own cell, with positions as the run rounds them.

    The same content may have been stored first by someone else with other digits past the fourth.
    """
    return start if given else settle(start.moved(stored.positions))

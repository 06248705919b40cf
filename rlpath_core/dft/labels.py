"""Finished calculations become labels: an LMDB entry under the job's id, then the label's row.

Each is idempotent, and a kill in between repeats the first, in vain. Labels enter the LMDB in the order of the queue,
not of their ending, so that the file is the same on any machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from rlpath_core.data import Labelled, S2EFReader, S2EFWriter
from rlpath_core.data.labelled import BOTH, check_labels
from rlpath_core.dft.engines.base import RESULT, Calculation
from rlpath_core.dft.faultpoints import Step, faultpoint
from rlpath_core.dft.jobs import OPEN, Job
from rlpath_core.errors import InputError
from rlpath_core.store import Store, insert_new, orm, queries
from rlpath_core.structure import Structure


class Labels:
    """The LMDB and the ``labels`` table of a round."""

    def __init__(self, store: Store, lmdb: Path) -> None:
        self.store, self.lmdb = store, lmdb

    def enter(
        self, jobs: Sequence[Job], results: Mapping[str, Calculation], structures: Mapping[str, Structure]
    ) -> list[Job]:
        """Enter those of ``jobs`` (in the order of the queue) whose turn has come; returns them.

        Turn: nothing before it in the queue is still being calculated.
        """
        turn = next((n for n, job in enumerate(jobs) if job.state in OPEN), len(jobs))
        ready = [job for job in jobs[:turn] if job.state == "done" and job.id in results]
        if not ready:
            return []
        faultpoint(Step.ENTERING)
        places = {}
        with S2EFWriter(self.lmdb) as writer:
            for job in ready:
                places[job.id] = writer.add(_labelled(job, results[job.id], structures[job.id]), job.id)
                faultpoint(Step.ENTERED)
        with self.store.session() as session:
            for job in ready:
                insert_new(session, orm.LabelRow, [self._row(job, results[job.id], places[job.id])])
                session.execute(sa.update(orm.JobRow).where(orm.JobRow.id == job.id).values(state="labelled"))
                queue = sa.update(orm.QueueRow).where(orm.QueueRow.structure_id == job.structure_id)
                session.execute(queue.values(state="labelled", reason=None))
            faultpoint(Step.LABEL_OPEN)
        for job in ready:
            job.state, job.reason = "labelled", None
        faultpoint(Step.LABELLED)
        return ready

    def _row(self, job: Job, result: Calculation, place: int) -> dict[str, Any]:
        assert result.forces is not None
        return {
            "job_id": job.id,
            "structure_id": job.structure_id,
            "energy": result.energy,
            "max_force": float(np.linalg.norm(result.forces, axis=1).max()),
            "round": job.round_index,
            "forces": self.store.relative(job.folder / RESULT),
            "lmdb": self.store.relative(self.lmdb),
            "lmdb_key": place,
        }

    def heal(self, jobs: Sequence[Job]) -> None:
        """An LMDB that lost labels which the database has (deleted, restored from a copy) gets them back."""
        with self.store.reading() as session:
            rows = self._rows(session, {job.id for job in jobs})
        labelled = [job for job in jobs if job.id in rows and (job.folder / RESULT).exists()]
        if not labelled or _length(self.lmdb) >= len(rows):
            return
        with S2EFWriter(self.lmdb) as writer, self.store.session() as session:
            for job in labelled:
                result = job.engine.parse(job.folder, job.id)
                if result.energy is None or result.forces is None:
                    continue
                (structure,) = self.store.get([job.structure_id])
                place = writer.add(_labelled(job, result, structure), job.id)
                session.execute(sa.update(orm.LabelRow).where(orm.LabelRow.job_id == job.id).values(lmdb_key=place))

    def _rows(self, session: Session, ids: set[str]) -> dict[str, orm.LabelRow]:
        mine = session.scalars(sa.select(orm.LabelRow).where(orm.LabelRow.lmdb == self.store.relative(self.lmdb)))
        return {row.job_id: row for row in mine if row.job_id in ids}


def read_labels(store: Store, round_index: int | None = None) -> list[Labelled]:
    """Labels of a round (None: of all) as they were entered, each with its stored structure, unrounded.

    Raises InputError for a label whose LMDB or structure file is missing.
    """
    readers: dict[str | None, S2EFReader] = {}
    out = []
    for label in queries.labels(store, round_index):
        if label.lmdb is None or label.lmdb_key is None:
            raise InputError("is in no LMDB", store.folder, f"label {label.job_id[:12]}")
        reader = readers.setdefault(label.lmdb, S2EFReader(store.folder / label.lmdb))
        (structure,) = store.get([label.structure_id])
        entry = reader[label.lmdb_key]
        check_labels([entry], BOTH, store.folder / label.lmdb, [label.lmdb_key])
        out.append(Labelled(structure, label.energy, entry.forces, label.structure_id))
    return out


def _labelled(job: Job, result: Calculation, structure: Structure) -> Labelled:
    assert result.energy is not None
    assert result.forces is not None
    return Labelled(structure, result.energy, result.forces, job.structure_id)


def _length(path: Path) -> int:
    if not path.exists():
        return 0
    with S2EFReader(path) as reader:
        return len(reader)

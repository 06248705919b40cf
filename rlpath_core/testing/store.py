"""Rows of a database as the rooms that write them leave them: for tests of the rooms that read them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from rlpath_core.backends.base import Model
from rlpath_core.data import Labelled, S2EFWriter
from rlpath_core.store import Store, orm, queries
from rlpath_core.structure import Structure


def select(
    store: Store, structures: Sequence[Structure], round_index: int | None = 1, stage: str = "sample"
) -> list[str]:
    """Queue ``structures`` in state ``selected``, as the outbox leaves them.

    Parameters
    ----------
    store
        An open store; the structures become candidates of its run ``r``, which is added when it is not there yet.
    structures
        Stored first, then queued in this order.
    round_index
        Round of the queue rows.
    stage
        Their stage.

    Returns
    -------
    list of str
        Content ids, in the order of ``structures``.
    """
    with store.session() as session:
        if session.get(orm.RunRow, "r") is None:
            session.add(orm.RunRow(id="r", kind="sample", folder="r"))
            session.flush()
        ids = store.put(list(structures), session)
        row = {"run_id": "r", "attempt": 0, "stage": stage, "trigger": "max_force", "score": 1.0}
        for structure_id in ids:
            session.add(orm.QueueRow(structure_id=structure_id, round=round_index, state="selected", **row))
    return ids


def enter_labels(
    store: Store,
    structures: Sequence[Structure],
    reference: Model,
    round_index: int = 1,
    stage: str = "sample",
    engine: str = "ase",
) -> list[str]:
    """Queue ``structures`` as ``select`` does, if nobody has, and enter what ``reference`` predicts of them as labels.

    Returns
    -------
    list of str
        Ids of the jobs, in the order of ``structures``.
    """
    queued = {entry.structure_id for entry in queries.queue(store)}
    select(store, [structure for structure in structures if structure.id not in queued], round_index, stage)
    ids = [structure.id for structure in structures]
    jobs = [hashlib.sha256(f"{structure_id} {engine}".encode()).hexdigest() for structure_id in ids]
    predictions = reference.predict(store.get(ids))
    lmdb = store.folder / "labels.lmdb"
    with S2EFWriter(lmdb) as writer, store.session() as session:
        for job, structure_id, prediction, structure in zip(jobs, ids, predictions, store.get(ids), strict=True):
            assert prediction.forces is not None
            place = writer.add(Labelled(structure, prediction.energy, prediction.forces, structure_id), job)
            row = {"structure_id": structure_id, "round": round_index}
            session.add(orm.JobRow(id=job, engine=engine, launcher="local", folder="dft", state="labelled", **row))
            session.flush()
            session.add(
                orm.LabelRow(
                    job_id=job,
                    energy=prediction.energy,
                    max_force=float(np.linalg.norm(prediction.forces, axis=1).max()),
                    forces="dft/result.json",
                    lmdb=store.relative(lmdb),
                    lmdb_key=place,
                    **row,
                )
            )
    return jobs

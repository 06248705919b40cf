"""Rows of a database as the rooms that write them leave them: for tests of the rooms that read them."""

from __future__ import annotations

from collections.abc import Sequence

from rlpath_core.store import Store, orm
from rlpath_core.structure import Structure


def select(store: Store, structures: Sequence[Structure], round_index: int | None = 1) -> list[str]:
    """Queue ``structures`` in state ``selected``, as the outbox leaves them.

    Parameters
    ----------
    store
        An open store; the structures become candidates of its run ``r``, which is added when it is not there yet.
    structures
        Stored first, then queued in this order.
    round_index
        Round of the queue rows.

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
        row = {"run_id": "r", "attempt": 0, "stage": "sample", "trigger": "max_force", "score": 1.0}
        for structure_id in ids:
            session.add(orm.QueueRow(structure_id=structure_id, round=round_index, state="selected", **row))
    return ids

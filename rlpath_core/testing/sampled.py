"""What a run left in its database, to be compared with what another one left."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from rlpath_core.store import Store, orm

TABLES = (
    orm.AttemptRow,
    orm.BasinRow,
    orm.TransitionRow,
    orm.QueueRow,
    orm.StructureRow,
    orm.SearchRow,
    orm.MinimumRow,
    orm.SaddleRow,
    orm.ModelMinimumRow,
    orm.ModelSaddleRow,
)


def rows_of(folder: Path) -> dict[str, list[str]]:
    """Every row of the runs in the store ``folder`` but for its times, by table; in an order of their own."""
    out = {}
    with Store(folder) as store, store.reading() as session:
        for table in TABLES:
            columns = [c for c in table.__table__.columns if c.name not in ("created_at", "updated_at")]
            out[table.__tablename__] = sorted(map(repr, session.execute(sa.select(*columns))))
    return out

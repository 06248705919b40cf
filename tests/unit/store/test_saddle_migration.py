"""Revision 0004 both ways: a store of version 0.2 gets the tables of steps, and going back leaves the rest alone."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command

from rlpath_core.store import Store, orm, saddles
from rlpath_core.store.schema import alembic_config

STEPS = {"searches", "minima", "saddles", "model_minima", "model_saddles", "confirmations"}


def test_down_and_up_again_keeps_the_rest(campaign: Path, tmp_path: Path) -> None:
    (tmp_path / "rlpath.db").write_bytes((campaign / "rlpath.db").read_bytes())

    def rows() -> dict[str, list[tuple]]:
        with engine.connect() as connection:
            tables = [t for name, t in orm.Base.metadata.tables.items() if name not in STEPS]
            return {t.name: [tuple(row) for row in connection.execute(sa.select(t))] for t in tables}

    engine = sa.create_engine(f"sqlite:///{tmp_path / 'rlpath.db'}")
    before = rows()
    assert all(before[name] for name in ("attempts", "queue", "labels", "rounds"))
    config = alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0003")
        assert not STEPS & set(sa.inspect(connection).get_table_names())
    assert rows() == before
    with Store(tmp_path) as store:
        assert saddles.network(store) is None
        assert saddles.step_figures(store).confirmed == 0
        assert set(sa.inspect(store.engine).get_table_names()) >= STEPS
    assert rows() == before
    engine.dispose()

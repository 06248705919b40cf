"""The migrations build what ``orm.py`` says, also from an installed package."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from ase.build import molecule

from rlpath_core.outbox import process_outbox
from rlpath_core.outbox.options import OutboxConfig
from rlpath_core.store import Store, orm, queries
from rlpath_core.store.schema import HEAD, alembic_config
from rlpath_core.structure import Structure


def test_migrations_and_tables_agree(tmp_path: Path) -> None:
    """Autogenerate finds nothing to do. If it does: ``python -m rlpath_core.store.schema "what changed"``."""
    with Store(tmp_path) as store, store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, orm.Base.metadata) == []
        assert set(sa.inspect(connection).get_table_names()) == {*orm.Base.metadata.tables, "alembic_version"}


def test_a_missing_column_would_be_seen(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        with store.engine.begin() as connection:
            connection.execute(sa.text("ALTER TABLE decisions DROP COLUMN rmsd"))
        with store.engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), orm.Base.metadata)


def test_head_is_the_newest_revision() -> None:
    assert ScriptDirectory.from_config(alembic_config()).get_heads() == [HEAD]


def test_a_migration_cut_short_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from alembic import op

    def full_disk(*_: object, **__: object) -> None:
        raise sa.exc.OperationalError("CREATE", {}, sqlite3.OperationalError("database or disk is full"))

    real, calls = op.create_table, []

    def third_fails(*args: object, **kwargs: object) -> object:
        calls.append(args[0])
        return full_disk() if len(calls) == 3 else real(*args, **kwargs)

    monkeypatch.setattr(op, "create_table", third_fails)
    with pytest.raises(Exception, match="disk is full"):
        Store(tmp_path)
    with sqlite3.connect(tmp_path / "rlpath.db") as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []
    monkeypatch.undo()
    Store(tmp_path).close()


def test_jobs_of_the_first_schema_stay(tmp_path: Path) -> None:
    from alembic import command

    engine = sa.create_engine(f"sqlite:///{tmp_path / 'rlpath.db'}")
    config = alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(sa.text("INSERT INTO structures VALUES ('s', 'H2', 2, '2026-01-01 00:00:00')"))
        columns = "id, structure_id, engine, settings, launcher, folder, state, tries, created_at, updated_at"
        values = "'j', 's', 'tblite', '{}', 'local', 'dft/j', 'failed', 1, '2026-01-01 00:00:00', '2026-01-01 00:00:00'"
        connection.execute(sa.text(f"INSERT INTO jobs ({columns}) VALUES ({values})"))
    engine.dispose()
    with Store(tmp_path) as store, store.reading() as session:
        job = session.get(orm.JobRow, "j")
        assert job is not None
        assert (job.state, job.tries, job.core_seconds, job.failure, job.retry_of) == ("failed", 1, 0.0, None, None)


def water(tenths: float, seed: int = 0) -> Structure:
    """One O-H bond stretched by so many tenths of its length, the structures of ``version_0_1/rlpath.sql``."""
    atoms = molecule("H2O")
    atoms.positions[1] += 0.1 * tenths * (atoms.positions[1] - atoms.positions[0])
    atoms.positions += 1e-3 * np.random.default_rng(seed).normal(size=(3, 3)) * (seed > 0)
    return Structure.from_ase(atoms)


def test_an_outbox_of_version_0_1_continues(tmp_path: Path) -> None:
    """Five lines were read: one selected, one kept for the next round, three skipped. Two were queued since."""
    dump = Path(__file__).parent / "version_0_1" / "rlpath.sql"
    with closing(sqlite3.connect(tmp_path / "rlpath.db")) as connection:
        connection.executescript(dump.read_text())
    run_dir = tmp_path / "sampling" / "round-1"
    run_dir.mkdir(parents=True)
    with Store(tmp_path) as store:
        selected, twin, kept, wild, new, twin_of_kept = (
            water(*which).id for which in ((0,), (0, 1), (12,), (20,), (24,), (12, 2))
        )
        with store.session() as session:
            store.put([water(0), water(12), water(24), water(12, 2)], session)
        before = [(d.structure_id, d.verdict, d.reason) for d in queries.decisions(store)]
        assert [(key, verdict) for key, verdict, _ in before] == [
            (wild, "skipped"),
            (selected, "skipped"),
            (twin, "skipped"),
            (selected, "selected"),
            (kept, "kept"),
        ]
        config = OutboxConfig(budget=4, keep_unselected=True, select="score")
        summary = process_outbox(store, run_dir, config, round_index=2)
        assert (summary.read, summary.selected, summary.skipped) == (6, 2, {"duplicate": 1})
        states = {entry.structure_id: (entry.state, entry.round) for entry in queries.queue(store)}
    assert states == {
        selected: ("selected", 1),
        twin: ("skipped", 1),
        wild: ("skipped", 1),
        kept: ("selected", 2),
        new: ("selected", 2),
        twin_of_kept: ("skipped", 2),
    }
    submitted = [json.loads(line)["structure_id"] for line in (run_dir / "dft_submit.jsonl").read_text().splitlines()]
    assert submitted == [selected, new, kept]

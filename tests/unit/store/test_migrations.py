"""The migrations build what ``orm.py`` says, also from an installed package."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from rlpath_core.store import Store, orm
from rlpath_core.store.schema import HEAD, alembic_config


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


def test_an_installed_wheel_migrates(tmp_path: Path) -> None:
    """The wheel carries env.py and the revisions, and a store opens from it outside of the repository."""
    root, copy = Path(__file__).parents[3], tmp_path / "copy"  # a copy: a build writes into its source folder
    for name in ("rlpath_core", "tasks", "flows"):
        shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "pyproject.toml").write_text((root / "pyproject.toml").read_text())
    (copy / "README.md").touch()
    build = [sys.executable, "-m", "pip", "wheel", str(copy), "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*build, "-w", str(tmp_path)], check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("rlpath-*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import rlpath_core.store as s; s.Store(sys.argv[2]).close();"
        "print(s.__file__)"
    )
    run = [sys.executable, "-c", code, str(tmp_path / "site"), str(tmp_path / "new")]
    done = subprocess.run(run, check=True, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith(str(tmp_path / "site"))
    with sqlite3.connect(tmp_path / "new" / "rlpath.db") as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(HEAD,)]

"""``Store``: a folder with ``rlpath.db`` and ``structures/``; coordinates in files, everything else in SQL.

Writing order is always files first, rows second: a kill in between leaves a file that no row names, which the next
``put`` of the same structure finds in place, and never a row without its file.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from rlpath_core.errors import InputError
from rlpath_core.store import orm
from rlpath_core.store.npz import read_npz, write_npz
from rlpath_core.store.schema import upgrade
from rlpath_core.structure import Structure

BUSY_MILLISECONDS = 60_000
CHUNK = 500
"""Rows per statement: SQLite bounds the number of bound parameters."""


def find_store(run_dir: str | Path) -> Path:
    """The folder with the database that a run folder belongs to: itself, or a folder above it such as its campaign.

    Raises InputError if there is none; for a folder with a queue file, with the command that imports it.
    """
    folder = Path(run_dir).expanduser().resolve()
    if not folder.exists():
        raise InputError("no such folder", folder, "run_dir")
    for candidate in (folder, *folder.parents):
        if (candidate / "rlpath.db").exists():
            return candidate
    queue = folder / "dft_queue.jsonl"
    if queue.exists():
        what = "the candidates in dft_queue.jsonl are not in a database"
        raise InputError(f"{what}; to import them: {import_command(queue)}", folder)
    raise InputError("neither this folder nor one above it holds an rlpath.db: not the output of a run", folder)


def import_command(queue: Path) -> str:
    """The command that turns the lines of a queue file into rows."""
    return f"rlpath store queue {queue} --run_dir {queue.parent}"


class Store:
    """The database of a campaign or a run, and its structure files. A context manager.

    Opening creates what is missing and brings the schema up to date.

    Parameters
    ----------
    folder
        Contains ``structures/<id>.npz`` and, unless ``url`` is given, ``rlpath.db``.
    url
        Any SQLAlchemy URL, such as that of a PostgreSQL server shared by several machines.

    Raises
    ------
    InputError
        The file is not a database of rlpath, or a newer rlpath wrote it.
    """

    def __init__(self, folder: str | Path, url: str | None = None) -> None:
        self.folder = Path(folder).resolve()
        self.structures = self.folder / "structures"
        try:
            self.structures.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot be made a store: {error}", self.folder) from error
        self.url = url or f"sqlite:///{self.folder / 'rlpath.db'}"
        self.engine = _engine(self.url)
        try:
            upgrade(self.engine)
        except sa.exc.DatabaseError as error:
            self.engine.dispose()
            raise InputError(f"cannot be used as a database ({error.orig})", self._where) from error
        except InputError as error:
            self.engine.dispose()
            raise InputError(error.what, self._where) from error

    @property
    def _where(self) -> str:
        return sa.make_url(self.url).render_as_string(hide_password=True).removeprefix("sqlite:///")

    def close(self) -> None:
        self.engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def session(self) -> Iterator[Session]:
        """One transaction for writing: commits on the way out, rolls back on any error.

        On SQLite it is ``BEGIN IMMEDIATE``: it waits its turn at the start (up to a minute) instead of failing in the
        middle because another writer came first.
        """
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """One transaction for reading a consistent state; waits for no writer and keeps none waiting."""
        with Session(self.engine, expire_on_commit=False) as session:
            session.connection(execution_options={"rlpath_begin": "BEGIN"})
            yield session

    def path_of(self, structure_id: str) -> Path:
        return self.structures / f"{structure_id}.npz"

    def relative(self, path: str | Path) -> str:
        """How rows name a path: relative to this folder if it lies inside, so that the folder can be moved."""
        full = Path(path).resolve()
        return str(full.relative_to(self.folder)) if full.is_relative_to(self.folder) else str(full)

    def put(self, structures: Sequence[Structure], session: Session) -> list[str]:
        """Store structures that are not stored yet.

        Parameters
        ----------
        structures
            May repeat, and may be stored already.
        session
            The transaction that the rows belong to. The files are on disk when this returns.

        Returns
        -------
        list of str
            Content ids, in the order of ``structures``.
        """
        ids = [structure.id for structure in structures]
        unique = dict(zip(ids, structures, strict=True))
        known = self._known(unique, session)
        new = {key: structure for key, structure in unique.items() if key not in known}
        for key, structure in unique.items():
            if not self.path_of(key).exists():
                write_npz(self.path_of(key), structure)
        rows = [{"id": key, "formula": s.formula, "n_atoms": len(s)} for key, s in new.items()]
        insert_new(session, orm.StructureRow, rows)
        return ids

    def get(self, ids: Iterable[str]) -> list[Structure]:
        """Structures in the order of ``ids``. Raises InputError that names the file which is missing or damaged."""
        return [read_npz(self.path_of(key), key) for key in ids]

    def register_model(
        self,
        session: Session,
        reference: str | Path,
        digest: str,
        backend: str,
        weights_sha256: str,
        parent: str | None = None,
        run_id: str | None = None,
    ) -> str:
        """Add the row of a model, one per digest; returns the digest.

        A second call fills in what was not known before, and follows a bundle that has moved.

        Parameters
        ----------
        session
            The transaction that the row belongs to.
        reference
            Absolute path of the manifest, or ``ase:...``; see `rlpath_core.backends.load_model`.
        digest
            sha256 of the manifest.
        backend, weights_sha256
            As in the manifest.
        parent
            Digest of the model that this one was fine-tuned from.
        run_id
            The training run.
        """
        row = session.get(orm.ModelRow, digest)
        where = str(reference)
        if row is None:
            row = orm.ModelRow(sha256=digest, backend=backend, manifest=where, weights_sha256=weights_sha256)
            session.add(row)
        elif row.manifest != where and not Path(row.manifest).exists():
            row.manifest = where
        row.parent_sha256 = row.parent_sha256 or parent
        row.run_id = row.run_id or run_id
        session.flush()
        return digest

    @staticmethod
    def _known(ids: Iterable[str], session: Session) -> set[str]:
        wanted = list(ids)
        known: set[str] = set()
        for start in range(0, len(wanted), CHUNK):
            part = wanted[start : start + CHUNK]
            known |= set(session.scalars(sa.select(orm.StructureRow.id).where(orm.StructureRow.id.in_(part))))
        return known


def insert_new(session: Session, table: type[orm.Base], rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows whose unique keys are not there yet; the others stay as they are.

    Each row is a mapping by column name; all rows have the same columns.
    """
    if not rows:
        return
    session.flush()
    dialect = session.get_bind().dialect.name
    if dialect not in ("sqlite", "postgresql"):
        raise InputError(f"databases of kind {dialect!r} are not supported; use SQLite or PostgreSQL")
    statement = sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
    session.execute(statement.on_conflict_do_nothing(), list(rows))


def _engine(url: str) -> Engine:
    try:
        engine = sa.create_engine(url)
    except (sa.exc.ArgumentError, ImportError) as error:
        raise InputError(f"not a database URL that works here: {error}", "url") from error
    if engine.dialect.name != "sqlite":
        return engine

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: Any, _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself; _begin below does
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={BUSY_MILLISECONDS}")
        _use_wal(cursor)
        # NORMAL keeps every commit through kill -9; only a power cut may take back the last ones, never corrupt.
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(connection.get_execution_options().get("rlpath_begin", "BEGIN IMMEDIATE"))

    return engine


def _use_wal(cursor: Any) -> None:
    """Two processes that open a new database at once can block each other here; SQLite then fails without waiting."""
    give_up = time.monotonic() + BUSY_MILLISECONDS / 1000
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.05)

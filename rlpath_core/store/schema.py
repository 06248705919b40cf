"""Bringing a database to the newest schema: Alembic, run in-process from the packaged migrations.

To change the schema: edit ``orm.py``, then ``python -m rlpath_core.store.schema "what changed"`` writes the next
revision into ``migrations/versions``; read it before you commit it.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from rlpath_core.errors import InputError

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).parent / "migrations"
HEAD = "0004"
"""The newest revision. Known here so that opening a database that is up to date imports no Alembic."""


def upgrade(engine: Engine) -> None:
    """Create or migrate; one transaction, so that a kill leaves the old schema or the new.

    Raises InputError for a database of a newer rlpath.
    """
    with engine.connect().execution_options(rlpath_begin="BEGIN") as connection:
        if _revision(connection) == HEAD:
            return
    with engine.begin() as connection:  # BEGIN IMMEDIATE: of two openers one migrates, the other finds it done
        found = _revision(connection)
        if found == HEAD:
            return
        from alembic import command
        from alembic.script import ScriptDirectory
        from alembic.util import CommandError

        config = alembic_config()
        config.attributes["connection"] = connection
        try:
            if found is not None:
                ScriptDirectory.from_config(config).get_revision(found)
        except CommandError as error:
            raise InputError(f"has schema {found}, newer than this rlpath knows ({HEAD}): update rlpath") from error
        logging.getLogger("alembic").setLevel(logging.WARNING)
        command.upgrade(config, "head")


def alembic_config() -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def write_revision(message: str) -> None:
    """The next migration, from the difference between the tables in ``orm.py`` and the migrations so far."""
    from alembic import command
    from alembic.script import ScriptDirectory

    config = alembic_config()
    count = sum(1 for _ in ScriptDirectory.from_config(config).walk_revisions())
    with tempfile.TemporaryDirectory() as folder:
        engine = sa.create_engine(f"sqlite:///{folder}/empty.db")
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            command.revision(config, message=message, autogenerate=True, rev_id=f"{count + 1:04d}")


if __name__ == "__main__":
    write_revision(" ".join(sys.argv[1:]) or "change")

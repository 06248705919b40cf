"""Alembic's entry: runs on the connection that ``rlpath_core.store.schema`` hands over."""

from alembic import context

from rlpath_core.store.orm import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transactional_ddl=True,  # SQLite's DDL is transactional once the driver's own BEGIN is off
    render_as_batch=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()

"""Tries of a job: kind of failure, limits, cost.

Revision 0002, after 0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("failure", sa.String(length=20), nullable=True))
        batch_op.add_column(sa.Column("wall_seconds", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("memory_mb", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("core_seconds", sa.Double(), server_default="0", nullable=False))
        batch_op.add_column(sa.Column("retry_of", sa.String(length=64), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_column("retry_of")
        batch_op.drop_column("core_seconds")
        batch_op.drop_column("memory_mb")
        batch_op.drop_column("wall_seconds")
        batch_op.drop_column("failure")

"""The outbox reads rows: how far it had read a file is no longer kept.

Revision 0003, after 0002.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("decisions", schema=None) as batch_op:
        batch_op.drop_constraint("fk_decisions_folder_outboxes", type_="foreignkey")
    op.drop_table("outboxes")


def downgrade() -> None:
    op.create_table(
        "outboxes",
        sa.Column("folder", sa.String(length=500), nullable=False),
        sa.Column("offset", sa.Integer(), nullable=False),
        sa.Column("lines", sa.Integer(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("folder", name=op.f("pk_outboxes")),
    )
    op.execute("INSERT INTO outboxes SELECT DISTINCT folder, 0, 0, '' FROM decisions")
    with op.batch_alter_table("decisions", schema=None) as batch_op:
        batch_op.create_foreign_key("fk_decisions_folder_outboxes", "outboxes", ["folder"], ["folder"])

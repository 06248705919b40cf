"""Saddle searches, the catalogue of minima and saddles, and what models and the reference say of them.

Revision 0004, after 0003.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "minima",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=20), nullable=False),
        sa.Column("run_id", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_minima_run_id_runs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_minima")),
        sa.UniqueConstraint("name", name=op.f("uq_minima_name")),
    )
    op.create_table(
        "saddles",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=20), nullable=False),
        sa.Column("run_id", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_saddles_run_id_runs")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_saddles")),
        sa.UniqueConstraint("name", name=op.f("uq_saddles_name")),
    )
    op.create_table(
        "model_minima",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(length=200), nullable=False),
        sa.Column("minimum_id", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("merged_into", sa.Integer(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("structure_id", sa.String(length=64), nullable=False),
        sa.Column("energy", sa.Double(), nullable=False),
        sa.Column("fmax", sa.Double(), nullable=False),
        sa.Column("frequencies", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("found", sa.Integer(), nullable=False),
        sa.Column("searches", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["merged_into"], ["minima.id"], name=op.f("fk_model_minima_merged_into_minima")),
        sa.ForeignKeyConstraint(["minimum_id"], ["minima.id"], name=op.f("fk_model_minima_minimum_id_minima")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_model_minima_run_id_runs")),
        sa.ForeignKeyConstraint(
            ["structure_id"], ["structures.id"], name=op.f("fk_model_minima_structure_id_structures")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_minima")),
        sa.UniqueConstraint("run_id", "minimum_id", name=op.f("uq_model_minima_run_id_minimum_id")),
    )
    with op.batch_alter_table("model_minima", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_model_minima_minimum_id"), ["minimum_id"], unique=False)

    op.create_table(
        "model_saddles",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(length=200), nullable=False),
        sa.Column("saddle_id", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("merged_into", sa.Integer(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("from_minimum", sa.Integer(), nullable=False),
        sa.Column("to_minimum", sa.Integer(), nullable=False),
        sa.Column("structure_id", sa.String(length=64), nullable=False),
        sa.Column("minus_id", sa.String(length=64), nullable=False),
        sa.Column("plus_id", sa.String(length=64), nullable=False),
        sa.Column("start_id", sa.String(length=64), nullable=False),
        sa.Column("end_id", sa.String(length=64), nullable=False),
        sa.Column("energy", sa.Double(), nullable=False),
        sa.Column("fmax", sa.Double(), nullable=False),
        sa.Column("curvature", sa.Double(), nullable=True),
        sa.Column("next_curvature", sa.Double(), nullable=True),
        sa.Column("barrier", sa.Double(), nullable=False),
        sa.Column("barrier_back", sa.Double(), nullable=False),
        sa.Column("frequencies", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("degeneracy", sa.Integer(), nullable=False),
        sa.Column("degeneracy_back", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.Column("found", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["end_id"], ["structures.id"], name=op.f("fk_model_saddles_end_id_structures")),
        sa.ForeignKeyConstraint(["from_minimum"], ["minima.id"], name=op.f("fk_model_saddles_from_minimum_minima")),
        sa.ForeignKeyConstraint(["merged_into"], ["saddles.id"], name=op.f("fk_model_saddles_merged_into_saddles")),
        sa.ForeignKeyConstraint(["minus_id"], ["structures.id"], name=op.f("fk_model_saddles_minus_id_structures")),
        sa.ForeignKeyConstraint(["plus_id"], ["structures.id"], name=op.f("fk_model_saddles_plus_id_structures")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_model_saddles_run_id_runs")),
        sa.ForeignKeyConstraint(["saddle_id"], ["saddles.id"], name=op.f("fk_model_saddles_saddle_id_saddles")),
        sa.ForeignKeyConstraint(["start_id"], ["structures.id"], name=op.f("fk_model_saddles_start_id_structures")),
        sa.ForeignKeyConstraint(
            ["structure_id"], ["structures.id"], name=op.f("fk_model_saddles_structure_id_structures")
        ),
        sa.ForeignKeyConstraint(["to_minimum"], ["minima.id"], name=op.f("fk_model_saddles_to_minimum_minima")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_saddles")),
        sa.UniqueConstraint("run_id", "saddle_id", name=op.f("uq_model_saddles_run_id_saddle_id")),
    )
    with op.batch_alter_table("model_saddles", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_model_saddles_saddle_id"), ["saddle_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_model_saddles_structure_id"), ["structure_id"], unique=False)

    op.create_table(
        "searches",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(length=200), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("proposal", sa.String(length=60), nullable=False),
        sa.Column("search", sa.String(length=60), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("guess_id", sa.String(length=64), nullable=True),
        sa.Column("result_id", sa.String(length=64), nullable=True),
        sa.Column("state", sa.String(length=20), nullable=False),
        sa.Column("rejection", sa.String(), nullable=True),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.Column("calls", sa.Integer(), nullable=False),
        sa.Column("saddle_id", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["guess_id"], ["structures.id"], name=op.f("fk_searches_guess_id_structures")),
        sa.ForeignKeyConstraint(["result_id"], ["structures.id"], name=op.f("fk_searches_result_id_structures")),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_searches_run_id_runs")),
        sa.ForeignKeyConstraint(["saddle_id"], ["saddles.id"], name=op.f("fk_searches_saddle_id_saddles")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_searches")),
        sa.UniqueConstraint("run_id", "n", name=op.f("uq_searches_run_id_n")),
    )
    with op.batch_alter_table("searches", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_searches_saddle_id"), ["saddle_id"], unique=False)

    op.create_table(
        "confirmations",
        sa.Column("model_saddle_id", sa.Integer(), nullable=False),
        sa.Column("confirmed", sa.Boolean(), nullable=False),
        sa.Column("tolerance", sa.Double(), nullable=False),
        sa.Column("fmax", sa.Double(), nullable=False),
        sa.Column("energy", sa.Double(), nullable=False),
        sa.Column("curvature", sa.Double(), nullable=True),
        sa.Column("sides", sa.Integer(), nullable=False),
        sa.Column("barrier", sa.Double(), nullable=True),
        sa.Column("barrier_back", sa.Double(), nullable=True),
        sa.Column("barrier_error", sa.Double(), nullable=True),
        sa.Column("saddle_job", sa.String(length=64), nullable=False),
        sa.Column("minus_job", sa.String(length=64), nullable=True),
        sa.Column("plus_job", sa.String(length=64), nullable=True),
        sa.Column("start_job", sa.String(length=64), nullable=True),
        sa.Column("end_job", sa.String(length=64), nullable=True),
        sa.ForeignKeyConstraint(["end_job"], ["labels.job_id"], name=op.f("fk_confirmations_end_job_labels")),
        sa.ForeignKeyConstraint(["minus_job"], ["labels.job_id"], name=op.f("fk_confirmations_minus_job_labels")),
        sa.ForeignKeyConstraint(
            ["model_saddle_id"], ["model_saddles.id"], name=op.f("fk_confirmations_model_saddle_id_model_saddles")
        ),
        sa.ForeignKeyConstraint(["plus_job"], ["labels.job_id"], name=op.f("fk_confirmations_plus_job_labels")),
        sa.ForeignKeyConstraint(["saddle_job"], ["labels.job_id"], name=op.f("fk_confirmations_saddle_job_labels")),
        sa.ForeignKeyConstraint(["start_job"], ["labels.job_id"], name=op.f("fk_confirmations_start_job_labels")),
        sa.PrimaryKeyConstraint("model_saddle_id", name=op.f("pk_confirmations")),
    )


def downgrade() -> None:
    op.drop_table("confirmations")
    with op.batch_alter_table("searches", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_searches_saddle_id"))

    op.drop_table("searches")
    with op.batch_alter_table("model_saddles", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_model_saddles_structure_id"))
        batch_op.drop_index(batch_op.f("ix_model_saddles_saddle_id"))

    op.drop_table("model_saddles")
    with op.batch_alter_table("model_minima", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_model_minima_minimum_id"))

    op.drop_table("model_minima")
    op.drop_table("saddles")
    op.drop_table("minima")

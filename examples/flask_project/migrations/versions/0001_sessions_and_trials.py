"""Participants, their sessions and trials, and the groups of trials.

Revision: 0001, follows: nothing, made: 2025-03-03
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "participant",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(80), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_participant")),
        sa.UniqueConstraint("name", name=op.f("uq_participant_name")),
    )
    op.create_table(
        "group",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("name", sa.String(40), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_group")),
        sa.UniqueConstraint("name", name=op.f("uq_group_name")),
    )
    op.create_table(
        "session",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("participant_id", sa.Integer, nullable=False),
        sa.Column("current_trial_id", sa.Integer, nullable=True),
        sa.ForeignKeyConstraint(
            ["participant_id"],
            ["participant.id"],
            name=op.f("fk_session_participant_id_participant"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_session")),
    )
    op.create_index(op.f("ix_session_participant_id"), "session", ["participant_id"])
    op.create_table(
        "trial",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("session_id", sa.Integer, nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("state", sa.Enum("waiting", "running", "done", "skipped", name="trial_state"), nullable=False),
        sa.Column("value", sa.Float, nullable=True),
        sa.ForeignKeyConstraint(
            ["session_id"], ["session.id"], name=op.f("fk_trial_session_id_session"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trial")),
        sa.UniqueConstraint("session_id", "position", name=op.f("uq_trial_session_id_position")),
    )
    # The way back from "session" to "trial" closes the circle, so it has to wait for both tables.
    op.create_foreign_key(
        op.f("fk_session_current_trial_id_trial"),
        "session",
        "trial",
        ["current_trial_id"],
        ["id"],
        ondelete="SET NULL",
    )
    op.create_table(
        "trial_groups",
        sa.Column("trial_id", sa.Integer, nullable=False),
        sa.Column("group_id", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(
            ["trial_id"], ["trial.id"], name=op.f("fk_trial_groups_trial_id_trial"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["group_id"], ["group.id"], name=op.f("fk_trial_groups_group_id_group"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("trial_id", "group_id", name=op.f("pk_trial_groups")),
    )
    op.create_index(op.f("ix_trial_groups_group_id"), "trial_groups", ["group_id"])


def downgrade() -> None:
    op.drop_table("trial_groups")
    op.drop_constraint(op.f("fk_session_current_trial_id_trial"), "session", type_="foreignkey")
    op.drop_table("trial")
    op.drop_table("session")
    op.drop_table("group")
    op.drop_table("participant")
    op.execute("DROP TYPE trial_state")  # an enum type outlives the table that it was made for

"""Tools and loans"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "tool",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("pieces", sa.Integer, nullable=False),
        sa.CheckConstraint("pieces >= 0", name="tool_has_pieces"),
    )
    op.create_table(
        "loan",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("tool_id", sa.Integer, sa.ForeignKey("tool.id"), nullable=False),
        sa.Column("borrower", sa.String, nullable=False),
        sa.Column("begun", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.Column("ended", sa.DateTime(timezone=True)),
    )


def downgrade() -> None:
    op.drop_table("loan")
    op.drop_table("tool")

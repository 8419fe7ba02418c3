"""Remember the station at which a trial is measured.

Revision: 0002, follows: 0001, made: 2025-03-17
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("trial", sa.Column("station", sa.String(40), nullable=True))


def downgrade() -> None:
    op.drop_column("trial", "station")

"""Note below which allowed folder a job's tomogram lies, so that its worker follows no link there."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0003"
down_revision = "r0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the step."""
    op.add_column("jobs", sa.Column("source_root", sa.Text))

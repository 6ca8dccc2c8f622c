"""Add the end of their time to idempotency keys."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from service.database.types import UTCDateTime

revision: str = "3e51c8a9d704"
down_revision: str | None = "b4d9e27f61a0"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

phase = "expand"


def upgrade() -> None:
    """Add a column that the former release leaves empty."""
    op.add_column("idempotency_keys", sa.Column("expires_at", UTCDateTime(), nullable=True))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("idempotency_keys", "expires_at")

"""Create idempotency keys."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from service.database.types import UTCDateTime

revision: str = "b4d9e27f61a0"
down_revision: str | None = "7c1f0a52d3e8"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

phase = "expand"


def upgrade() -> None:
    """Make the table, and the index by which old keys are deleted."""
    op.create_table(
        "idempotency_keys",
        sa.Column("scope", sa.String(200), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("location", sa.String(2000), nullable=True),
        sa.Column("etag", sa.String(200), nullable=True),
        sa.Column("created_at", UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("scope", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index(op.f("ix_idempotency_keys_created_at"), "idempotency_keys", ["created_at"])


def downgrade() -> None:
    """Drop the table, and its index with it."""
    op.drop_table("idempotency_keys")

"""Index the end of idempotency keys' time."""

from collections.abc import Sequence

from service.migrations.indexes import create_index_concurrently, drop_index_concurrently

revision: str = "91d4f7b2c6e8"
down_revision: str | None = "3e51c8a9d704"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

phase = "expand"


def upgrade() -> None:
    """Build the index by which old keys are deleted."""
    create_index_concurrently("ix_idempotency_keys_expires_at", "idempotency_keys", ["expires_at"])


def downgrade() -> None:
    """Drop the index."""
    drop_index_concurrently("ix_idempotency_keys_expires_at", "idempotency_keys")

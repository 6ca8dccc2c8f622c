"""Drop the index by which the former release deleted idempotency keys."""

from collections.abc import Sequence

from service.migrations.idempotency_keys import fill_expires_at
from service.migrations.indexes import create_index_concurrently, drop_index_concurrently

revision: str = "5b7e20f4a9c3"
down_revision: str | None = "d80a6c35e1f9"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

phase = "contract"


def upgrade() -> None:
    """Fill what the former release has written since, and drop its index."""
    fill_expires_at()
    drop_index_concurrently("ix_idempotency_keys_created_at", "idempotency_keys")


def downgrade() -> None:
    """Build the index again."""
    create_index_concurrently("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"])

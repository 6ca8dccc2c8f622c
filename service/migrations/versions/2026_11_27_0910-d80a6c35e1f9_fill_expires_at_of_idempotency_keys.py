"""Fill the end of idempotency keys' time."""

from collections.abc import Sequence

from service.migrations.idempotency_keys import fill_expires_at

revision: str = "d80a6c35e1f9"
down_revision: str | None = "91d4f7b2c6e8"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

phase = "expand"


def upgrade() -> None:
    """Give each key the time that it was made for."""
    fill_expires_at()


def downgrade() -> None:
    """Leave it: without it they mean the same."""

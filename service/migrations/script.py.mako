"""${message}."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision: str = ${repr(up_revision)}
down_revision: str | None = ${repr(down_revision)}
branch_labels: str | Sequence[str] | None = ${repr(branch_labels)}
depends_on: str | Sequence[str] | None = ${repr(depends_on)}

# "expand" leaves the former release working; "contract" takes away what only it needs.
phase = "${config.attributes.get("phase", "expand")}"
# Seconds; delete those whose defaults (MIGRATE_LOCK_TIMEOUT, MIGRATE_STATEMENT_TIMEOUT) will do.
lock_timeout = 1.0
statement_timeout = 60.0


def upgrade() -> None:
    """Go forward."""
    ${upgrades if upgrades else "raise NotImplementedError"}


def downgrade() -> None:
    """Go back."""
    ${downgrades if downgrades else "raise NotImplementedError"}

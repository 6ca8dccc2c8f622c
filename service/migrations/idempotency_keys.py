"""What several revisions of the idempotency keys do; as fixed as they are."""

from typing import Final

import sqlalchemy as sa
from alembic import op

from service.database.types import UTCDateTime
from service.migrations.backfill import backfill

# What the former release takes for the time of every key.
_A_DAY_LATER: Final = {
    "postgresql": "created_at + INTERVAL '24 hours'",
    "mariadb": "created_at + INTERVAL 24 HOUR",
    "sqlite": "strftime('%Y-%m-%d %H:%M:%f', created_at, '+24 hours') || '000'",
}


def fill_expires_at() -> None:
    """Give each key that has no end of its time the one that it was made for."""
    keys = sa.table(
        "idempotency_keys",
        sa.column("created_at", UTCDateTime()),
        sa.column("expires_at", UTCDateTime()),
    )
    backfill(
        keys,
        key="created_at",
        values={
            "expires_at": sa.literal_column(_A_DAY_LATER[op.get_context().dialect.name]),
        },
        where=keys.c.expires_at.is_(None),
    )

"""The tables in which a database remembers what was applied to it."""

from typing import Final

HISTORY_TABLE: Final = "migration_history"
# They are the runner's and Alembic's, not the models', so a comparison of schemas leaves them out.
BOOKKEEPING_TABLES: Final = frozenset({"alembic_version", HISTORY_TABLE})

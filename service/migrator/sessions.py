"""Who is connected, who holds what others wait for: named well enough to be found, and no more."""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Connection, TextClause, text

from service.migrator.connections import ask

# No text of a query: it may hold data.
_POSTGRES_COLUMNS: Final = """
    a.pid AS number, a.application_name, a.state, a.query_start, a.xact_start AS transaction_start
"""
_MARIADB_COLUMNS: Final = """
    p.id AS number, concat(p.user, '@', p.host) AS application_name, lower(p.command) AS state,
    utc_timestamp(6) - INTERVAL p.time_ms * 1000 MICROSECOND AS query_start
"""
_BLOCKERS: Final[dict[str, str]] = {
    "postgresql": f"""
        SELECT {_POSTGRES_COLUMNS} FROM pg_stat_activity a
        WHERE a.pid = ANY (pg_blocking_pids(:number)) ORDER BY a.xact_start
    """,  # noqa: S608 - text of ours
    # What holds a table's metadata is any transaction that has touched it, and MariaDB tells which
    # only with a plugin; these are the transactions that there are.
    "mariadb": f"""
        SELECT {_MARIADB_COLUMNS}, t.trx_started AS transaction_start
        FROM information_schema.innodb_trx t
        JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id
        WHERE p.id <> :number ORDER BY t.trx_started
    """,  # noqa: S608 - text of ours
}
_WAITING: Final[dict[str, str]] = {
    "postgresql": f"""
        SELECT {_POSTGRES_COLUMNS} FROM pg_stat_activity a
        WHERE a.datname = current_database() AND cardinality(pg_blocking_pids(a.pid)) > 0
        ORDER BY a.query_start
    """,  # noqa: S608 - text of ours
    "mariadb": f"""
        SELECT {_MARIADB_COLUMNS}, NULL AS transaction_start
        FROM information_schema.processlist p
        WHERE p.db = database() AND p.state LIKE 'Waiting for%lock' ORDER BY p.time_ms DESC
    """,  # noqa: S608 - text of ours
}


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody's connection to the database.

    Args:
        number: The server's process on PostgreSQL, the connection's number on MariaDB.
        application_name: What it calls itself; on MariaDB its user and host.
        state: What it does, such as "idle in transaction".
        query_start: When its last statement began.
        transaction_start: When its transaction began, if it has one.
    """

    number: int
    application_name: str | None = None
    state: str | None = None
    query_start: datetime | None = None
    transaction_start: datetime | None = None

    @property
    def description(self) -> str:
        """The session in a few words."""
        known = [self.application_name, self.state]
        if self.query_start is not None:
            known.append(f"since {self.query_start:%Y-%m-%d %H:%M:%S}")
        return f"process {self.number} ({', '.join(filter(None, known))})"

    def as_event(self) -> dict[str, Any]:
        """The session as a part of an event."""
        return {**asdict(self), "description": self.description}


def holder_columns(dialect_name: str) -> str:
    """The columns of `Session`, of `pg_stat_activity a` or `processlist p`."""
    if dialect_name == "postgresql":
        return _POSTGRES_COLUMNS
    return f"{_MARIADB_COLUMNS}, NULL AS transaction_start"


def read_sessions(connection: Connection, query: TextClause, **values: Any) -> list[Session]:
    """The sessions that a query of the columns of `Session` finds."""
    return [Session(**row) for row in ask(connection, query, **values).mappings()]


def blockers(connection: Connection, number: int) -> list[Session]:
    """Those whom a session waits for, as far as the database tells.

    Args:
        connection: Another session's.
        number: The one that waits.
    """
    query = _BLOCKERS.get(connection.dialect.name)
    return read_sessions(connection, text(query), number=number) if query else []


def waiting(connection: Connection) -> list[tuple[Session, list[Session]]]:
    """Every session that waits for a lock, with those whom it waits for."""
    query = _WAITING.get(connection.dialect.name)
    found = read_sessions(connection, text(query)) if query else []
    return [(session, blockers(connection, session.number)) for session in found]


def session_number(connection: Connection) -> int | None:
    """The number by which the server knows a session; None for SQLite, which has none."""
    queries = {"postgresql": "SELECT pg_backend_pid()", "mariadb": "SELECT connection_id()"}
    query = queries.get(connection.dialect.name)
    return None if query is None else int(ask(connection, text(query)).scalar_one())

"""How many connections a deployment may open, against what it was given and what the server has."""

import math
from dataclasses import dataclass
from typing import Final

from sqlalchemy import URL, Connection, Row, text

from service.database.settings import DatabaseSettings

# The runner of migrations works by one, and looks by a second one who blocks it.
MIGRATION_CONNECTIONS: Final = 2
# By a third one it stops what runs: MariaDB's drivers cannot cancel a statement by themselves.
MARIADB_MIGRATION_CONNECTIONS: Final = 3
# The health checks' own connection, so that a full pool does not look like a dead database.
HEALTH_CONNECTIONS: Final = 1
# That which compares the primary's position with the replica's.
REPLICA_MONITOR_CONNECTIONS: Final = 1

# A limit that is absent is -1 in the catalogs; `reserved_connections` is PostgreSQL 16's.
_POSTGRESQL: Final = text("""
SELECT current_setting('max_connections')::int
         - current_setting('superuser_reserved_connections')::int
         - coalesce(current_setting('reserved_connections', true)::int, 0) AS max_connections,
       (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS role_limit,
       (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS database_limit
""")
# MySQL and MariaDB let one administrator in beyond `max_connections`; 0 is no limit for a user.
_MYSQL: Final = text("""
SELECT @@max_connections AS max_connections,
       if(@@max_user_connections > 0, @@max_user_connections, -1) AS role_limit,
       -1 AS database_limit
""")
_SUBJECTS: Final = {
    "max_connections": "the server's max_connections, without what is reserved,",
    "role_limit": "the limit of the service's role",
    "database_limit": "the limit of the database",
}


@dataclass(frozen=True, kw_only=True)
class ConnectionDemand:
    """The most connections that a deployment opens at once to its primary.

    A replica gets fewer: no migrations run there, and it has to take as many as its primary, or
    PostgreSQL does not start it. So a deployment that fits the one fits the other.

    Attributes:
        replicas: How many containers or pods run at once, those of a rolling update included.
        workers: Processes in each.
        capacity: The most connections of a worker's pool; one more is its health checks'.
        streams: Connections of a worker for answers that are streamed.
        migrations: Connections of a migration that runs beside them.
        monitors: Connections of each worker that watch a replica's lag.
    """

    replicas: int
    workers: int
    capacity: int
    streams: int = 0
    migrations: int = MIGRATION_CONNECTIONS
    monitors: int = 0

    @property
    def total(self) -> int:
        """How many that is."""
        each = self.capacity + HEALTH_CONNECTIONS + self.streams + self.monitors
        return self.replicas * self.workers * each + self.migrations

    def __str__(self) -> str:
        monitors = f" + {self.monitors} for the replica's lag" if self.monitors else ""
        return (
            f"{self.replicas} replicas x {self.workers} workers"
            f" x ({self.capacity} of the pool + {HEALTH_CONNECTIONS} for health"
            f" + {self.streams} for streams{monitors})"
            f" + {self.migrations} for migrations = {self.total} connections"
        )


@dataclass(frozen=True, kw_only=True)
class ServerLimit:
    """What a server lets the service open.

    Attributes:
        connections: How many; infinite without a limit.
        subject: What sets the limit, in words.
    """

    connections: float
    subject: str


def connection_demand(
    settings: DatabaseSettings, *, workers: int, replicas: int = 1, streams: int = 0
) -> ConnectionDemand:
    """What a deployment may open.

    Args:
        settings: The pool's sizes, and whether there is a replica.
        workers: Processes in each container.
        replicas: Containers at once.
        streams: Connections of each process for answers that are streamed.
    """
    return ConnectionDemand(
        replicas=replicas,
        workers=workers,
        capacity=settings.pool_capacity,
        streams=streams,
        migrations=migration_connections(settings.migration_url),
        monitors=REPLICA_MONITOR_CONNECTIONS if settings.replica_url is not None else 0,
    )


def migration_connections(url: URL) -> int:
    """The most connections that the runner of migrations opens at once.

    Args:
        url: The database's.
    """
    is_mariadb = url.get_backend_name() == "mariadb"
    return MARIADB_MIGRATION_CONNECTIONS if is_mariadb else MIGRATION_CONNECTIONS


def budget_complaint(demand: ConnectionDemand, budget: int | None) -> str | None:
    """Why a deployment does not fit `DATABASE_CONNECTION_BUDGET`; None when it does.

    Args:
        demand: What it may open.
        budget: What it may have; None without a limit.
    """
    if budget is None or demand.total <= budget:
        return None
    return (
        f"DATABASE_CONNECTION_BUDGET: {budget} are too few for {demand};"
        " raise it, or lower DATABASE_POOL_SIZE, DATABASE_MAX_OVERFLOW, WEB_CONCURRENCY or REPLICAS"
    )


def server_complaint(demand: ConnectionDemand, limit: ServerLimit) -> str | None:
    """Why a deployment does not fit its server; None when it does.

    Args:
        demand: What it may open.
        limit: What the server lets it open.
    """
    if demand.total <= limit.connections:
        return None
    return (
        f"{limit.subject} allows {limit.connections:g} connections, too few for {demand};"
        " raise the limit, or lower DATABASE_POOL_SIZE, DATABASE_MAX_OVERFLOW, WEB_CONCURRENCY"
        " or REPLICAS"
    )


def server_limit(connection: Connection) -> ServerLimit:
    """Ask a server how many connections the service may open.

    Args:
        connection: One to it, of the service's role and database.

    Returns:
        The tightest of the server's, the role's and the database's limits. Other services that
        use the same server are not known to it.
    """
    match connection.dialect.name:
        case "postgresql":
            row = connection.execute(_POSTGRESQL).one()
        case "mysql" | "mariadb":
            row = connection.execute(_MYSQL).one()
        case _:
            return ServerLimit(connections=math.inf, subject="nothing")
    return _tightest(row)


def _tightest(row: Row[int, int, int]) -> ServerLimit:
    limits = {name: limit for name, limit in zip(row._fields, row, strict=True) if limit >= 0}
    name = min(limits, key=limits.__getitem__)
    return ServerLimit(connections=limits[name], subject=_SUBJECTS[name])

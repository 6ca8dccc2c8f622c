"""The checks of this service: what each asks, when it fails, and what is to be done then.

A check of your own is registered by `health_monitor`; docs/health.md shows how.
"""

import asyncio
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from service.database import (
    DatabaseSettings,
    check_database_health,
    create_db_engine,
    pool_snapshot,
    process,
)
from service.database.advice import failure_advice
from service.database.failures import DatabaseFailure, SchemaMismatch, classify
from service.database.pool_waits import RecentWaits
from service.database.urls import is_memory, sqlite_file
from service.settings import Settings
from service.web.health_monitor import HealthMonitor
from service.web.health_state import PASSED, STARTING, Outcome, Status

# GitLab's soft limit of a saturation.
SATURATION_LIMIT: Final = 0.9
# A pool that is large enough gives a connection in microseconds, and opens one in milliseconds.
WAIT_LIMIT_SECONDS: Final = 0.25
# The part of its time after which the database check gives up by itself, and says why.
_OWN_SHARE: Final = 0.9
# Fewer checkouts have no 99th percentile.
_LEAST_CHECKOUTS: Final = 100
DISK_LIMIT_BYTES: Final = 100 * 1024 * 1024

_HEADS: Final = text("SELECT version_num FROM alembic_version")
# What to do about a schema, by its state.
SCHEMA_ADVICE: Final[Mapping[str, str]] = {
    "behind": "run `tidegate migrate up`",
    "ahead_past_contract": (
        "deploy the release that migrated, or take that back by its own `tidegate migrate down`"
    ),
    "diverged": "deploy a release of the history that the database has",
}
_UNREADABLE: Final = Outcome(
    Status.FAIL, "unreadable", "grant SELECT on alembic_version to the role of DATABASE_URL"
)


class SchemaStatus(Protocol):
    """Where a database's schema stands, as the migrator tells it."""

    @property
    def is_compatible(self) -> bool:
        """Whether this release works with it."""

    @property
    def state(self) -> str:
        """The verdict in one word."""

    @property
    def current(self) -> str | None:
        """The database's revision."""

    @property
    def head(self) -> str:
        """The last revision of this release."""


ReadSchema = Callable[[Connection], SchemaStatus]


class KnownSchema:
    """Compares a database with this release, and remembers what it found.

    Args:
        read: Makes the comparison.
    """

    def __init__(self, read: ReadSchema) -> None:
        # None until somebody could look.
        self.latest: SchemaStatus | None = None
        self._read = read

    def __call__(self, connection: Connection) -> SchemaStatus:
        """Compare."""
        self.latest = self._read(connection)
        return self.latest


def health_engine(settings: DatabaseSettings) -> Engine:
    """An engine with one connection of its own: a full pool must not look like a dead database.

    It is not validated before use, which would be a second query at each look. One that the server
    has ended costs one look, and the next one opens another.
    """
    if is_memory(settings.sync_url):
        return process.engine
    policy = replace(
        settings.pool_policy, validation_bypass=float("inf"), keepalive=float("inf"), min_idle=0
    )
    return create_db_engine(
        settings=settings, pool_name="health", pool_size=1, max_overflow=0, policy=policy
    )


def health_monitor(settings: Settings, engine: Engine, read_schema: ReadSchema) -> HealthMonitor:
    """The monitor with every check of this service.

    Args:
        settings: Interval, deadline, thresholds and the database.
        engine: Whom to ask, of `health_engine`.
        read_schema: Compares a database with this release; may ask several queries.
    """
    monitor = HealthMonitor(
        interval=settings.health_interval,
        timeout=settings.health_timeout,
        failure_threshold=settings.health_failure_threshold,
        success_threshold=settings.health_success_threshold,
    )
    url, timeout = settings.database.sync_url, _OWN_SHARE * monitor.look_timeout
    if is_memory(url):
        # Its tables were made by this process.
        monitor.register("database", DatabaseCheck(engine, timeout))
        return monitor
    check = DatabaseCheck(engine, timeout, read_schema)
    monitor.register("database", check, also=("schema",))
    monitor.register("pool", PoolCheck(process.engine))
    if process.replica is not None:
        monitor.register("replica", check_replica)
    if (file := sqlite_file(url)) is not None:
        monitor.register("disk", DiskCheck(file))
    return monitor


class DatabaseCheck:
    """Asks the database for its revision: one query tells whether it answers, and of its schema.

    Args:
        engine: Whom to ask.
        timeout: Seconds.
        read_schema: Compares the schema with this release, when the revision has changed or was
            not compatible; None to ask for nothing but an answer.
    """

    def __init__(
        self, engine: Engine, timeout: float, read_schema: ReadSchema | None = None
    ) -> None:
        self._engine = engine
        self._timeout = timeout
        self._read_schema = read_schema
        self._schema = STARTING
        self._compatible_heads: frozenset[str] | None = None

    async def __call__(self) -> Mapping[str, Outcome]:
        """Make one look."""
        return await asyncio.to_thread(self._look)

    def _look(self) -> Mapping[str, Outcome]:
        details: list[str] = []
        answer = check_database_health(
            self._engine,
            timeout=self._timeout,
            question=self._ask_for_schema if self._read_schema else None,
            report=details.append,
        )
        reason = answer.get("reason", "")
        database = (
            Outcome(Status.FAIL, reason, failure_advice(reason) or "see the log", *details)
            if reason
            else PASSED
        )
        # What is known of the schema holds while nobody can look.
        return {"database": database, "schema": self._schema}

    def _ask_for_schema(self, connection: Connection) -> None:
        try:
            heads = frozenset(connection.scalars(_HEADS))
            if heads != self._compatible_heads:
                self._schema = self._judge(connection)
                self._compatible_heads = heads if self._schema is PASSED else None
        except SQLAlchemyError as error:
            failure = classify(error)
            if isinstance(failure, SchemaMismatch):
                # Nobody has migrated yet.
                self._schema = self._judge(connection)
            elif type(failure) is DatabaseFailure:
                # The server is there, and refuses this.
                self._schema = replace(_UNREADABLE, detail=str(error))
            else:
                raise

    def _judge(self, connection: Connection) -> Outcome:
        assert self._read_schema is not None  # noqa: S101 - as whoever asks for it knows
        try:
            status = self._read_schema(connection)
        except SQLAlchemyError:
            raise
        except Exception as error:  # noqa: BLE001 - it is the release that is wrong, not the database
            return Outcome(Status.FAIL, "error", "mend the revisions: see the log", str(error))
        if status.is_compatible:
            return PASSED
        reason = str(status.state)
        return Outcome(
            Status.FAIL,
            reason,
            SCHEMA_ADVICE.get(reason, "deploy a release that knows the database's revision"),
            f"the database is at {status.current or 'no revision'}, this release at {status.head}",
        )


class PoolCheck:
    """Warns of a pool that is nearly used up, or was slow to give connections lately.

    It never fails: to take the process out would give its load to the others, which are no less
    busy.

    Args:
        engine: Whose pool.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waits = RecentWaits(pool_snapshot(engine).pool_name)

    async def __call__(self) -> Outcome:
        """Make one look; it touches no connection."""
        pool = pool_snapshot(self._engine)
        wait = self._waits.percentile(0.99, least=_LEAST_CHECKOUTS)
        detail = f"{pool.used} of {pool.max} used, {pool.pending} waiting, p99 wait {wait:g} s"
        if pool.max is not None and pool.used >= SATURATION_LIMIT * pool.max:
            advice = "find who has the connections, or raise DATABASE_POOL_SIZE"
            return Outcome(Status.WARN, "saturated", advice, detail)
        if wait > WAIT_LIMIT_SECONDS:
            advice = "see db_client_connection_wait_time_seconds and ..._create_time_seconds"
            return Outcome(Status.WARN, "slow", advice, detail)
        return PASSED


async def check_replica() -> Outcome:
    """Warn of a replica that is not read: the primary has its reads, and serves them."""
    replica = process.replica
    reason = replica.unusable_reason if replica is not None else None
    return Outcome(Status.WARN, reason, "see docs/replica.md") if reason else PASSED


class DiskCheck:
    """Warns when the disk of an embedded database is nearly full.

    It does not fail: what is there can still be read, and no other process has the file.

    Args:
        database: The file.
        limit: How many bytes have to be free.
    """

    def __init__(self, database: Path, *, limit: int = DISK_LIMIT_BYTES) -> None:
        self._directory = database.absolute().parent
        self._limit = limit

    async def __call__(self) -> Outcome:
        """Make one look."""
        # A network's disk may hang.
        free = (await asyncio.to_thread(shutil.disk_usage, self._directory)).free
        if free >= self._limit:
            return PASSED
        return Outcome(
            Status.WARN, "disk_full", "make room on the database's disk", f"{free} bytes are free"
        )

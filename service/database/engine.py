"""Engines: made from settings on first use, one sync and one async for each process."""

import math
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.dialects import registry
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, StaticPool

from service.database.deadline import current_limit
from service.database.deadline_guard import guard
from service.database.network_loss import SESSION_PARAMETERS, notice_loss
from service.database.pool import AsyncMeteredQueuePool, MeteredQueuePool
from service.database.pool_events import instrument
from service.database.pool_queue import PoolPolicy
from service.database.settings import DatabaseSettings
from service.database.urls import is_memory, parse_url

if TYPE_CHECKING:
    from service.database.replica import Replica

# By name, so that the module is loaded when an engine is made with one of them.
registry.register("mariadb.pymysql", "service.database.mariadb", "PyMySQLDialect")
registry.register("mariadb.aiomysql", "service.database.mariadb", "AiomysqlDialect")

APPLICATION_NAME: Final = "tidegate"
# How often PostgreSQL (14 or newer) looks whether the client of a running query is still there: a
# query that was cut off goes on for no longer.
_CONNECTION_CHECK_MILLISECONDS: Final = 1000
# How long an SQLite writer waits for another; its own default is to fail at once.
_SQLITE_BUSY_SECONDS: Final = 5.0


def create_db_engine(
    url: str | URL | None = None,
    *,
    settings: DatabaseSettings | None = None,
    pool_name: str = "primary",
    **options: Any,
) -> Engine:
    """Make an engine whose pool is bounded, validated and visible in Prometheus.

    Nothing connects until the first query.

    Args:
        url: The database; from the settings when left out.
        settings: Pool sizes and timeouts; read from the environment when left out.
        pool_name: The label that the pool's metrics carry.
        options: Passed to `sqlalchemy.create_engine`, winning over the settings; `connect_args`
            are added to those that carry the settings.

    Raises:
        SettingsError: The settings are wrong.
        UnsupportedUrlError: The URL is not one of a supported database and driver.
    """
    settings = settings or DatabaseSettings.load()
    target = settings.sync_url if url is None else parse_url(_text(url), "url")
    engine = create_engine(target, **_options(target, settings, options))
    return _prepare(engine, pool_name, settings)


def create_async_db_engine(
    url: str | URL | None = None,
    *,
    settings: DatabaseSettings | None = None,
    pool_name: str = "primary_async",
    **options: Any,
) -> AsyncEngine:
    """The asyncio twin of `create_db_engine`, with the same arguments and errors."""
    settings = settings or DatabaseSettings.load()
    target = settings.asyncio_url if url is None else parse_url(_text(url), "url", asyncio=True)
    engine = create_async_engine(target, **_options(target, settings, options))
    _prepare(engine.sync_engine, pool_name, settings)
    return engine


class ProcessEngines:
    """The engines of this process, made on first use and never shared with a forked child."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._settings: DatabaseSettings | None = None
        self._engine: Engine | None = None
        self._read_engine: Engine | None = None
        self._async_engine: AsyncEngine | None = None
        self._replica: Replica | None = None

    @property
    def settings(self) -> DatabaseSettings:
        """The settings in force, read from the environment on first use."""
        with self._lock:
            if self._settings is None:
                self._settings = DatabaseSettings.load()
            return self._settings

    @property
    def engine(self) -> Engine:
        """The sync engine."""
        with self._lock:
            if self._engine is None:
                self._engine = create_db_engine(settings=self.settings)
            return self._engine

    @property
    def read_engine(self) -> Engine:
        """The sync engine's pool in AUTOCOMMIT: a read costs no BEGIN and no ROLLBACK."""
        with self._lock:
            if self._read_engine is None:
                self._read_engine = autocommit_engine(self.engine)
            return self._read_engine

    @property
    def async_engine(self) -> AsyncEngine:
        """The asyncio engine; its connections belong to the loop that opened them."""
        with self._lock:
            if self._async_engine is None:
                self._async_engine = create_async_db_engine(settings=self.settings)
            return self._async_engine

    @property
    def replica(self) -> "Replica | None":
        """The read replica, watched from its first use on; None without DATABASE_REPLICA_URL."""
        with self._lock:
            if self._replica is None and self.settings.replica_url is not None:
                # It asks through what this module makes.
                from service.database.replica import Replica  # noqa: PLC0415

                self._replica = Replica(self.settings)
            return self._replica

    @property
    def replica_engine(self) -> Engine | None:
        """The replica's pool in AUTOCOMMIT; None without DATABASE_REPLICA_URL."""
        replica = self.replica
        return replica.engine if replica is not None else None

    def configure(self, settings: DatabaseSettings | None) -> None:
        """Replace the settings; engines made from the former ones are disposed.

        Args:
            settings: What the next engines are made from; None reads the environment again.
        """
        with self._lock:
            self._discard(close=True)
            self._settings = settings

    def dispose(self) -> None:
        """Close the idle connections of the sync engines, and drop all engines.

        An asyncio pool closes within its own loop: `await async_engine.dispose()` there first.
        """
        with self._lock:
            self._discard(close=True)

    def abandon(self) -> None:
        """Drop what was inherited over a fork; the sockets stay the parent's to close."""
        self._lock = threading.RLock()
        self._discard(close=False)

    def _discard(self, *, close: bool) -> None:
        if self._engine is not None:
            self._engine.dispose(close=close)
        if self._async_engine is not None:
            self._async_engine.sync_engine.dispose(close=False)
        if self._replica is not None:
            self._replica.dispose() if close else self._replica.abandon()
        if close:
            # After a fork the objects stay: a module may hold them, and their pools are new.
            self._engine = self._read_engine = self._async_engine = self._replica = None


process = ProcessEngines()
os.register_at_fork(after_in_child=process.abandon)


def _text(url: str | URL) -> str:
    return url if isinstance(url, str) else url.render_as_string(hide_password=False)


def _options(url: URL, settings: DatabaseSettings, given: dict[str, Any]) -> dict[str, Any]:
    ours = _own_options(url, settings)
    connect_args = {**ours["connect_args"], **given.get("connect_args", {})}
    return {**ours, **given, "connect_args": connect_args}


def _own_options(url: URL, settings: DatabaseSettings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "echo": settings.echo,
        # Parameters may be personal data, and an error's text goes to the log.
        "hide_parameters": True,
        "connect_args": _connect_args(url, settings),
    }
    if is_memory(url):
        # Such a database is its one connection: a second one would be another, empty database.
        return {**options, "poolclass": StaticPool}
    asyncio = url.get_dialect().is_async
    return {
        **options,
        "poolclass": AsyncMeteredQueuePool if asyncio else MeteredQueuePool,
        "pool_size": settings.pool_size,
        "max_overflow": settings.max_overflow,
        "pool_timeout": settings.pool_timeout,
        "policy": _policy(url, settings),
    }


def _policy(url: URL, settings: DatabaseSettings) -> PoolPolicy:
    policy = settings.pool_policy
    if url.get_backend_name() != "sqlite":
        return policy
    # A file does not hang up.
    return replace(policy, keepalive=math.inf, validation_bypass=math.inf)


def _connect_args(url: URL, settings: DatabaseSettings) -> dict[str, Any]:
    match url.drivername:
        case "postgresql+psycopg2":
            ours = {
                # libpq counts whole seconds and takes 1 for 2.
                "connect_timeout": max(2, round(settings.connect_timeout)),
                "application_name": APPLICATION_NAME,
                # The default is the server's encoding, which an old database may have as ASCII.
                "client_encoding": "utf8",
            }
            parameters = _session_parameters(settings)
            options = " ".join(
                [
                    *(f"-c {name}={value}" for name, value in parameters.items()),
                    str(url.query.get("options", "")),
                ]
            )
            # What the URL says is meant: hosted servers tell their tenants apart by `options`.
            return {
                **{name: value for name, value in ours.items() if name not in url.query},
                "options": options.strip(),
            }
        case "postgresql+asyncpg":
            return {
                "timeout": settings.connect_timeout,
                "server_settings": {
                    "application_name": APPLICATION_NAME,
                    **_session_parameters(settings),
                },
            }
        case "mariadb+pymysql" | "mariadb+aiomysql":
            # With its driver it takes 3 MB, which no other database needs.
            from service.database.mariadb import connect_arguments  # noqa: PLC0415

            ours = connect_arguments(
                url.get_driver_name(),
                connect_timeout=settings.connect_timeout,
                statement_timeout=settings.statement_timeout,
                name=APPLICATION_NAME,
            )
            return {name: value for name, value in ours.items() if name not in url.query}
        case _:
            return {"timeout": _SQLITE_BUSY_SECONDS, "check_same_thread": False}


def _session_parameters(settings: DatabaseSettings) -> dict[str, str]:
    """What each session of PostgreSQL is told when it begins."""
    return {
        # It takes 0 for no limit at all.
        "statement_timeout": str(max(1, round(settings.statement_timeout * 1000))),
        "client_connection_check_interval": str(_CONNECTION_CHECK_MILLISECONDS),
        **SESSION_PARAMETERS,
    }


def autocommit_engine(engine: Engine) -> Engine:
    """A copy of an engine that shares its pool and does not begin transactions.

    psycopg2's way to AUTOCOMMIT that SQLAlchemy takes sends a SET before a query and another one
    after it. The connection's own attribute does the same and sends nothing.
    """
    if engine.dialect.driver != "psycopg2":
        return engine.execution_options(isolation_level="AUTOCOMMIT")
    copy = engine.execution_options()
    connect = copy.connect

    def connect_in_autocommit() -> Connection:
        connection = connect()
        driver: Any = connection.connection.dbapi_connection
        try:
            driver.autocommit = True
        except BaseException:
            connection.close()
            raise
        return connection

    # Not by an event: an engine with one sends each statement round all of them, 35 us a query.
    copy.connect = connect_in_autocommit  # type: ignore[method-assign] # of this one copy only
    return copy


def _leave_autocommit(connection: Any, record: ConnectionPoolEntry) -> None:
    del record
    if connection is not None and connection.autocommit:
        connection.autocommit = False


def _prepare(engine: Engine, pool_name: str, settings: DatabaseSettings) -> Engine:
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_sqlite_pragmas)
        event.listen(engine, "begin", _begin_sqlite_transaction)
    elif engine.dialect.driver == "psycopg2":
        event.listen(engine, "checkin", _leave_autocommit)
    notice_loss(engine)
    instrument(engine, pool_name=pool_name)
    guard(engine, settings.query_deadline)
    return engine


def _set_sqlite_pragmas(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    del record
    cursor = connection.cursor()
    try:
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.execute("PRAGMA foreign_keys=ON")
    finally:
        cursor.close()


def _begin_sqlite_transaction(connection: Connection) -> None:
    """Begin for real: the driver would not before the first write, and never for a savepoint.

    IMMEDIATE takes the write lock at the start, where the busy timeout applies. A transaction
    that reads first and writes later would fail at once when another has written in between.
    """
    driver: Any = connection.connection.dbapi_connection
    if connection.dialect.detect_autocommit_setting(driver):
        return
    limit = current_limit()
    if limit is None or limit.remaining >= _SQLITE_BUSY_SECONDS:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return
    # An interrupt does not end this wait.
    _set_busy_timeout(driver, limit.remaining)
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    finally:
        _set_busy_timeout(driver, _SQLITE_BUSY_SECONDS)


def _set_busy_timeout(driver: Any, seconds: float) -> None:
    driver.execute(f"PRAGMA busy_timeout={round(seconds * 1000)}").close()

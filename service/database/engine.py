"""Engines: made from settings, with the kit's pool, and followed by its metrics."""

import math
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.dialects import registry
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, StaticPool

from service.database.deadline_guard import guard
from service.database.driver_arguments import driver_arguments
from service.database.network_loss import notice_loss
from service.database.pool import AsyncMeteredQueuePool, MeteredQueuePool
from service.database.pool_events import instrument
from service.database.pool_policy import PoolPolicy
from service.database.settings import DatabaseSettings
from service.database.sqlite import prepare_sqlite
from service.database.urls import is_memory, parse_url

# By name, so that the module is loaded when an engine is made with one of them.
registry.register("mariadb.pymysql", "service.database.mariadb", "PyMySQLDialect")
registry.register("mariadb.aiomysql", "service.database.mariadb", "AiomysqlDialect")


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
        "connect_args": driver_arguments(url, settings),
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
        prepare_sqlite(engine)
    elif engine.dialect.driver == "psycopg2":
        event.listen(engine, "checkin", _leave_autocommit)
    notice_loss(engine)
    instrument(engine, pool_name=pool_name)
    guard(engine, settings.query_deadline)
    return engine

"""Asking a database within a limit, by a thread and by a task, with the same questions."""

import asyncio
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Final, NamedTuple

import psycopg2
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from service.database import create_async_db_engine, create_db_engine
from service.database.deadline import current_limit, time_limit
from service.database.failures import DatabaseFailure, classify
from service.database.settings import DatabaseSettings
from tests.database.pools import PoolMetrics
from tests.support.database_server import DatabaseServer
from tests.support.postgres import PostgresServer

LIMIT: Final = 0.4
# What a busy machine may add to it; whatever else would end a call comes later.
SLACK: Final = 2.5
Work = Callable[[Connection], Any]


class Ended(NamedTuple):
    """How something that failed did."""

    failure: DatabaseFailure | None
    seconds: float

    def was(self, reason: str, *, after: float, slack: float = SLACK) -> bool:
        """Check why, and that it took as long as it was to take."""
        assert self.failure is not None
        assert self.failure.reason == reason
        assert after * 0.9 <= self.seconds < after + slack
        return True


class ThreadClient:
    """Asks by a sync engine."""

    def __init__(self, url: str, pool_name: str, **settings: Any) -> None:
        given = DatabaseSettings(url=url, **settings)
        self.engine: Engine = create_db_engine(settings=given, pool_name=pool_name)

    def ask(self, work: Work, seconds: float | None = None) -> Any:
        """Do something with a connection, within a limit if one is given."""
        if seconds is None:
            with self.engine.connect() as connection:
                return work(connection)
        with time_limit(seconds), self.engine.connect() as connection:
            return work(connection)

    def fail(self, work: Work, seconds: float | None = None) -> Ended:
        """As `ask`, for what is going to fail."""
        start = time.perf_counter()
        with pytest.raises(SQLAlchemyError) as raised:
            self.ask(work, seconds)
        return Ended(classify(raised.value), time.perf_counter() - start)

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


class TaskClient(ThreadClient):
    """Asks by an asyncio engine, in a loop of its own."""

    def __init__(self, url: str, pool_name: str, **settings: Any) -> None:
        self.runner = asyncio.Runner()
        given = DatabaseSettings(url=url, **settings)
        self.async_engine: AsyncEngine = create_async_db_engine(settings=given, pool_name=pool_name)
        self.engine = self.async_engine.sync_engine

    def ask(self, work: Work, seconds: float | None = None) -> Any:
        """As that of `ThreadClient`; within the loop by whoever is in a greenlet of it."""
        if asyncio._get_running_loop() is not None:  # noqa: SLF001 - the one that raises nothing
            return super().ask(work, seconds)
        return self.runner.run(self.ask_in_loop(work, seconds), context=copy_context())

    async def ask_in_loop(self, work: Work, seconds: float | None = None) -> Any:
        """The same within the loop."""
        if seconds is None:
            async with self.async_engine.connect() as connection:
                return await connection.run_sync(work)
        with time_limit(seconds):
            async with self.async_engine.connect() as connection:
                return await connection.run_sync(work)

    def close(self) -> None:
        """Close every connection, and the loop."""
        self.runner.run(self.async_engine.dispose())
        self.runner.close()


MakeClient = Callable[..., ThreadClient]


def select_one(connection: Connection) -> Any:
    return connection.scalar(text("SELECT 1"))


def sessions(server: PostgresServer) -> list[Any]:
    """What the sessions of a server are about, our own apart."""
    connection = psycopg2.connect(server.url(), application_name="onlooker")
    try:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT state, query FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND application_name <> 'onlooker'"
            )
            return cursor.fetchall()
    finally:
        connection.close()


def threads() -> set[str]:
    """The names of the threads that the kit has started, those that stay apart."""
    names = {thread.name for thread in threading.enumerate()}
    assert "database-deadlines" in names
    return {name for name in names if name.startswith(("database-", "pool-"))} - {
        "database-deadlines",
        "pool-clock",
    }


def hang_within(client: ThreadClient, server: DatabaseServer, work: Work) -> Ended:
    """Let a server hang when a connection is there, and then ask it something within a limit."""
    asked = 0.0

    def paused(connection: Connection) -> None:
        nonlocal asked
        connection.execute(text("SELECT 1"))
        server.pause()
        asked = time.perf_counter()
        with time_limit(LIMIT):
            work(connection)

    try:
        ended = client.fail(paused)
        return Ended(ended.failure, time.perf_counter() - asked)
    finally:
        server.resume()


def quickest(attempt: Callable[[], Ended]) -> Ended:
    """Of three, the one that a busy machine delayed least."""
    return min((attempt() for _ in range(3)), key=lambda ended: ended.seconds)


def cancel_later() -> None:
    """Cancel the limit of now in a while, from another thread."""
    limit = current_limit()
    assert limit is not None
    threading.Timer(LIMIT, limit.cancel).start()


def succeeds(client: ThreadClient) -> bool:
    """Whether a query is answered in time."""
    try:
        return bool(client.ask(select_one, 1) == 1)
    except SQLAlchemyError:
        return False


def metrics_of(client: ThreadClient) -> PoolMetrics:
    """Those of its pool."""
    pool: Any = client.engine.pool
    return PoolMetrics(pool.observer.pool_name)


def assert_gauges_agree(client: ThreadClient) -> None:
    """Check that the metrics say of the pool what it says itself."""
    pool: Any = client.engine.pool
    metrics = metrics_of(client)
    assert (metrics.used, metrics.idle, metrics.pending) == (0, pool.checkedin(), 0)
    assert metrics.value("drifts_total") == 0

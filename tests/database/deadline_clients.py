"""Asking a database within a limit, by a thread and by a task, with the same questions."""

import asyncio
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from service.database import create_async_db_engine, create_db_engine
from service.database.deadline import time_limit
from service.database.failures import DatabaseFailure, classify
from service.database.settings import DatabaseSettings

Work = Callable[[Connection], Any]


class Ended(NamedTuple):
    """How something that failed did."""

    failure: DatabaseFailure | None
    seconds: float

    def was(self, reason: str, *, after: float, slack: float = 1.0) -> bool:
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

"""What a deadline costs: the guard of a call alone, and a query with and without it.

Run `python -m tests.load.bench_deadline`. It starts its own PostgreSQL.
"""

import argparse
import asyncio
import contextlib
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

from service.database.deadline import time_limit
from service.database.deadline_calls import CallGuard
from service.database.deadline_drivers import DRIVERS
from service.database.deadline_guard import guard
from tests.load.measuring import figure, header, interleaved, row
from tests.support.database_server import running
from tests.support.postgres import PostgresServer

_DEADLINE: Final = 15.0
_QUERY: Final = text("SELECT 1")


def nothing(*_args: object) -> None:
    """The call that takes no time."""


def calls(method: Callable[..., Any], count: int, *, limits: int = 0) -> float:
    """Nanoseconds for each of many calls that do nothing."""
    with contextlib.ExitStack() as stack:
        for _ in range(limits):
            stack.enter_context(time_limit(60))
        start = time.perf_counter()
        for _ in range(count):
            method(None, None, None, None)
        return (time.perf_counter() - start) / count * 1e9


def queries(connection: Connection, count: int) -> float:
    """Microseconds of the client's CPU for each of many queries."""
    start = time.thread_time()
    for _ in range(count):
        connection.execute(_QUERY)
    return (time.thread_time() - start) / count * 1e6


def in_thread(engine: Engine, count: int) -> float:
    """By psycopg2."""
    with engine.connect() as connection:
        return queries(connection, count)


def in_loop(url: str, is_guarded: bool, count: int) -> float:
    """By asyncpg."""

    async def run() -> float:
        engine = create_async_engine(url)
        if is_guarded:
            guard(engine.sync_engine, _DEADLINE)
        async with engine.connect() as connection:
            result = await connection.run_sync(queries, count)
        await engine.dispose()
        return result

    return asyncio.run(run())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--queries", type=int, default=3000)
    given = parser.parse_args()
    with running(PostgresServer()) as server:
        url = server.url(driver="postgresql+psycopg2")
        stock, ours = create_engine(url), create_engine(url)
        guarded = CallGuard(ours.dialect, DRIVERS["psycopg2"], _DEADLINE).guarded(nothing)
        guard(ours, _DEADLINE)
        results = interleaved(
            {
                "a call, ns": partial(calls, nothing, 100_000),
                "a guarded call, ns": partial(calls, guarded, 100_000),
                "the same in a limit, ns": partial(calls, guarded, 100_000, limits=1),
                "the same in two limits, ns": partial(calls, guarded, 100_000, limits=2),
                "psycopg2, stock, us of CPU": partial(in_thread, stock, given.queries),
                "psycopg2, guarded, us of CPU": partial(in_thread, ours, given.queries),
                "asyncpg, stock, us of CPU": partial(
                    in_loop, server.url(driver="postgresql+asyncpg"), False, given.queries
                ),
                "asyncpg, guarded, us of CPU": partial(
                    in_loop, server.url(driver="postgresql+asyncpg"), True, given.queries
                ),
            },
            given.rounds,
        )
        stock.dispose()
        ours.dispose()
    header("what", "median (least to greatest)")
    for name, values in results.items():
        row(name, figure(values))


if __name__ == "__main__":
    main()

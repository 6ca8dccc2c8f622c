"""How long tasks wait for a connection: our asyncio pool, SQLAlchemy's and asyncpg's, in one run.

Run `python -m tests.load.bench_fairness`. It starts its own PostgreSQL. Each client takes one of
ten connections, asks the server something, gives the connection back, and begins again at once. A
pool is fair when the slowest waits differ little from the usual ones.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NamedTuple

import asyncpg  # type: ignore[import-untyped] # it has no types
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from service.database import DatabaseSettings, create_async_db_engine
from tests.load.measuring import figure, header, row
from tests.support.database_server import running
from tests.support.postgres import PostgresServer

CONNECTIONS: Final = 10
CLIENTS: Final = (16, 64)
RAW: Final = "asyncpg"
QUERIES: Final = {
    "that takes the server 5 ms": "SELECT pg_sleep(0.005)",
    "that takes no time": "SELECT 1",
}

Acquire = Callable[[], AbstractAsyncContextManager[Any]]
Ask = Callable[[Any, str], Awaitable[object]]


class Waits(NamedTuple):
    """What the clients saw, in milliseconds, and how many queries were answered in a second."""

    p50: float
    p99: float
    most: float
    rate: float


async def run(acquire: Acquire, ask: Ask, query: str, clients: int, seconds: float) -> Waits:
    """Let so many clients work for so long."""
    waits: list[float] = []
    end = time.perf_counter() + seconds

    async def client() -> None:
        while (start := time.perf_counter()) < end:
            async with acquire() as connection:
                waits.append((time.perf_counter() - start) * 1000)
                await ask(connection, query)

    await asyncio.gather(*(client() for _ in range(clients)))
    shares = statistics.quantiles(waits, n=100)
    return Waits(shares[49], shares[98], max(waits), len(waits) / seconds)


async def ask_raw(connection: Any, query: str) -> object:
    """Ask by the driver."""
    return await connection.fetch(query)


async def ask_engine(connection: Any, query: str) -> object:
    """Ask by SQLAlchemy."""
    return await connection.exec_driver_sql(query)


async def measure(url: str, rounds: int, seconds: float) -> None:
    """Print the table."""
    settings = DatabaseSettings(url=url, pool_size=CONNECTIONS, max_overflow=0, pool_timeout=30)
    engines: dict[str, AsyncEngine] = {
        "stock": create_async_engine(
            make_url(url).set(drivername="postgresql+asyncpg"),
            isolation_level="AUTOCOMMIT",
            pool_size=CONNECTIONS,
            max_overflow=0,
        ),
        "Tidegate": create_async_db_engine(
            settings=settings, pool_name="bench", isolation_level="AUTOCOMMIT"
        ),
    }
    raw = await asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS)
    pools: dict[str, tuple[Acquire, Ask]] = {
        RAW: (raw.acquire, ask_raw),
        **{name: (engine.connect, ask_engine) for name, engine in engines.items()},
    }
    for title, query in QUERIES.items():
        for clients in CLIENTS:
            results: dict[str, list[Waits]] = {name: [] for name in pools}
            for number in range(-1, rounds):
                for name, (acquire, ask) in pools.items():
                    waits = await run(acquire, ask, query, clients, seconds)
                    if number >= 0:
                        results[name].append(waits)
            show(title, clients, results)
    for engine in engines.values():
        await engine.dispose()
    await raw.close()


def show(title: str, clients: int, results: dict[str, list[Waits]]) -> None:
    """Print one line for each pool."""
    for name, rows in results.items():
        ratios = [each.p99 / raw.p99 for each, raw in zip(rows, results[RAW], strict=True)]
        columns = [figure([each[column] for each in rows]) for column in range(len(Waits._fields))]
        row(title, str(clients), name, *columns, figure(ratios))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3, help="of load in each round")
    arguments = parser.parse_args()
    header("query", "clients", "pool", "p50 ms", "p99 ms", "longest ms", "queries/s", "p99 / raw")
    with running(PostgresServer()) as server:
        asyncio.run(measure(server.url(), arguments.rounds, arguments.seconds))


if __name__ == "__main__":
    main()

"""What a checkout with its checkin costs: SQLAlchemy's own pool beside ours, in one run.

Run `python -m tests.load.bench_pool_overhead`. It starts its own PostgreSQL. CPU is that of the
client; wall time includes the server, which a ping waits for: the nearest there can be, on the
loopback interface. Ours validates in every row, and instrumented it feeds its metrics and looks for
leaks: in memory, and in a second process in the files that several workers have.
"""

import argparse
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from sqlalchemy import Engine, create_engine
from sqlalchemy.engine import make_url

from service.database import DatabaseSettings, create_db_engine, instrument
from service.database.pool import MeteredQueuePool
from tests.load.measuring import figure, header, interleaved, row
from tests.support.database_server import running
from tests.support.postgres import PostgresServer
from tests.support.server import PYTHON, environment

STOCK: Final = "stock"
PRE_PING: Final = "stock, pool_pre_ping"
STOCK_INSTRUMENTED: Final = "stock, instrumented"
BARE: Final = "Tidegate, not instrumented"
OURS: Final = "Tidegate"
# What each is compared with, to tell what its instrumentation costs.
_WITHOUT: Final = {STOCK_INSTRUMENTED: STOCK, OURS: BARE}
# A route's code is some twenty calls deep, and leak detection walks up the stack.
_DEPTH: Final = 20


class Cost(NamedTuple):
    """What one checkout with its checkin takes, in microseconds."""

    cpu: float
    wall: float


def engines(url: str) -> dict[str, Engine]:
    """The engines to compare."""
    stock_url = make_url(url).set(drivername="postgresql+psycopg2")
    instrumented = create_engine(stock_url)
    instrument(instrumented, pool_name="bench-stock")
    settings = DatabaseSettings(url=url)
    return {
        STOCK: create_engine(stock_url),
        PRE_PING: create_engine(stock_url, pool_pre_ping=True),
        STOCK_INSTRUMENTED: instrumented,
        BARE: create_engine(stock_url, poolclass=MeteredQueuePool, policy=settings.pool_policy),
        OURS: create_db_engine(settings=settings, pool_name="bench"),
    }


def cost(connect: Callable[[], object], count: int) -> Cost:
    """Check a connection out and in, so many times."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        connect().close()  # type: ignore[attr-defined] # a pool's connection
    used_cpu, used_wall = time.process_time() - cpu, time.perf_counter() - wall
    return Cost(used_cpu / count * 1e6, used_wall / count * 1e6)


def deep(depth: int, work: Callable[[], Cost]) -> Cost:
    """Do something so many calls deep."""
    return deep(depth - 1, work) if depth else work()


def measure(url: str, rounds: int, count: int) -> None:
    """Print the table of one way to keep metrics."""
    variants = {
        name: partial(deep, _DEPTH, partial(cost, engine.pool.connect, count))
        for name, engine in engines(url).items()
    }
    results = interleaved(variants, rounds)
    where = "files" if "PROMETHEUS_MULTIPROC_DIR" in os.environ else "memory"
    pings = results[PRE_PING]
    for name, costs in results.items():
        row(
            name,
            where,
            figure([each.cpu for each in costs]),
            figure([each.wall for each in costs]),
            instrumentation(costs, results.get(_WITHOUT.get(name, ""))),
            figure([ping.wall / each.wall for ping, each in zip(pings, costs, strict=True)]),
        )


def instrumentation(costs: list[Cost], without: list[Cost] | None) -> str:
    """What is beyond the same pool that is not instrumented."""
    if without is None:
        return ""
    return figure([each.cpu - bare.cpu for each, bare in zip(costs, without, strict=True)])


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--count", type=int, default=2000, help="checkouts in each round")
    parser.add_argument("--url", help="of a PostgreSQL database; one is started when left out")
    arguments = parser.parse_args()
    if arguments.url is not None:
        measure(arguments.url, arguments.rounds, arguments.count)
        return
    with running(PostgresServer()) as server:
        header(
            "pool",
            "metrics in",
            "CPU µs",
            "wall µs",
            "of it instrumentation",
            "pool_pre_ping / this (wall)",
        )
        measure(server.url(), arguments.rounds, arguments.count)
        with tempfile.TemporaryDirectory() as directory:
            subprocess.run(
                [PYTHON, "-m", "tests.load.bench_pool_overhead", "--url", server.url(),
                 "--rounds", str(arguments.rounds), "--count", str(arguments.count)],
                env=environment({"PROMETHEUS_MULTIPROC_DIR": directory}),
                check=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()

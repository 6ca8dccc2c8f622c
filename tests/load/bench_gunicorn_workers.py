"""The service's worker beside gunicorn's own ASGI worker and uvicorn-worker, in one run.

Run `python -m tests.load.bench_gunicorn_workers`; it needs wrk. The server is pinned to one core
and wrk to another; rounds are interleaved, so that a noisy machine is noisy for both; what is
printed are medians and the spread over the rounds.
"""

import argparse
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.load.measuring import figure, header, row
from tests.load.servers import OTHER_CORE, SERVER_CORE
from tests.load.wrk import Load, require_wrk, wrk
from tests.support.database_server import running
from tests.support.databases import PostgresDatabases, migrate
from tests.support.polling import eventually
from tests.support.postgres import PostgresServer
from tests.support.server import PYTHON, ROOT, Service, running_service

WORKERS: Final = {
    "ours": "service.web.worker.Worker",
    "asgi": "asgi",
    "uvicorn-worker": "uvicorn_worker.UvicornWorker",
}
CLIENTS: Final = 32


@contextmanager
def gunicorn(
    worker_class: str, database_url: str, directory: Path, *options: str
) -> Iterator[Service]:
    """Run the service under gunicorn with a worker class."""

    def command(_port: int) -> list[str]:
        config = str(ROOT / "deploy" / "gunicorn.conf.py")
        return ["taskset", "-c", str(SERVER_CORE), PYTHON, "-m", "gunicorn", "-c", config,
                "-k", worker_class, *options]  # fmt: skip

    variables = {
        "ENVIRONMENT": "production",
        "LOG_LEVEL": "ERROR",
        "DATABASE_URL": database_url,
    }
    with running_service(directory, variables, command=command) as service:
        yield service


def measure(database_url: str, rounds: int, seconds: int) -> None:
    """Print a line for each kind of load, worker class and figure."""
    product = {"code": "ROPE", "name": "Rope", "price": "19.90"}
    kinds = (
        ("no database", "/version", ()),
        ("read by id", "/products/1", ()),
        ("no database, recycled every 2000", "/version", ("--max-requests", "2000")),
    )
    header("load", "worker", "req/s", "p99 ms", "failed", "worker MiB")
    with tempfile.TemporaryDirectory() as directory:
        for title, path, options in kinds:
            results: dict[str, list[tuple[Load, float]]] = {name: [] for name in WORKERS}
            for _ in range(rounds):
                for name, worker_class in WORKERS.items():
                    where = Path(directory)
                    with gunicorn(worker_class, database_url, where, *options) as service:
                        service.http.post("/products", json=product)
                        wrk(service, path, 1, clients=CLIENTS)
                        load = wrk(service, path, seconds, clients=CLIENTS)
                        # One that is recycled may have gone, and its successor not come.
                        eventually(service.workers)
                        size = service.workers()[0].memory_info().rss / 2**20
                        results[name].append((load, size))
            for name, rows in results.items():
                row(
                    title,
                    name,
                    figure([load.rate for load, _ in rows]),
                    figure([load.p99 for load, _ in rows]),
                    str(sum(load.failed for load, _ in rows)),
                    figure([size for _, size in rows]),
                )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of load in each round")
    arguments = parser.parse_args()
    require_wrk()
    os.sched_setaffinity(0, {OTHER_CORE})
    with running(PostgresServer()) as server:
        url = PostgresDatabases(server.url()).create("bench")
        migrate(url)
        measure(url, arguments.rounds, arguments.seconds)


if __name__ == "__main__":
    main()

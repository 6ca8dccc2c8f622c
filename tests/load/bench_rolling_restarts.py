"""Failed requests while servers are restarted, reloaded and recycled under keep-alive clients.

Run `python -m tests.load.bench_rolling_restarts`. 32 clients, which keep their connections and try
nothing twice, read products by id from PostgreSQL, and every request is counted as failed that gets
no whole answer or another than 2xx. Beside ours run gunicorn's own worker and uvicorn-worker, with
gunicorn's own configuration.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from tests.load.measuring import header, row
from tests.load.restarts import Outcome, load, reloading, rolling
from tests.load.servers import PRODUCTS, catalog
from tests.support.server import PYTHON, Service, running_service

MAX_REQUESTS: Final = 2000
# None of the clients is turned away, so that what fails fails by the restart.
SETTINGS: Final = {
    "ENVIRONMENT": "production",
    "LOG_LEVEL": "WARNING",
    "DATABASE_POOL_SIZE": "8",
    "DATABASE_MAX_OVERFLOW": "0",
    "ADMISSION_QUEUE": "64",
    "ADMISSION_WAIT": "20",
    "DRAIN_SECONDS": "1",
}
STOCK: Final = {"gunicorn's worker": "asgi", "uvicorn-worker": "uvicorn_worker.UvicornWorker"}
Serve = Callable[..., AbstractContextManager[Service]]


@contextmanager
def ours(directory: Path, url: str, max_requests: int = 0) -> Iterator[Service]:
    """The service as it is run."""
    variables = {"DATABASE_URL": url, "WORKER_MAX_REQUESTS": str(max_requests)}
    with running_service(directory, SETTINGS | variables) as service:
        yield service


@contextmanager
def stock(worker: str, directory: Path, url: str, max_requests: int = 0) -> Iterator[Service]:
    """The application under gunicorn without our configuration."""

    def command(port: int) -> list[str]:
        options = ["--bind", f"127.0.0.1:{port}", "--worker-class", worker]
        limit = ["--max-requests", str(max_requests), "--log-level", "error"]
        return [PYTHON, "-m", "gunicorn", "service.app:create_app()", *options, *limit]

    with running_service(directory, SETTINGS | {"DATABASE_URL": url}, command=command) as service:
        yield service


def recycling(serve: Serve, seconds: float) -> tuple[Outcome, int]:
    """Serve for so long with workers that are recycled; the outcome, and how many there were."""
    pids = set()
    with serve(max_requests=MAX_REQUESTS) as service, load(service.port, PRODUCTS) as running:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pids |= {worker.pid for worker in service.workers()}
            time.sleep(0.05)
    assert running.outcome is not None
    return running.outcome, len(pids)


def show(title: str, server: str, outcome: Outcome) -> None:
    """Print a line of the table."""
    failed = ", ".join(f"{status} {number}" for status, number in sorted(outcome.failed.items()))
    row(title, server, f"{outcome.requests:,}", f"{sum(outcome.failed.values())}",
        failed or "none", f"{outcome.longest:.2f}")  # fmt: skip


def measure(directory: Path, url: str, times: int, seconds: float) -> None:
    """Print a line for each event and server."""
    servers: dict[str, Serve] = {"ours": partial(ours, directory, url)}
    servers |= {name: partial(stock, worker, directory, url) for name, worker in STOCK.items()}
    header("what happens", "server", "requests", "failed", "how", "longest answer (s)")
    for name, serve in servers.items():
        show(f"{times} rolling restarts of 2", name, rolling(serve, times, PRODUCTS))
    for name, serve in servers.items():
        with serve() as service:
            show(f"{times} reloads (SIGHUP)", name, reloading(service, times, PRODUCTS))
    for name, serve in servers.items():
        outcome, workers = recycling(serve, seconds)
        show(f"recycling every {MAX_REQUESTS:,}: {workers} workers", name, outcome)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--times", type=int, default=10, help="restarts, and reloads")
    parser.add_argument("--seconds", type=float, default=60, help="of load with recycling")
    arguments = parser.parse_args()
    cores = os.sched_getaffinity(0)
    with tempfile.TemporaryDirectory() as name, catalog() as (_, url):
        # A server that starts and those that serve meanwhile take what there is.
        os.sched_setaffinity(0, cores)
        measure(Path(name), url, arguments.times, arguments.seconds)


if __name__ == "__main__":
    main()

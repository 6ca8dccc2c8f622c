"""A scrape of several workers before and after many restarts: slots beside files named by pid.

Run `python -m tests.load.bench_scrape`. Both servers run side by side with the same application,
whose workers each have 300 label sets of HTTP histograms. Workers are killed with SIGKILL, all at
once; `--preload` lets the next start by a fork alone. Printed are medians and the spread; the
highest of slots is that of a worker's first scrape.
"""

import argparse
import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

from fastapi import FastAPI, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from service.app import create_app
from service.web.metrics import observe_request
from tests.load.measuring import figure, header, row
from tests.support.databases import SqliteDatabases
from tests.support.polling import eventually
from tests.support.ports import free_port
from tests.support.server import PYTHON, ROOT, Service, environment

ROUTES: Final = 60
STATUSES: Final = (200, 304, 404, 412, 422)
SCRAPES: Final = 40
SECONDS: Final = 60.0

# What prometheus_client's documentation says to do.
STOCK: Final = """
from prometheus_client.multiprocess import mark_process_dead

wsgi_app = "tests.load.bench_scrape:stock_app()"
worker_class = "asgi"
asgi_lifespan = "on"


def child_exit(server, worker):
    mark_process_dead(worker.pid)
"""


def slots_app() -> FastAPI:
    """The service, after requests of many kinds."""
    app = create_app()
    for number in range(ROUTES):
        for status in STATUSES:
            observe_request("GET", f"/products/{{product_id}}/part-{number}", status, 0.03)
    return app


def stock_app() -> FastAPI:
    """The same, scraped as prometheus_client's documentation says to."""
    app = FastAPI()

    @app.get("/metrics")
    def metrics() -> Response:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call] # as the library has it
        return Response(generate_latest(registry))

    served = slots_app()
    served.router.routes[:0] = app.router.routes[-1:]
    return served


@dataclass
class Server:
    """A running server, and the directory of its values."""

    service: Service
    directory: Path
    workers: int

    def pids(self) -> set[int]:
        return {worker.pid for worker in self.service.workers()}

    def files(self) -> int:
        return len(list(self.directory.iterdir()))

    def mebibytes(self) -> float:
        return sum(file.stat().st_blocks * 512 for file in self.directory.iterdir()) / 2**20

    def has_started(self) -> bool:
        """Whether every worker has all of its metrics: the health checks' gauges come last."""
        live = list(self.directory.glob("gauge_livemin_*.db"))
        return len(live) == self.workers == len(self.pids())

    def restart(self) -> None:
        """Kill all workers and wait for those in their place."""
        old = self.pids()
        for pid in old:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: old.isdisjoint(self.pids()) and self.has_started(), within=60)

    def scrape(self) -> list[float]:
        """Milliseconds of some scrapes, each over a new connection."""
        found: list[float] = []
        end = time.monotonic() + SECONDS
        while len(found) < SCRAPES and (len(found) < 3 or time.monotonic() < end):
            # httpx2 spends more time on setting up TLS than a scrape takes.
            connection = HTTPConnection("127.0.0.1", self.service.port, timeout=120)
            start = time.perf_counter()
            connection.request("GET", "/metrics")
            connection.getresponse().read()
            found.append((time.perf_counter() - start) * 1000)
            connection.close()
        return found


@contextmanager
def server(config: Path, application: str, url: str, workers: int) -> Iterator[Server]:
    """Run the application under gunicorn, its values in a directory in memory."""
    port = free_port()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        directory = Path(name)
        variables = {
            "ENVIRONMENT": "production",
            "LOG_LEVEL": "CRITICAL",
            "PORT": str(port),
            "WEB_CONCURRENCY": str(workers),
            "DATABASE_URL": url,
            "PROMETHEUS_MULTIPROC_DIR": name,
            "PYTHONPATH": str(ROOT),
        }
        log = config.parent / f"{port}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [PYTHON, "-m", "gunicorn", "--config", str(config), "--preload",
                 "--bind", f"127.0.0.1:{port}", "--workers", str(workers),
                 f"tests.load.bench_scrape:{application}()"],
                env=environment(variables), cwd=config.parent, stdout=output,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
        service = Service(process, port, log)
        try:
            service.wait_until_ready()
            running = Server(service, directory, workers)
            eventually(running.has_started, within=60)
            yield running
        finally:
            service.http.close()
            process.terminate()
            process.wait(timeout=60)


def measure(workers: int, restarts: int) -> None:
    """Print a line for each way and time."""
    print(f"{workers} workers, {ROUTES * len(STATUSES)} label sets of HTTP histograms")
    header("values in", "restarts", "scrape ms", "files", "MiB")
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        where = Path(name)
        url = SqliteDatabases(where).create(where / "bench.db")
        stock = where / "stock.conf.py"
        stock.write_text(STOCK)
        ours = where / "slots.conf.py"
        ours.write_text((ROOT / "deploy" / "gunicorn.conf.py").read_text())
        servers = {
            "slots": stack.enter_context(server(ours, "slots_app", url, workers)),
            "pids": stack.enter_context(server(stock, "stock_app", url, workers)),
        }
        before = {name: _line(name, one, 0) for name, one in servers.items()}
        for one in servers.values():
            for _ in range(-(-restarts // workers)):
                one.restart()
        after = {name: _line(name, one, restarts) for name, one in servers.items()}
    for name in servers:
        print(f"{name}: after / before = {after[name] / before[name]:.2f}")
    for when, medians in (("before", before), ("after", after)):
        print(f"pids / slots {when}: {medians['pids'] / medians['slots']:.0f}")


def _line(name: str, one: Server, restarts: int) -> float:
    times = one.scrape()
    row(name, f"{restarts:,}", figure(times), f"{one.files():,}", f"{one.mebibytes():,.0f}")
    return statistics.median(times)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--restarts", type=int, default=1000, help="of workers, at each server")
    arguments = parser.parse_args()
    measure(arguments.workers, arguments.restarts)


if __name__ == "__main__":
    main()

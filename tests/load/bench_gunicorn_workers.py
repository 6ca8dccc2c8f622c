"""The service's worker beside gunicorn's own ASGI worker and uvicorn-worker, in one run.

Run `python -m tests.load.bench_gunicorn_workers`; it needs wrk. The server is pinned to one core
and wrk to another; rounds are interleaved, so that a noisy machine is noisy for both; what is
printed are medians and the spread over the rounds.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil

from tests.load.measuring import figure, header, row
from tests.support.database_server import running
from tests.support.databases import PostgresDatabases, migrate
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer
from tests.support.server import PYTHON, ROOT, Service, environment

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
    port = free_port()
    log = directory / f"{port}.log"
    variables = {
        "ENVIRONMENT": "production",
        "LOG_LEVEL": "ERROR",
        "PORT": str(port),
        "DATABASE_URL": database_url,
    }
    config = str(ROOT / "deploy" / "gunicorn.conf.py")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [PYTHON, "-m", "gunicorn", "-c", config, "-k", worker_class, *options],
            env=environment(variables),
            cwd=directory,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    os.sched_setaffinity(process.pid, {0})
    service = Service(process, port, log)
    try:
        service.wait_until_ready()
        yield service
    finally:
        service.http.close()
        process.terminate()
        process.wait(timeout=60)


def wrk(service: Service, path: str, seconds: int) -> dict[str, float]:
    """Load one path; returns requests per second, p99 in milliseconds, and failed requests."""
    last = os.cpu_count() or 1
    done = subprocess.run(
        ["taskset", "-c", str(last - 1), "wrk", "-t1", f"-c{CLIENTS}", f"-d{seconds}s", "--latency",
         f"http://127.0.0.1:{service.port}{path}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s)", done)
    if rate is None or p99 is None:
        raise RuntimeError(done)
    errors = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", done
    )
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", done)
    failed = sum(map(int, errors.groups())) if errors else 0
    return {
        "req/s": float(rate[1]),
        "p99 ms": float(p99[1]) * {"us": 0.001, "ms": 1, "s": 1000}[p99[2]],
        "failed": failed + (int(refused[1]) if refused else 0),
    }


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
            results: dict[str, list[dict[str, float]]] = {name: [] for name in WORKERS}
            for _ in range(rounds):
                for name, worker_class in WORKERS.items():
                    where = Path(directory)
                    with gunicorn(worker_class, database_url, where, *options) as service:
                        service.http.post("/products", json=product)
                        wrk(service, path, 1)
                        result = wrk(service, path, seconds)
                        worker = psutil.Process(service.process.pid).children()[0]
                        result["worker MiB"] = worker.memory_info().rss / 2**20
                        results[name].append(result)
            for name, rows in results.items():
                row(title, name, *(figure([each[key] for each in rows]) for key in rows[0]))


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of load in each round")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("this benchmark needs wrk (apt-get install wrk)")
    with running(PostgresServer()) as server:
        url = PostgresDatabases(server.url()).create("bench")
        migrate(url)
        measure(url, arguments.rounds, arguments.seconds)


if __name__ == "__main__":
    main()

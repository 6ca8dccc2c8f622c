"""The servers that are measured side by side: one uvicorn process each, pinned to one core."""

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

import httpx2
import psutil

from tests.support.database_server import running
from tests.support.databases import PostgresDatabases, migrate
from tests.support.polling import eventually
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer, execute
from tests.support.server import PYTHON, ROOT, Service, environment

TIDEGATE: Final = "Tidegate"
TEXTBOOK: Final = "textbook"
RAW: Final = "raw"
FRAMEWORKS: Final = "FastAPI + SQLAlchemy"
# The servers have one core; PostgreSQL and the load have the other.
SERVER_CORE: Final = 0
OTHER_CORE: Final = (os.cpu_count() or 1) - 1
PRODUCTS: Final = 10_000
CONNECTIONS: Final = 10

FILL: Final = f"""
INSERT INTO products (code, name, description, price)
SELECT 'P-' || n, 'Shackle ' || n, 'A shackle for boats of ' || n % 23 || ' m.', n % 997 + 0.99
FROM generate_series(1, {PRODUCTS}) AS n
"""  # noqa: S608 - a constant


class Kind(NamedTuple):
    """What uvicorn is told to serve, and the variables that it needs."""

    application: tuple[str, ...]
    variables: Mapping[str, str]


# Tidegate as in production, with its metrics and its log of every request as JSON, into a file.
KINDS: Final = {
    TEXTBOOK: Kind(("tests.load.textbook:app",), {}),
    RAW: Kind(("tests.load.raw:app",), {}),
    FRAMEWORKS: Kind(("tests.load.frameworks:app",), {}),
    TIDEGATE: Kind(
        ("--factory", "service.app:create_app"),
        {
            "ENVIRONMENT": "production",
            "DATABASE_POOL_SIZE": str(CONNECTIONS),
            "DATABASE_MAX_OVERFLOW": "0",
        },
    ),
}


@contextmanager
def catalog() -> Iterator[tuple[PostgresServer, str]]:
    """A PostgreSQL with a filled catalog, apart from the servers' core; and the catalog's URL.

    It does not wait for the disk, which is noisier than what is measured here.
    """
    os.sched_setaffinity(0, {OTHER_CORE})
    with running(PostgresServer()) as server:
        url = PostgresDatabases(server.url()).create("bench")
        migrate(url)
        execute(url, FILL)
        execute(url, "VACUUM ANALYZE products")
        yield server, url


@contextmanager
def serving(name: str, url: str, **variables: str) -> Iterator[Service]:
    """Serve one kind of the application.

    Args:
        name: Which.
        url: Of its database.
        variables: Beside or instead of its usual ones.
    """
    kind = KINDS[name]
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory, "log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["taskset", "-c", str(SERVER_CORE), PYTHON, "-m", "uvicorn", *kind.application,
                 "--port", str(port), "--loop", "uvloop", "--http", "httptools",
                 "--no-access-log",
                 # As deploy/gunicorn.conf.py has it: with uvicorn's own 5 s whoever stays away as
                 # long as it was told connects anew.
                 "--timeout-keep-alive", "75"],
                cwd=directory,
                env=environment({"DATABASE_URL": url, "PYTHONPATH": str(ROOT),
                                 **kind.variables, **variables}),
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        service = Service(process, port, log)
        try:
            eventually(lambda: _answers(service), within=30)
            yield service
        finally:
            service.http.close()
            _end(process)


def _answers(service: Service) -> bool:
    if service.process.poll() is not None:
        raise RuntimeError(service.text())
    try:
        return service.http.get("/products/1", timeout=2).status_code == httpx2.codes.OK
    except httpx2.TransportError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        # The textbook's threads wait for connections that never come free.
        psutil.Process(process.pid).kill()
        process.wait()

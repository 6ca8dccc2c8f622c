"""One fault from its beginning to its end, on a real PostgreSQL under a real gunicorn."""

import contextlib
import tempfile
import time
from pathlib import Path
from typing import Final

from tests.faults.faults import Fault
from tests.faults.observer import PROBES, Observer
from tests.faults.outcome import Outcome, Times
from tests.load.client import Plan, answers, begin
from tests.load.servers import CONNECTIONS, FILL, PRODUCTS
from tests.support.databases import PostgresDatabases, migrate
from tests.support.polling import eventually
from tests.support.postgres import execute
from tests.support.scraping import scraped
from tests.support.server import Service, running_service

# Twice as many as there are connections: half of them wait in the queue, nobody is turned away.
CLIENTS: Final = 2 * CONNECTIONS
# More than any fault takes; they are told when it is over.
_LONGEST: Final = 600.0
# Beyond what any request may take.
_CLIENT_TIMEOUT: Final = 60.0


def run(fault: Fault, times: Times) -> Outcome:
    """Let a database fail under a service that has clients, and see what becomes of it.

    Args:
        fault: How.
        times: For how long, and how the service is set up.
    """
    server = fault.server()
    with contextlib.ExitStack() as stack:
        stack.callback(server.remove)
        server.start()
        url = PostgresDatabases(server.url()).create("catalog")
        migrate(url)
        execute(url, FILL)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        service = stack.enter_context(running_service(directory, settings(url, times)))
        observer = Observer(service.port, PROBES, every=times.every, timeout=times.liveness)
        plan = Plan(service.port, CLIENTS, _LONGEST, PRODUCTS, creates=0.5, timeout=_CLIENT_TIMEOUT)
        clients = begin(plan)
        stack.callback(clients.kill)
        with observer.running():
            eventually(lambda: _is_loaded(service), within=30)
            begun = time.monotonic()
            _pass(times.before)
            caused = complete = ending = time.monotonic()
            fault.cause(server)
            if fault.lasts:
                complete = time.monotonic()
                _pass(caused + times.fault - time.monotonic())
                ending = time.monotonic()
                fault.end(server)
            recovered = time.monotonic()
            _pass(times.after)
            stopped = time.monotonic()
        clients.terminate()
        given = answers(clients)
    return Outcome(
        fault=fault,
        times=times,
        begun=begun,
        caused=caused,
        complete=complete,
        ending=ending,
        recovered=recovered,
        stopped=stopped,
        said=observer.said,
        answers=given,
    )


def settings(url: str, times: Times) -> dict[str, str]:
    """The service's variables."""
    return {
        "ENVIRONMENT": "test",
        "LOG_LEVEL": "ERROR",
        "DATABASE_URL": url,
        "DATABASE_POOL_SIZE": str(CONNECTIONS),
        "DATABASE_MAX_OVERFLOW": "0",
        "DATABASE_QUERY_DEADLINE": str(times.deadline),
        "DATABASE_STATEMENT_TIMEOUT": str(times.deadline * 2 / 3),
        "HEALTH_INTERVAL": str(times.interval),
        "HEALTH_TIMEOUT": str(times.timeout),
    }


def _is_loaded(service: Service) -> bool:
    admitted = scraped(service, "service_admission_requests", gate="requests", state="admitted")
    return admitted > 0


def _pass(seconds: float) -> None:
    """Let so much time go by: what happens in it is what is observed."""
    time.sleep(max(0.0, seconds))

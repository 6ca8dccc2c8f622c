"""A service under load, its own PostgreSQL, and the Prometheus that watches them."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx2

from tests.monitoring.prometheus import Prometheus
from tests.support.polling import eventually
from tests.support.postgres import PostgresServer
from tests.support.server import PYTHON, ROOT, Service, running_service

POOL_SIZE: Final = 5
# Faster than the defaults by about as much as Prometheus is, as far as they allow it.
_SETTINGS: Final = {
    "ENVIRONMENT": "test",
    "PYTHONPATH": str(ROOT),
    "DATABASE_POOL_SIZE": str(POOL_SIZE),
    "DATABASE_MAX_OVERFLOW": "0",
    "DATABASE_POOL_TIMEOUT": "1",
    "DATABASE_LEAK_THRESHOLD": "1",
    "DATABASE_CONNECT_TIMEOUT": "1",
    "DATABASE_STATEMENT_TIMEOUT": "1",
    "DATABASE_QUERY_DEADLINE": "2",
    "HEALTH_INTERVAL": "0.5",
    "HEALTH_TIMEOUT": "0.5",
    "DRAIN_SECONDS": "0",
    "GRACEFUL_TIMEOUT": "1",
}
# More than are admitted and queued.
_CLIENTS: Final = 12
_PAUSE: Final = 0.05


@dataclass(frozen=True)
class Timing:
    """How long an alert took, in seconds.

    Attributes:
        alert: Its name.
        fired: From the cause to firing.
        resolved: From the cause's end to not firing any more.
    """

    alert: str
    fired: float
    resolved: float


@dataclass(frozen=True)
class Stage:
    """Everything that takes part."""

    directory: Path
    database: PostgresServer
    url: str
    service: Service
    prometheus: Prometheus

    @contextmanager
    def another_service(self) -> Iterator[Service]:
        """Run one more instance for as long as the context is open; Prometheus scrapes it too."""
        with serving(self.directory, self.url) as service:
            self.prometheus.scrape([self.service.port, service.port])
            yield service

    def forget_others(self) -> None:
        """Scrape the first instance only."""
        self.prometheus.scrape([self.service.port])

    def wait_until_calm(self, alerts: set[str]) -> None:
        """Return once none of these alerts fires."""
        eventually(lambda: not alerts & self.prometheus.firing(), within=60, every=0.1)

    def taken(self) -> float | None:
        """How many connections of the pool are in use, as Prometheus saw them last."""
        return self.prometheus.value(
            'sum(db_client_connection_count{pool_name="primary",state="used"})'
        )

    def open_all(self) -> None:
        """Have the pool open every connection, and all of them idle."""
        takers = Crowd(self.service, "/hold", POOL_SIZE)
        takers.start()
        try:
            eventually(lambda: self.taken() == POOL_SIZE, within=20)
        finally:
            self.give_back(takers)
        eventually(lambda: self.taken() == 0, within=20)

    def give_back(self, takers: "Crowd") -> None:
        """Have clients of `/hold` give back what they have, and what they get meanwhile."""
        release = Crowd(self.service, "/release", 1)
        release.start()
        takers.stop()
        release.stop()

    def times_of(
        self,
        alerts: Iterable[str],
        break_it: Callable[[], object],
        mend_it: Callable[[], object],
        *,
        unended: Iterable[str] = (),
    ) -> list[Timing]:
        """Break something, wait until alerts fire, mend it, and wait until they do not.

        Args:
            alerts: Their names.
            break_it: Breaks it.
            mend_it: Mends it, however much of it is broken.
            unended: Alerts that fire too, and whose end is not waited for.

        Raises:
            AssertionError: One did not fire within 45 s, or did not resolve within 60.
        """
        wanted = set(alerts)
        self.wait_until_calm(wanted)
        awaited = wanted | set(unended)
        start = time.monotonic()
        try:
            break_it()
            fired = self._note(awaited, start, lambda now: awaited & now, within=45)
        finally:
            end = time.monotonic()
            mend_it()
        resolved = self._note(wanted, end, lambda now: wanted - now, within=60)
        return [Timing(name, fired[name], resolved[name]) for name in sorted(wanted, key=fired.get)]  # type: ignore[arg-type] # all are there

    def _note(
        self, wanted: set[str], start: float, which: Callable[[set[str]], set[str]], within: float
    ) -> dict[str, float]:
        """When each alert was first one of those that are looked for, from the start."""
        found: dict[str, float] = {}

        def look() -> bool:
            now = self.prometheus.firing()
            for name in which(now):
                found.setdefault(name, time.monotonic() - start)
            return found.keys() >= wanted

        try:
            eventually(look, within=within, every=0.1)
        except AssertionError:
            raise AssertionError(f"missing: {wanted - found.keys()}, in time: {found}") from None
        return found


@contextmanager
def serving(directory: Path, url: str) -> Iterator[Service]:
    """Run the service with the routes that misbehave; a worker that hangs for 2 s is replaced."""

    def command(_port: int) -> list[str]:
        config = str(ROOT / "deploy" / "gunicorn.conf.py")
        return [PYTHON, "-m", "gunicorn", "--config", config, "--timeout", "2",
                "tests.monitoring.misbehaving:create_app()"]  # fmt: skip

    # The budget is what one instance may have, and not two.
    settings = {**_SETTINGS, "DATABASE_URL": url, "DATABASE_CONNECTION_BUDGET": "12"}
    with running_service(directory, settings, command=command) as service:
        yield service


class Crowd:
    """Clients that ask for the same again and again, whatever they get.

    Args:
        service: Whom.
        path: For what.
        clients: How many.
    """

    def __init__(self, service: Service, path: str, clients: int = _CLIENTS) -> None:
        self._url = f"http://127.0.0.1:{service.port}{path}"
        self._over = threading.Event()
        # A test that fails is not kept from its end by one that waits.
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(clients)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Return when the last of those that began has its answer."""
        self._over.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _ask(self) -> None:
        with httpx2.Client(timeout=90) as client:
            while not self._over.is_set():
                with contextlib.suppress(httpx2.TransportError):
                    client.get(self._url)
                self._over.wait(_PAUSE)


@contextmanager
def crowd(service: Service, path: str, clients: int = _CLIENTS) -> Iterator[None]:
    """Have clients ask for as long as the context is open."""
    asking = Crowd(service, path, clients)
    with ExitStack() as stack:
        stack.callback(asking.stop)
        asking.start()
        yield

"""Prometheus metrics of a pool, fed by its events.

Counts are the sizes of sets of connection records, not sums of steps: an event that comes twice
or never (as with invalidate, detach and dispose) cannot make them drift.
"""

import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, QueuePool

from service.database.failures import failure_reason
from service.database.pool import MeteredPoolMixin

# From a checkout that finds an idle connection to one that waits for the stock timeout.
_BUCKETS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)

CONNECTIONS = Gauge(
    "db_client_connection_count",
    "Open connections of the pool, by state.",
    ["pool_name", "state"],
)
CONNECTIONS_MAX = Gauge(
    "db_client_connection_max", "The most connections that the pool opens.", ["pool_name"]
)
CONNECTIONS_IDLE_MAX = Gauge(
    "db_client_connection_idle_max", "The most idle connections that the pool keeps.", ["pool_name"]
)
PENDING_REQUESTS = Gauge(
    "db_client_connection_pending_requests", "Checkouts that wait for a connection.", ["pool_name"]
)
TIMEOUTS = Counter(
    "db_client_connection_timeouts",
    "Checkouts that found the pool full for the whole timeout.",
    ["pool_name"],
)
CLOSED = Counter(
    "db_client_connection_closed", "Connections closed, by reason.", ["pool_name", "reason"]
)
CREATE_FAILURES = Counter(
    "db_client_connection_create_failures",
    "Connections that could not be opened, by reason.",
    ["pool_name", "reason"],
)
WAIT_TIME = Histogram(
    "db_client_connection_wait_time_seconds",
    "How long a checkout took, whether it got a connection or not.",
    ["pool_name"],
    buckets=_BUCKETS,
)
USE_TIME = Histogram(
    "db_client_connection_use_time_seconds",
    "How long a connection was checked out.",
    ["pool_name"],
    buckets=_BUCKETS,
)
CREATE_TIME = Histogram(
    "db_client_connection_create_time_seconds",
    "How long it took to open a connection.",
    ["pool_name"],
    buckets=_BUCKETS,
)

_instrumented: "weakref.WeakSet[Engine]" = weakref.WeakSet()


def instrument(engine: Engine, *, pool_name: str) -> None:
    """Feed the pool metrics from an engine's events.

    Works on any engine. Wait times, pending requests and timeouts fire no event in SQLAlchemy, so
    they are counted only for the kit's own pools. A second call for the same engine does nothing.

    Args:
        engine: The engine; of an `AsyncEngine`, its `sync_engine`.
        pool_name: The value of the label `pool_name`; one for each pool of a process.
    """
    if engine in _instrumented:
        return
    _instrumented.add(engine)
    PoolMetrics(engine, pool_name)


class PoolMetrics:
    """Follows one engine's pool, over every `dispose()`, and keeps its metrics right."""

    def __init__(self, engine: Engine, pool_name: str) -> None:
        self._lock = threading.Lock()
        self._open: set[ConnectionPoolEntry] = set()
        self._used: dict[ConnectionPoolEntry, float] = {}
        self._pending = 0
        self._name = pool_name
        self._used_gauge = CONNECTIONS.labels(pool_name, "used")
        self._idle_gauge = CONNECTIONS.labels(pool_name, "idle")
        self._pending_gauge = PENDING_REQUESTS.labels(pool_name)
        self._timeouts = TIMEOUTS.labels(pool_name)
        self._wait_time = WAIT_TIME.labels(pool_name)
        self._use_time = USE_TIME.labels(pool_name)
        self._create_time = CREATE_TIME.labels(pool_name)
        self._publish()
        self._pending_gauge.set(0)
        self._publish_limits(engine)
        self._listen(engine)
        if isinstance(engine.pool, MeteredPoolMixin):
            engine.pool.observer = self

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count a checkout as pending for as long as it lasts."""
        self._add_pending(1)
        try:
            yield
        finally:
            self._add_pending(-1)

    def waited(self, seconds: float) -> None:
        """Observe how long a checkout took."""
        self._wait_time.observe(seconds)

    def timed_out(self) -> None:
        """Count a checkout that found the pool full."""
        self._timeouts.inc()

    def _add_pending(self, step: int) -> None:
        with self._lock:
            self._pending += step
            self._pending_gauge.set(self._pending)

    def _listen(self, engine: Engine) -> None:
        event.listen(engine, "do_connect", self._on_do_connect)
        event.listen(engine, "connect", self._on_connect)
        event.listen(engine, "checkout", self._on_checkout)
        event.listen(engine, "checkin", self._on_checkin)
        event.listen(engine, "invalidate", self._on_invalidate)
        event.listen(engine, "detach", self._on_detach)
        event.listen(engine, "close", self._on_close)
        event.listen(engine, "engine_disposed", self._on_engine_disposed)

    def _on_do_connect(
        self,
        dialect: Dialect,
        record: ConnectionPoolEntry | None,
        args: list[Any],
        params: dict[str, Any],
    ) -> DBAPIConnection:
        """Open the connection in the dialect's place, to time it and to see it fail."""
        del record
        start = time.perf_counter()
        try:
            connection = dialect.connect(*args, **params)
        except Exception as error:
            CREATE_FAILURES.labels(self._name, failure_reason(error)).inc()
            raise
        self._create_time.observe(time.perf_counter() - start)
        return connection

    def _on_connect(self, connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        del connection
        with self._lock:
            self._open.add(record)
            self._publish()

    def _on_checkout(
        self,
        connection: DBAPIConnection,
        record: ConnectionPoolEntry,
        proxy: PoolProxiedConnection,
    ) -> None:
        del connection, proxy
        with self._lock:
            self._used[record] = time.perf_counter()
            self._publish()

    def _on_checkin(self, connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
        del connection
        self._release(record)

    def _on_invalidate(
        self,
        connection: DBAPIConnection,
        record: ConnectionPoolEntry,
        error: BaseException | None,
    ) -> None:
        del connection
        reason = "invalidated" if error is None else "error"
        CLOSED.labels(self._name, reason).inc()
        self._forget(record)

    def _on_detach(self, connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        del connection
        CLOSED.labels(self._name, "detached").inc()
        self._forget(record)
        self._release(record)

    def _on_close(self, connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        del connection
        # An invalidated connection is told of twice: by `invalidate`, then by `close`.
        if self._forget(record):
            CLOSED.labels(self._name, "released").inc()

    def _on_engine_disposed(self, engine: Engine) -> None:
        """Begin anew: a connection that is still out returns to a pool that nobody asks again."""
        with self._lock:
            self._open.clear()
            self._used.clear()
            self._publish()
        self._publish_limits(engine)

    def _release(self, record: ConnectionPoolEntry) -> None:
        with self._lock:
            since = self._used.pop(record, None)
            self._publish()
        if since is not None:
            self._use_time.observe(time.perf_counter() - since)

    def _forget(self, record: ConnectionPoolEntry) -> bool:
        with self._lock:
            known = record in self._open
            self._open.discard(record)
            self._publish()
        return known

    def _publish(self) -> None:
        used = len(self._used)
        self._used_gauge.set(used)
        self._idle_gauge.set(len(self._open.difference(self._used)))

    def _publish_limits(self, engine: Engine) -> None:
        pool = engine.pool
        idle_max = pool.size() if isinstance(pool, QueuePool) else 1
        overflow = pool._max_overflow if isinstance(pool, QueuePool) else 0  # noqa: SLF001 - it has no public reader
        CONNECTIONS_IDLE_MAX.labels(self._name).set(idle_max)
        CONNECTIONS_MAX.labels(self._name).set(idle_max + overflow)

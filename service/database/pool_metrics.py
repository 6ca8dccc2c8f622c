"""Prometheus metrics of a pool, fed by its events.

Counts are the sizes of sets of connection records, not sums of steps: an event that comes twice
or never (as with invalidate, detach and dispose) cannot make them drift.
"""

import math
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from prometheus_client import Counter, Gauge, Histogram
from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
from sqlalchemy.pool import (
    ConnectionPoolEntry,
    NullPool,
    Pool,
    PoolProxiedConnection,
    QueuePool,
)

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

_instrumented: "weakref.WeakSet[Dialect]" = weakref.WeakSet()
_latest: "weakref.WeakValueDictionary[str, PoolMetrics]" = weakref.WeakValueDictionary()


def instrument(engine: Engine, *, pool_name: str) -> None:
    """Feed the pool metrics from an engine's events.

    Works on any engine. Wait times, pending requests and timeouts fire no event in SQLAlchemy, so
    they are counted only for the kit's own pools; the opening of a connection by a `creator` of
    one's own fires none either. A second call for the same engine does nothing.

    Args:
        engine: The engine; of an `AsyncEngine`, its `sync_engine`.
        pool_name: The value of the label `pool_name`; one for each pool of a process. The gauges
            tell of the engine that took the name last.
    """
    # An engine's copies with other execution options share its pool and its dialect.
    if engine.dialect in _instrumented:
        return
    _instrumented.add(engine.dialect)
    if (former := _latest.get(pool_name)) is not None:
        former.retire()
    _latest[pool_name] = PoolMetrics(engine, pool_name)


class PoolMetrics:
    """Follows one engine's pool, over every `dispose()`, and keeps its metrics right."""

    def __init__(self, engine: Engine, pool_name: str) -> None:
        # The garbage collector may check a connection in while this thread holds the lock.
        self._lock = threading.RLock()
        self._engine = engine
        # Weak, because a pool may drop a record without an event.
        self._idle: weakref.WeakSet[ConnectionPoolEntry] = weakref.WeakSet()
        self._used: dict[ConnectionPoolEntry, float] = {}
        # Checked out of a pool that `dispose()` replaced.
        self._former: dict[ConnectionPoolEntry, float] = {}
        self._invalidated: weakref.WeakKeyDictionary[ConnectionPoolEntry, str] = (
            weakref.WeakKeyDictionary()
        )
        self._pending = 0
        self._gauges = (
            CONNECTIONS.labels(pool_name, "used"),
            CONNECTIONS.labels(pool_name, "idle"),
        )
        self._pending_gauge = PENDING_REQUESTS.labels(pool_name)
        self._is_latest = True
        self._published: tuple[float, ...] = (math.nan,) * len(self._gauges)
        self._name = pool_name
        self._timeouts = TIMEOUTS.labels(pool_name)
        self._wait_time = WAIT_TIME.labels(pool_name)
        self._use_time = USE_TIME.labels(pool_name)
        self._create_time = CREATE_TIME.labels(pool_name)
        self._publish()
        self._add_pending(0)
        self._publish_limits()
        self._listen(engine)
        if isinstance(engine.pool, MeteredPoolMixin):
            engine.pool.observer = self

    def retire(self) -> None:
        """Leave the gauges to another engine of the same name; counters go on."""
        with self._lock:
            self._is_latest = False

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
            if self._is_latest:
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
        start = time.perf_counter()
        try:
            connection = self._open(dialect, record, args, params)
        except Exception as error:
            CREATE_FAILURES.labels(self._name, failure_reason(error)).inc()
            raise
        self._create_time.observe(time.perf_counter() - start)
        return connection

    def _open(
        self,
        dialect: Dialect,
        record: ConnectionPoolEntry | None,
        args: list[Any],
        params: dict[str, Any],
    ) -> DBAPIConnection:
        """Ask the listeners after this one first, as SQLAlchemy would: one may set a password."""
        listeners = [*dialect.dispatch.do_connect]
        for listener in listeners[listeners.index(self._on_do_connect) + 1 :]:
            if (connection := listener(dialect, record, args, params)) is not None:
                return connection  # type: ignore[no-any-return]
        return dialect.connect(*args, **params)

    def _on_connect(self, connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        del connection
        with self._lock:
            self._keep(record)
            self._publish()

    def _on_checkout(
        self,
        connection: DBAPIConnection,
        record: ConnectionPoolEntry,
        proxy: PoolProxiedConnection,
    ) -> None:
        del connection, proxy
        with self._lock:
            self._idle.discard(record)
            out = self._used if self._is_ours(record) else self._former
            out[record] = time.perf_counter()
            self._publish()

    def _on_checkin(self, connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
        with self._lock:
            self._idle.discard(record)
            if connection is not None:
                self._keep(record)
            self._release(record)

    def _on_invalidate(
        self,
        connection: DBAPIConnection,
        record: ConnectionPoolEntry,
        error: BaseException | None,
    ) -> None:
        """Remember why; `close` follows."""
        del connection
        self._invalidated[record] = "invalidated" if error is None else "error"

    def _on_close(self, connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        del connection
        CLOSED.labels(self._name, self._invalidated.pop(record, "released")).inc()
        with self._lock:
            self._idle.discard(record)
            self._publish()

    def _on_detach(self, connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        del connection
        CLOSED.labels(self._name, "detached").inc()
        with self._lock:
            # The record is back in the pool already, and another thread may have connected it.
            if record.dbapi_connection is None:
                self._release(record)

    def _on_engine_disposed(self, engine: Engine) -> None:
        """Begin anew: a connection that is still out returns to a pool that nobody asks again."""
        del engine
        with self._lock:
            for record in [record for record in self._idle if not self._is_ours(record)]:
                self._idle.discard(record)
            for record in [record for record in self._used if not self._is_ours(record)]:
                self._former[record] = self._used.pop(record)
            self._publish()
        self._publish_limits()

    def _keep(self, record: ConnectionPoolEntry) -> None:
        if self._is_ours(record):
            self._idle.add(record)

    def _release(self, record: ConnectionPoolEntry) -> None:
        since = self._used.pop(record, None) or self._former.pop(record, None)
        self._publish()
        if since is not None:
            self._use_time.observe(time.perf_counter() - since)

    def _is_ours(self, record: ConnectionPoolEntry) -> bool:
        """Whether a record is of the engine's pool, and not of one that `dispose()` replaced."""
        pool = self._engine.pool
        # No public attribute tells which pool a record belongs to.
        return getattr(record, "_ConnectionRecord__pool", pool) is pool

    def _publish(self) -> None:
        """Set what changed; once more if the garbage collector changed it again meanwhile."""
        while self._is_latest and self._published != (counts := (len(self._used), len(self._idle))):
            for gauge, count, former in zip(self._gauges, counts, self._published, strict=True):
                if count != former:
                    gauge.set(count)
            self._published = counts

    def _publish_limits(self) -> None:
        idle, most = _limits(self._engine.pool)
        CONNECTIONS_IDLE_MAX.labels(self._name).set(idle)
        CONNECTIONS_MAX.labels(self._name).set(most)


def _limits(pool: Pool) -> tuple[float, float]:
    """How many connections a pool keeps, and how many it opens at most."""
    if isinstance(pool, NullPool):
        return 0, math.inf
    if not isinstance(pool, QueuePool):
        return 1, 1
    overflow = pool._max_overflow  # noqa: SLF001 - it has no public reader
    size = pool.size() or math.inf
    return size, math.inf if overflow < 0 else size + overflow

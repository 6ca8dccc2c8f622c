"""Following a pool by its events, to keep its metrics right.

Counts are the sizes of sets of connection records, not sums of steps: an event that comes twice
or never (as with invalidate, detach and dispose) cannot make them drift.
"""

import _thread
import contextlib
import gc
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
from sqlalchemy.pool import (
    ConnectionPoolEntry,
    PoolProxiedConnection,
)

from service.database.failures import failure_reason
from service.database.pool import MeteredPoolMixin, pool_limits
from service.database.pool_metrics import (
    CLOSED,
    CONNECTIONS,
    CONNECTIONS_IDLE_MAX,
    CONNECTIONS_MAX,
    CREATE_FAILURES,
    CREATE_TIME,
    PENDING_REQUESTS,
    TIMEOUTS,
    USE_TIME,
    WAIT_TIME,
)

# The thread in which the garbage collector runs, if it does.
_collecting = 0

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


def _note_collection(phase: str, info: dict[str, int]) -> None:
    global _collecting  # noqa: PLW0603 - the collector is one for the process
    del info
    _collecting = threading.get_ident() if phase == "start" else 0


gc.callbacks.append(_note_collection)


class PoolMetrics:
    """Follows one engine's pool, over every `dispose()`, and keeps its metrics right."""

    def __init__(self, engine: Engine, pool_name: str) -> None:
        # Reentrant, for the collector may check a connection in while this thread holds it.
        self._lock = threading.RLock()
        self._unwritten: deque[Callable[[], None]] = deque()
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
        self._published: tuple[int, int] | None = None
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
        reason = self._invalidated.pop(record, "released")
        with self._lock:
            self._idle.discard(record)
            self._publish(lambda: self._count_closed(reason))

    def _on_detach(self, connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        del connection
        with self._lock:
            # The record is back in the pool already, and another thread may have connected it.
            if record.dbapi_connection is None:
                self._release(record)
            self._publish(lambda: self._count_closed("detached"))

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
        if since is None:
            self._publish()
            return
        used = time.perf_counter() - since
        self._publish(lambda: self._use_time.observe(used))

    def _count_closed(self, reason: str) -> None:
        CLOSED.labels(self._name, reason).inc()

    def _is_ours(self, record: ConnectionPoolEntry) -> bool:
        """Whether a record is of the engine's pool, and not of one that `dispose()` replaced."""
        pool = self._engine.pool
        # No public attribute tells which pool a record belongs to.
        return getattr(record, "_ConnectionRecord__pool", pool) is pool

    def _publish(self, record: Callable[[], None] | None = None) -> None:
        """Write down what changed, and what else is to be recorded.

        Within the collector another thread has to do it: whatever was interrupted, a scrape for
        one, may hold a lock of prometheus_client, and those are not reentrant.
        """
        if record is not None:
            self._unwritten.append(record)
        if _collecting != threading.get_ident():
            self._write()
            return
        with contextlib.suppress(RuntimeError):  # at the end of the interpreter
            _thread.start_new_thread(self._write, ())

    def _write(self) -> None:
        with self._lock:
            while self._unwritten:
                self._unwritten.popleft()()
            counts = (len(self._used), len(self._idle))
            if not self._is_latest or counts == self._published:
                return
            for gauge, count in zip(self._gauges, counts, strict=True):
                gauge.set(count)
            self._published = counts

    def _publish_limits(self) -> None:
        idle, most = pool_limits(self._engine.pool)
        CONNECTIONS_IDLE_MAX.labels(self._name).set(idle)
        CONNECTIONS_MAX.labels(self._name).set(most)

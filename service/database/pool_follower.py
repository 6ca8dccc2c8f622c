"""Following one pool by its events, to keep its metrics right."""

import asyncio
import logging
import math
import time
import weakref
from functools import partial
from typing import Any

from sqlalchemy import Engine, event, exc
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
from sqlalchemy.pool import ConnectionPoolEntry, Pool, PoolProxiedConnection, QueuePool

from service.database import pool_clock
from service.database.collecting import is_collecting, run_elsewhere
from service.database.failures import OutOfTime, failure_reason
from service.database.pool import MeteredPoolMixin, PoolTimeoutError
from service.database.pool_any import observe_checkouts, pool_limits
from service.database.pool_holders import Holder
from service.database.pool_ledger import PoolLedger
from service.database.pool_metrics import PoolSeries
from service.database.pool_queue import CLOSE_REASON
from service.database.pool_watch import PoolWatch

logger = logging.getLogger(__name__)


class PoolFollower:
    """Follows one engine's pool, over every `dispose()`, and keeps its metrics right."""

    def __init__(self, engine: Engine, pool_name: str, leak_threshold: float | None = None) -> None:
        pool = engine.pool
        if leak_threshold is None:
            leak_threshold = (
                pool.policy.leak_threshold if isinstance(pool, MeteredPoolMixin) else math.inf
            )
        self.pool_name = pool_name
        self.ledger = PoolLedger()
        self._engine = engine
        self._keeps_stacks = leak_threshold < math.inf
        self._series = PoolSeries(pool_name, self.ledger.counts)
        self._watch = PoolWatch(self.ledger, self._series, leak_threshold)
        self._invalidated: weakref.WeakKeyDictionary[ConnectionPoolEntry, str] = (
            weakref.WeakKeyDictionary()
        )
        self._pending = 0
        self._is_watched = False
        self._is_latest = True
        # What was open before could not be followed, so that the pool's count differs for good.
        self._is_late = isinstance(pool, QueuePool) and pool.checkedin() + pool.checkedout() > 0
        self._listen(engine)
        self._attach(pool)
        self.waiting(0)
        self._settle(None)

    def _listen(self, engine: Engine) -> None:
        event.listen(engine, "do_connect", self._on_do_connect)
        event.listen(engine, "connect", self._on_connect)
        event.listen(engine, "checkout", self._on_checkout)
        event.listen(engine, "checkin", self._on_checkin)
        event.listen(engine, "invalidate", self._on_invalidate)
        event.listen(engine, "detach", self._on_detach)
        event.listen(engine, "close", self._on_close)
        # With one listener of the engine, SQLAlchemy sends each statement round all of its events:
        # 8 us for each, and this one needs none of them.
        has_events = engine._has_events  # noqa: SLF001 - there is no public way
        event.listen(engine, "engine_disposed", self._on_engine_disposed)
        engine._has_events = has_events  # noqa: SLF001

    def _attach(self, pool: Pool) -> None:
        self._is_own = isinstance(pool, MeteredPoolMixin)
        if isinstance(pool, MeteredPoolMixin):
            pool.observer = self
        else:
            observe_checkouts(pool, self)
        self.reconfigured()

    def retire(self) -> None:
        """Leave the gauges to another engine of the same name; counters go on."""
        with self.ledger.lock:
            self._is_latest = False

    def start_anew(self) -> None:
        """Forget, in a forked child, what belongs to the parent."""
        self.ledger.clear()
        self._pending = 0
        self._is_watched = False
        self.waiting(0)
        self._settle(None)

    @property
    def pool(self) -> Pool:
        """The engine's pool, which `dispose()` replaces."""
        return self._engine.pool

    @property
    def pending(self) -> int:
        """How many checkouts wait."""
        return self._pending

    def waiting(self, step: int) -> None:
        """Count a checkout that began (1) or ended (-1) to wait."""
        if step > 0:
            # Also of a pool that never opens a connection, because none can be had.
            self._watch_time()
        with self.ledger.lock:
            self._pending += step
            if self._is_latest:
                self._series.pending.set(self._pending)

    def waited(self, seconds: float) -> None:
        """Observe how long a checkout took."""
        self._series.waited(seconds)

    def failed(self, seconds: float, error: BaseException) -> None:
        """Observe and count a checkout that ended without a connection."""
        self._series.waited(seconds)
        reason = _checkout_failure(error)
        # Whoever was cancelled did not give up: nobody wanted the connection any more.
        if isinstance(error, exc.TimeoutError) and reason != "cancelled":
            self._series.timeouts.inc()
        self._series.checkout_failed(reason)

    def validated(self, *, alive: bool) -> None:
        """Count a connection that was asked whether it is alive."""
        self._series.validated("alive" if alive else "dead")

    def reconfigured(self) -> None:
        """Publish the pool's limits, and whether it is suspended."""
        pool = self._engine.pool
        is_suspended = isinstance(pool, MeteredPoolMixin) and pool.queue.suspended
        with self.ledger.lock:
            if self._is_latest:
                self._series.limit(*pool_limits(pool))
                self._series.suspended.set(is_suspended)

    def oldest_use(self) -> str:
        """Say who has had a connection for longest."""
        oldest = self.ledger.holders()[:1]
        return f"the oldest is out for {oldest[0]}" if oldest else ""

    def _watch_time(self) -> None:
        if not self._is_watched:
            self._is_watched = True
            pool_clock.watch(self)

    def _on_do_connect(
        self,
        dialect: Dialect,
        record: ConnectionPoolEntry | None,
        args: list[Any],
        params: dict[str, Any],
    ) -> DBAPIConnection:
        """Open the connection in the dialect's place, to time it and to see it fail."""
        start = time.perf_counter()
        if self._is_own:
            # Whoever asked waits for the server now; of another pool it counts from the start.
            self.waiting(1)
        try:
            connection = self._connect(dialect, record, args, params)
        except Exception as error:
            self._series.create_failed(failure_reason(error))
            raise
        finally:
            if self._is_own:
                self.waiting(-1)
        self._series.create_time.observe(time.perf_counter() - start)
        return connection

    def _connect(
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
        self._watch_time()
        with self.ledger.lock:
            if self._is_ours(record):
                self.ledger.open(record)
        self._settle(None)

    def _on_checkout(
        self,
        connection: DBAPIConnection,
        record: ConnectionPoolEntry,
        proxy: PoolProxiedConnection,
    ) -> None:
        del connection, proxy
        holder = Holder(self._keeps_stacks)
        with self.ledger.lock:
            is_former = not self._is_ours(record)
            self.ledger.take(record, holder, is_former=is_former)
            if self._is_late and not is_former:
                self.ledger.open(record)
        self._publish()

    def _on_checkin(self, connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
        holder = self.ledger.give_back(record)
        if connection is None:
            # Its replacement was opened and closed again, by a listener that refused it.
            self.ledger.close(record)
        if holder is None or connection is None or is_collecting():
            self._settle(holder)
            return
        self._observe_use(holder)
        self._publish()

    def _on_invalidate(
        self,
        connection: DBAPIConnection,
        record: ConnectionPoolEntry,
        error: BaseException | None,
    ) -> None:
        """Remember why; `close` follows."""
        del connection
        if isinstance(error, OutOfTime):
            reason = error.failure.reason
        else:
            reason = "invalidated" if error is None else "error"
        self._invalidated[record] = reason

    def _on_close(self, connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        """Count a connection that ends; whoever has it, has it no more."""
        del connection
        info = record.record_info or {}
        invalidated = self._invalidated.pop(record, None)
        otherwise = "recycled" if self._is_own else "released"
        reason = info.pop(CLOSE_REASON, None) or invalidated or otherwise
        self._end(record, reason)

    def _on_detach(self, connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        del connection
        if record.dbapi_connection is None:
            self._end(record, "detached")
        else:
            # The record is back in the pool already, and another thread has connected it.
            self._settle(None, "detached")

    def _end(self, record: ConnectionPoolEntry, reason: str) -> None:
        self.ledger.close(record)
        self._settle(self.ledger.give_back(record), reason)

    def _on_engine_disposed(self, engine: Engine) -> None:
        """Begin anew: a connection that is still out returns to a pool that nobody asks again."""
        self.ledger.replace(lambda record: not self._is_ours(record))
        self._attach(engine.pool)
        self._settle(None)

    def _is_ours(self, record: ConnectionPoolEntry) -> bool:
        """Whether a record is of the engine's pool, and not of one that `dispose()` replaced."""
        pool = self._engine.pool
        if self._is_own:
            pool = getattr(pool, "successor", None) or pool
        # No public attribute tells which pool a record belongs to.
        return getattr(record, "_ConnectionRecord__pool", pool) is pool

    def _settle(self, holder: Holder | None, close_reason: str | None = None) -> None:
        """Write down that a holder gave back, that a connection ended, and how many there are.

        Within the collector another thread has to do it: whatever was interrupted, a scrape for
        one, may hold a lock of prometheus_client, and those are not reentrant.
        """
        if is_collecting():
            run_elsewhere(partial(self._settle, holder, close_reason))
            return
        if close_reason is not None:
            self._series.closed(close_reason)
        if holder is not None:
            self._observe_use(holder)
        self.ledger.count()
        self._publish()

    def _observe_use(self, holder: Holder) -> None:
        self._series.used((holder.age, holder.route))
        if holder.is_leaked:
            self._watch.leak_returned(holder)
            if self._is_latest:
                self._watch.publish_leaks()

    def _publish(self) -> None:
        if self._is_latest:
            self._series.connections.changed()

    def tick(self) -> None:
        """Look for leaks, publish ages, and compare the gauges with the pool."""
        pool = self._engine.pool
        self._series.flush()
        self._watch.look_for_leaks()
        if not self._is_latest:
            return
        self._watch.publish_ages(pool)
        # While somebody waits, a connection may be neither here nor there.
        if isinstance(pool, QueuePool) and not self._is_late and not self._pending:
            self._watch.look_for_drift(pool)
            self._publish()


def _checkout_failure(error: BaseException) -> str:
    if isinstance(error, PoolTimeoutError):
        return error.reason
    if not isinstance(error, Exception) or isinstance(error, asyncio.CancelledError):
        return "cancelled"
    return failure_reason(error)

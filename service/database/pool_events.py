"""Following a pool by its events, to keep its metrics right.

Counts are the sizes of sets, not sums of steps: an event that comes twice or never (as with
invalidate, detach and dispose) cannot make them drift.
"""

import asyncio
import logging
import math
import os
import threading
import time
import weakref
from functools import partial
from typing import Any

from sqlalchemy import Engine, event, exc
from sqlalchemy.engine.interfaces import DBAPIConnection, Dialect
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry, Pool, PoolProxiedConnection, QueuePool

from service.database import pool_clock
from service.database import pool_metrics as metrics
from service.database.collecting import is_collecting, run_elsewhere
from service.database.failures import failure_reason
from service.database.pool import (
    MeteredPoolMixin,
    PoolTimeoutError,
    observe_checkouts,
    pool_limits,
)
from service.database.pool_holders import Holder
from service.database.pool_queue import CLOSE_REASON

logger = logging.getLogger(__name__)

_followers: "weakref.WeakKeyDictionary[Dialect, weakref.ref[PoolFollower]]" = (
    weakref.WeakKeyDictionary()
)
_latest: "weakref.WeakValueDictionary[str, PoolFollower]" = weakref.WeakValueDictionary()


def instrument(
    engine: Engine | AsyncEngine, *, pool_name: str, leak_threshold: float | None = None
) -> None:
    """Feed the pool metrics from an engine's events.

    Works on any engine and any pool; the kit's own pools tell more, of their line, of validations,
    and why a connection was closed. The opening of a connection by a `creator` of one's
    own fires no event, so it is neither timed nor counted. A second call for the same engine does
    nothing.

    Args:
        engine: The engine.
        pool_name: The value of the label `pool_name`; one for each pool of a process. The gauges
            tell of the engine that took the name last.
        leak_threshold: Seconds after which a connection that is out is taken for leaked. Left
            out, that of the pool's policy; any other pool than the kit's has none.
    """
    if isinstance(engine, AsyncEngine):
        engine = engine.sync_engine
    if follower_of(engine) is not None:
        return
    if (former := _latest.get(pool_name)) is not None:
        former.retire()
    follower = _latest[pool_name] = PoolFollower(engine, pool_name, leak_threshold)
    # An engine's copies with other execution options share its pool and its dialect.
    _followers[engine.dialect] = weakref.ref(follower)


def follower_of(engine: Engine) -> "PoolFollower | None":
    """What follows an engine's pool, if something does."""
    reference = _followers.get(engine.dialect)
    return reference() if reference is not None else None


class PoolFollower:
    """Follows one engine's pool, over every `dispose()`, and keeps its metrics right."""

    def __init__(self, engine: Engine, pool_name: str, leak_threshold: float | None = None) -> None:
        self.pool_name = pool_name
        self._engine = engine
        # Reentrant, for the collector may check a connection in while this thread holds it.
        self._lock = threading.RLock()
        # Weak, because a pool may drop a record without an event.
        self._open: weakref.WeakSet[ConnectionPoolEntry] = weakref.WeakSet()
        self._used: dict[ConnectionPoolEntry, Holder] = {}
        # Checked out of a pool that `dispose()` replaced.
        self._former: dict[ConnectionPoolEntry, Holder] = {}
        self._invalidated: weakref.WeakKeyDictionary[ConnectionPoolEntry, str] = (
            weakref.WeakKeyDictionary()
        )
        self._open_count = 0
        self._pending = 0
        self._is_latest = True
        pool = engine.pool
        if leak_threshold is None:
            leak_threshold = (
                pool.policy.leak_threshold if isinstance(pool, MeteredPoolMixin) else math.inf
            )
        self._leak_threshold = leak_threshold
        self._keeps_stacks = leak_threshold < math.inf
        self._suspicion: object = None
        # What was open before could not be followed, so that the pool's count differs for good.
        self._is_late = isinstance(pool, QueuePool) and pool.checkedin() + pool.checkedout() > 0
        self._bind(pool_name)
        self._listen(engine)
        self._attach(pool)
        self.waiting(0)
        self._settle(None)

    def _bind(self, name: str) -> None:
        self._gauges = metrics.ConnectionGauges(name)
        self._pending_gauge = metrics.PENDING_REQUESTS.labels(name)
        self._oldest_use_gauge = metrics.OLDEST_USE.labels(name)
        self._oldest_wait_gauge = metrics.OLDEST_WAIT.labels(name)
        self._leaked_gauge = metrics.LEAKED.labels(name)
        self._leaks = metrics.LEAKS.labels(name)
        self._leaks_returned = metrics.LEAKS_RETURNED.labels(name)
        self._timeouts = metrics.TIMEOUTS.labels(name)
        self._drifts = metrics.DRIFTS.labels(name)
        self._wait_time = metrics.WAIT_TIME.labels(name)
        self._use_time = metrics.USE_TIME.labels(name)
        self._create_time = metrics.CREATE_TIME.labels(name)
        self._route_use = {"": metrics.ROUTE_USE.labels(name, "")}

    def _listen(self, engine: Engine) -> None:
        event.listen(engine, "do_connect", self._on_do_connect)
        event.listen(engine, "connect", self._on_connect)
        event.listen(engine, "checkout", self._on_checkout)
        event.listen(engine, "checkin", self._on_checkin)
        event.listen(engine, "invalidate", self._on_invalidate)
        event.listen(engine, "detach", self._on_detach)
        event.listen(engine, "close", self._on_close)
        event.listen(engine, "engine_disposed", self._on_engine_disposed)

    def _attach(self, pool: Pool) -> None:
        self._is_own = isinstance(pool, MeteredPoolMixin)
        if isinstance(pool, MeteredPoolMixin):
            pool.observer = self
        else:
            observe_checkouts(pool, self)
        self.resized()

    def retire(self) -> None:
        """Leave the gauges to another engine of the same name; counters go on."""
        with self._lock:
            self._is_latest = False

    def start_anew(self) -> None:
        """Forget, in a forked child, what belongs to the parent."""
        self._lock = threading.RLock()
        self._used.clear()
        self._former.clear()
        self._open.clear()
        self._pending = 0
        self.waiting(0)
        self._settle(None)

    def holders(self) -> list[Holder]:
        """Who has a connection, whoever has had it for longest first."""
        with self._lock:
            holders = [*self._used.values(), *self._former.values()]
        return sorted(holders, key=lambda holder: holder.since)

    def counts(self) -> tuple[int, int]:
        """How many connections are in use, and how many lie idle."""
        with self._lock:
            used = len(self._used)
            return used, len(self._open) - used

    @property
    def pending(self) -> int:
        """How many checkouts wait."""
        return self._pending

    def waiting(self, step: int) -> None:
        """Count a checkout that began (1) or ended (-1) to wait."""
        with self._lock:
            self._pending += step
            if self._is_latest:
                self._pending_gauge.set(self._pending)

    def waited(self, seconds: float) -> None:
        """Observe how long a checkout took."""
        self._wait_time.observe(seconds)

    def failed(self, seconds: float, error: BaseException) -> None:
        """Observe and count a checkout that ended without a connection."""
        self._wait_time.observe(seconds)
        if isinstance(error, exc.TimeoutError):
            self._timeouts.inc()
        metrics.CHECKOUT_FAILURES.labels(self.pool_name, _checkout_failure(error)).inc()

    def validated(self, *, alive: bool) -> None:
        """Count a connection that was asked whether it is alive."""
        metrics.VALIDATIONS.labels(self.pool_name, "alive" if alive else "dead").inc()

    def resized(self) -> None:
        """Publish the pool's limits."""
        idle, most = pool_limits(self._engine.pool)
        metrics.CONNECTIONS_IDLE_MAX.labels(self.pool_name).set(idle)
        metrics.CONNECTIONS_MAX.labels(self.pool_name).set(most)

    def oldest_use(self) -> str:
        """Say who has had a connection for longest."""
        oldest = self.holders()[:1]
        return f"the oldest is out for {oldest[0]}" if oldest else ""

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
            metrics.CREATE_FAILURES.labels(self.pool_name, failure_reason(error)).inc()
            raise
        finally:
            if self._is_own:
                self.waiting(-1)
        self._create_time.observe(time.perf_counter() - start)
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
        pool_clock.watch(self)
        with self._lock:
            if self._is_ours(record):
                self._open.add(record)
        self._settle(None)

    def _on_checkout(
        self,
        connection: DBAPIConnection,
        record: ConnectionPoolEntry,
        proxy: PoolProxiedConnection,
    ) -> None:
        del connection, proxy
        holder = Holder(self._keeps_stacks)
        with self._lock:
            if not self._is_ours(record):
                self._former[record] = holder
                return
            self._used[record] = holder
            if self._is_late:
                self._open.add(record)
                self._open_count = len(self._open)
            self._publish()

    def _on_checkin(self, connection: DBAPIConnection | None, record: ConnectionPoolEntry) -> None:
        holder = self._used.pop(record, None) or self._former.pop(record, None)
        if connection is None:
            # Its replacement was opened and closed again, by a listener that refused it.
            with self._lock:
                self._open.discard(record)
        if holder is None or connection is None or is_collecting():
            self._settle(holder)
            return
        self._observe_use(holder)
        with self._lock:
            self._publish()

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
        with self._lock:
            self._open.discard(record)
        self._settle(self._used.pop(record, None) or self._former.pop(record, None), reason)

    def _on_engine_disposed(self, engine: Engine) -> None:
        """Begin anew: a connection that is still out returns to a pool that nobody asks again."""
        with self._lock:
            for record in [record for record in self._open if not self._is_ours(record)]:
                self._open.discard(record)
            for record in [record for record in self._used if not self._is_ours(record)]:
                self._former[record] = self._used.pop(record)
        self._attach(engine.pool)
        self._settle(None)

    def _is_ours(self, record: ConnectionPoolEntry) -> bool:
        """Whether a record is of the engine's pool, and not of one that `dispose()` replaced."""
        pool = self._engine.pool
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
            metrics.CLOSED.labels(self.pool_name, close_reason).inc()
        if holder is not None:
            self._observe_use(holder)
        with self._lock:
            self._open_count = len(self._open)
            self._publish()

    def _observe_use(self, holder: Holder) -> None:
        age = holder.age
        self._use_time.observe(age)
        route_use = self._route_use.get(holder.route)
        if route_use is None:
            route_use = metrics.ROUTE_USE.labels(self.pool_name, holder.route)
            self._route_use[holder.route] = route_use
        route_use.inc(age)
        if holder.is_leaked:
            self._leaks_returned.inc()
            logger.warning("a leaked connection came back after all, after %s", holder)
            self._publish_leaked()

    def _publish(self) -> None:
        if self._is_latest:
            used = len(self._used)
            self._gauges.publish(used, self._open_count - used)

    def _publish_leaked(self) -> None:
        with self._lock:
            if self._is_latest:
                self._leaked_gauge.set(sum(holder.is_leaked for holder in self.holders()))

    def tick(self) -> None:
        """Publish ages, look for leaks, and compare the gauges with the pool."""
        with self._lock:
            holders = self.holders()
            leaked = [
                holder
                for holder in holders
                if not holder.is_leaked and holder.age >= self._leak_threshold
            ]
            for holder in leaked:
                holder.is_leaked = True
            if self._is_latest:
                self._gauges.flush()
                self._oldest_use_gauge.set(holders[0].age if holders else 0)
                self._oldest_wait_gauge.set(self.oldest_wait())
                self._check_for_drift()
        for holder in leaked:
            self._leaks.inc()
            logger.warning(
                "a connection of pool %s is out for %s: taken for leaked; it was taken at\n%s",
                self.pool_name,
                holder,
                "\n".join(holder.borrow_site()),
            )
        self._publish_leaked()

    def oldest_wait(self) -> float:
        """How long the first checkout in the line has waited, in seconds; 0 without one."""
        pool = self._engine.pool
        since = pool.queue.waiting_since if isinstance(pool, MeteredPoolMixin) else None
        return time.monotonic() - since if since is not None else 0.0

    def _check_for_drift(self) -> None:
        """Count and mend a disagreement that two ticks in a row have found."""
        pool = self._engine.pool
        if not isinstance(pool, QueuePool) or self._is_late or self._pending:
            return
        used, truth = len(self._used), pool.checkedout()
        found = (used, truth, [*self._used]) if used != truth else None
        if found is not None and found == self._suspicion:
            self._drifts.inc()
            logger.error("pool %s: %d in use, %d counted", self.pool_name, truth, used)
            for record in [record for record in self._used if not record.in_use]:
                del self._used[record]
            self._publish()
        self._suspicion = found


def _checkout_failure(error: BaseException) -> str:
    if isinstance(error, PoolTimeoutError):
        return error.reason
    if not isinstance(error, Exception) or isinstance(error, asyncio.CancelledError):
        return "cancelled"
    return failure_reason(error)


def _start_anew() -> None:
    for follower in [*_latest.values()]:
        follower.start_anew()


os.register_at_fork(after_in_child=_start_anew)

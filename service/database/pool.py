"""The pool: SQLAlchemy's QueuePool, with what its operators need.

Whoever waits longest is served first; limits change while it runs; connections are asked whether
they are alive when they were long unheard, and replaced before they grow old; and an observer is
told how long each checkout took and why it failed.
"""

import asyncio
import logging
import math
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Protocol, cast

from sqlalchemy import exc
from sqlalchemy.engine import Dialect
from sqlalchemy.pool import (
    AsyncAdaptedQueuePool,
    ConnectionPoolEntry,
    PoolProxiedConnection,
    QueuePool,
)
from sqlalchemy.util import greenlet_spawn

from service.database import pool_clock
from service.database.deadline import TimeLimit, current_limit, outside_limits, watchdog
from service.database.failures import OutOfTime
from service.database.pool_policy import PoolPolicy
from service.database.pool_queue import FairQueue
from service.database.pool_waiters import TaskWaiter, ThreadWaiter

logger = logging.getLogger(__name__)


class PoolTimeoutError(exc.TimeoutError):
    """No connection of the pool came free in time; the text tells who has them.

    Args:
        text: What happened.
        reason: "pool_timeout", or "suspended".
    """

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text, code="3o7r")
        self.reason = reason


class PoolLimitError(OutOfTime, PoolTimeoutError):
    """A limit ended the wait for a connection.

    Args:
        text: What happened.
        limit: By which.
    """

    def __init__(self, text: str, limit: TimeLimit) -> None:
        self.failure = limit.failure
        super().__init__(text, self.failure.reason)


class PoolObserver(Protocol):
    """What a pool tells of itself, and whom it asks."""

    def waiting(self, step: int) -> None:
        """A checkout began (1) or ended (-1) to wait."""

    def waited(self, seconds: float) -> None:
        """A checkout got its connection after this long."""

    def failed(self, seconds: float, error: BaseException) -> None:
        """A checkout failed after this long."""

    def validated(self, *, alive: bool) -> None:
        """A connection was asked whether it is alive."""

    def reconfigured(self) -> None:
        """The limits changed, or the pool was suspended or resumed."""

    def oldest_use(self) -> str:
        """Say who has had a connection for longest."""


class MeteredPoolMixin(QueuePool):
    """What the sync and the asyncio pool have in common.

    Args:
        creator: As QueuePool takes it; so are `pool_size`, `max_overflow`, `timeout` and the rest.
        policy: How connections are treated.
    """

    _queue_class: type[FairQueue] = FairQueue
    # Set by `instrument`.
    observer: PoolObserver | None = None

    def __init__(
        self,
        creator: Any,
        pool_size: int = 5,
        max_overflow: int = 10,
        timeout: float = 30.0,
        policy: PoolPolicy | None = None,
        **options: Any,
    ) -> None:
        # Without a bound of QueuePool's own: its queue has the places.
        super().__init__(creator, pool_size, -1, timeout, **options)
        # The connections, the places and the line.
        self.queue = cast("FairQueue", self._pool)
        self.policy = policy or PoolPolicy()
        self._ping_dialect: Dialect | None = options.get("dialect")
        self._maintaining = threading.Lock()
        self.queue.policy = self.policy
        self.queue.validate = self._is_alive
        self.queue.capacity = _capacity(pool_size, max_overflow)
        self._is_watched = False
        self._is_failing = False
        self._is_disposed = False
        # The pool that came after `dispose()`, which serves before the engine knows of it.
        self.successor: MeteredPoolMixin | None = None

    @property
    def capacity(self) -> float:
        """The most connections that are open at once; infinite without a limit."""
        return self.queue.capacity

    def connect(self) -> PoolProxiedConnection:
        """Check a connection out, waiting in line at most the pool's timeout.

        Raises:
            PoolTimeoutError: None came free in time.
        """
        observer = self.observer
        start = time.perf_counter()
        try:
            pool = self if self.queue.try_enter() else self.wait_in_line(start)
            connection = pool.use_place()
        except BaseException as error:
            if observer is not None:
                observer.failed(time.perf_counter() - start, error)
            raise
        if observer is not None:
            observer.waited(time.perf_counter() - start)
        return connection

    def wait_in_line(self, start: float) -> "MeteredPoolMixin":
        """Wait for a place.

        Args:
            start: Since when (`time.perf_counter`).

        Returns:
            Where the place is: `Engine.dispose()` may have replaced this pool meanwhile.

        Raises:
            PoolTimeoutError: None came free in time.
        """
        waiter = self._new_waiter()
        observer = self.observer
        if observer is not None:
            observer.waiting(1)
        try:
            self.queue.line_up(waiter)
            patience = max(0.0, self.timeout() - (time.perf_counter() - start))
            self._wait(waiter, patience)
            was_in_line = not waiter.has_place and not self.queue.abandon(waiter)
        except BaseException:
            self.queue.abandon(waiter)
            if waiter.has_place:
                self.queue.leave()
            raise
        finally:
            if observer is not None:
                observer.waiting(-1)
        if waiter.has_place:
            return self
        if not was_in_line and self.successor is not None:
            successor = self.successor
            return successor if successor.queue.try_enter() else successor.wait_in_line(start)
        raise self._timeout_error(observer, time.perf_counter() - start)

    def _wait(self, waiter: ThreadWaiter | TaskWaiter, patience: float) -> None:
        limit = current_limit()
        if limit is None:
            waiter.wait(patience)
            return
        # The wait itself ends in time; the watchdog ends it when the limit is cancelled. It takes
        # nobody out of the line: whoever holds the queue's lock may be waiting for the watchdog,
        # where a connection is collected and rolled back.
        key = watchdog.enter(math.inf, limit, _wake, waiter)
        try:
            waiter.wait(min(patience, limit.remaining))
        finally:
            watchdog.leave(key)

    def use_place(self) -> PoolProxiedConnection:
        """Check a connection out with the place that the caller has."""
        try:
            connection = super().connect()
        except BaseException:
            self.queue.leave()
            raise
        self.queue.bind(connection.info)
        if not self._is_watched:
            self._watch()
        return connection

    def _timeout_error(self, observer: PoolObserver | None, waited: float) -> PoolTimeoutError:
        queue = self.queue
        total, waiting = queue.qsize() + queue.checked_out, queue.waiting + 1
        oldest = observer.oldest_use() if observer is not None else ""
        state = "the pool is suspended" if queue.suspended else "the pool is full"
        patience = min(waited, self.timeout())
        told = (
            f"{state}, and no connection came free within {patience:.3g} s:"
            f" total {total} of {self.capacity:g}, used {queue.checked_out},"
            f" idle {queue.qsize()}, waiting {waiting}{oldest and '; '}{oldest}"
        )
        limit = current_limit()
        if limit is not None and limit.remaining <= 0:
            return PoolLimitError(told, limit)
        return PoolTimeoutError(told, "suspended" if queue.suspended else "pool_timeout")

    def recreate(self) -> QueuePool:
        """Make an equal, empty pool.

        `Engine.dispose()` goes on with it, and so do those who wait in line for this one.
        """
        pool = super().recreate()
        if isinstance(pool, MeteredPoolMixin):
            pool.policy = pool.queue.policy = self.policy
            pool.queue.capacity = self.capacity
            pool.queue.suspended = self.queue.suspended
            pool.observer = self.observer
            if self._is_disposed:
                self.successor = pool
                self.queue.disband()
        return pool

    def dispose(self) -> None:
        """Close what lies idle now, and what is in use on its return; nothing is kept any more."""
        self._is_disposed = True
        self.queue.retire("disposed")
        super().dispose()

    def resize(self, pool_size: int, max_overflow: int = 0) -> None:
        """Change the limits of the running pool.

        Checkouts that wait are served from what is more; what is too much is closed as soon as
        nobody uses it.

        Args:
            pool_size: How many connections are kept; 0 means without limit.
            max_overflow: How many more are opened when all are in use; -1 means without limit.
        """
        self.queue.resize(pool_size, _capacity(pool_size, max_overflow))
        self._tell_of_limits()
        self.tick()

    def suspend(self) -> None:
        """Let every checkout wait, up to the pool's timeout, until `resume()`."""
        self.queue.suspend()
        self._tell_of_limits()

    def resume(self) -> None:
        """Serve those who wait, in their order."""
        self.queue.resume()
        self._tell_of_limits()

    def soft_evict(self) -> None:
        """Replace every connection: idle ones at once, those in use when they come back."""
        self.queue.evict("evicted")
        self.tick()

    def _tell_of_limits(self) -> None:
        if self.observer is not None:
            self.observer.reconfigured()

    @property
    def _min_open(self) -> float:
        # No more than are kept, or each second would open what the one before has closed.
        kept = self.size() or math.inf
        return 0 if self._is_disposed else min(self.policy.min_idle, kept, self.capacity)

    def warm_up(self) -> None:
        """Open connections until `policy.min_idle` lie idle or are in use, or no place is free.

        Raises:
            Exception: Whatever the driver raises when one cannot be opened; those before it stay.
        """
        while self.queue.enter_to_open(self._min_open):
            self._open_one()

    def _open_one(self) -> None:
        """Open a connection that nobody has asked for, with the place that the caller has."""
        try:
            record = self._create_connection()
        except BaseException:
            self.queue.leave()
            raise
        self.queue.bind(record.info)
        self._do_return_conn(record)
        if not self._is_watched:
            self._watch()

    def size(self) -> int:
        """How many connections are kept."""
        return self.queue.maxsize

    def checkedin(self) -> int:
        """How many connections lie idle."""
        return self.queue.qsize()

    def checkedout(self) -> int:
        """How many connections are in use."""
        return self.queue.checked_out

    def overflow(self) -> int:
        """How many connections are open beyond those that are kept."""
        return max(0, self.checkedin() + self.checkedout() - self.size()) if self.size() else 0

    def tick(self) -> None:
        """See to the idle connections, where one needs it; returns at once."""
        is_short = self.queue.qsize() + self.queue.checked_out < self._min_open
        if (is_short or self.queue.is_due()) and not self._maintaining.locked():
            self._start(self._maintain)

    def _maintain(self) -> None:
        if not self._maintaining.acquire(blocking=False):
            return
        try:
            with outside_limits():
                while self.queue.maintain_one():
                    pass
                if not self.queue.suspended:
                    self.warm_up()
            self._is_failing = False
        except Exception as error:  # noqa: BLE001 - whatever the driver raises
            # Once for each outage: it is tried again every second.
            if not self._is_failing:
                logger.warning("the pool cannot open the connections it should have: %s", error)
            self._is_failing = True
        finally:
            self._maintaining.release()

    def _watch(self) -> None:
        self._is_watched = True
        pool_clock.watch(self)

    def _is_alive(self, record: ConnectionPoolEntry) -> bool:
        dialect, connection = self._ping_dialect, record.dbapi_connection
        if dialect is None or connection is None:
            return True
        try:
            alive = dialect.do_ping(connection)
        except dialect.loaded_dbapi.Error as error:
            alive = False
            if isinstance(error, OutOfTime):
                # The others would keep the caller waiting just as long.
                raise
        if self.observer is not None:
            self.observer.validated(alive=alive)
        return alive

    def _new_waiter(self) -> ThreadWaiter | TaskWaiter:
        return ThreadWaiter()

    def _start(self, work: Callable[[], None]) -> None:
        """Run something in the background, where it may wait for the server."""
        # A thread of its own, for a server that hangs would hold up every other pool.
        threading.Thread(target=work, name="pool-maintenance", daemon=True).start()


class MeteredQueuePool(MeteredPoolMixin):
    """The pool of a sync engine."""


class AsyncMeteredQueuePool(MeteredPoolMixin, AsyncAdaptedQueuePool):
    """The pool of an asyncio engine."""

    _queue_class: type[FairQueue] = FairQueue
    # A connection can only be used in the loop that opened it.
    _loop: "weakref.ref[asyncio.AbstractEventLoop] | None" = None

    def _new_waiter(self) -> ThreadWaiter | TaskWaiter:
        return TaskWaiter()

    def _watch(self) -> None:
        self._loop = weakref.ref(asyncio.get_running_loop())
        super()._watch()

    def _start(self, work: Callable[[], None]) -> None:
        loop = self._loop() if self._loop is not None else None
        if loop is None or not loop.is_running():
            # The next checkout tells which loop it is now.
            self._is_watched = False
            return
        coroutine = greenlet_spawn(work)
        try:
            asyncio.run_coroutine_threadsafe(coroutine, loop)
        except RuntimeError:  # the loop ended meanwhile
            coroutine.close()


def _wake(waiter: ThreadWaiter | TaskWaiter) -> None:
    waiter.wake()


def _capacity(pool_size: int, max_overflow: int) -> float:
    return math.inf if pool_size == 0 or max_overflow < 0 else pool_size + max_overflow

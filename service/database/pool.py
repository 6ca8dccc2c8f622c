"""The pool: SQLAlchemy's QueuePool, which tells how long each checkout waited and why it failed."""

import math
import time
from contextlib import AbstractContextManager
from typing import Protocol

from sqlalchemy import exc
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool, Pool, PoolProxiedConnection, QueuePool


class CheckoutObserver(Protocol):
    """What a pool tells of each checkout."""

    def waiting(self) -> AbstractContextManager[None]:
        """Entered for as long as a checkout waits."""

    def waited(self, seconds: float) -> None:
        """A checkout ended, by a connection or by an error, after this long."""

    def timed_out(self) -> None:
        """A checkout found the pool full for as long as it was willing to wait."""


class MeteredPoolMixin(QueuePool):
    """Measures `connect()`, the only public method that every checkout passes exactly once.

    `_do_get` is no place to measure: it recurses, and reconnects happen after it.
    """

    observer: CheckoutObserver | None = None

    def connect(self) -> PoolProxiedConnection:
        """Check a connection out, waiting at most the pool's timeout.

        Raises:
            sqlalchemy.exc.TimeoutError: None came free in time.
        """
        observer = self.observer
        if observer is None:
            return super().connect()
        start = time.perf_counter()
        try:
            with observer.waiting():
                return super().connect()
        except exc.TimeoutError:
            observer.timed_out()
            raise
        finally:
            observer.waited(time.perf_counter() - start)

    def recreate(self) -> QueuePool:
        """Make an equal, empty pool; SQLAlchemy's own would lose the observer on `dispose()`."""
        pool = super().recreate()
        if isinstance(pool, MeteredPoolMixin):
            pool.observer = self.observer
        return pool


class MeteredQueuePool(MeteredPoolMixin):
    """The pool of a sync engine."""


class AsyncMeteredQueuePool(MeteredPoolMixin, AsyncAdaptedQueuePool):
    """The pool of an asyncio engine."""


def pool_limits(pool: Pool) -> tuple[float, float]:
    """How many connections a pool keeps, and how many it opens at most."""
    if isinstance(pool, NullPool):
        return 0, math.inf
    if not isinstance(pool, QueuePool):
        return 1, 1
    overflow = pool._max_overflow  # noqa: SLF001 - it has no public reader
    size = pool.size() or math.inf
    return size, math.inf if overflow < 0 else size + overflow

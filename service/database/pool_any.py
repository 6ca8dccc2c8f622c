"""What is asked of a pool that may be none of ours: an engine's owner may have chosen another."""

import math
import time

from sqlalchemy.pool import NullPool, Pool, PoolProxiedConnection, QueuePool

from service.database.pool import MeteredPoolMixin, PoolObserver


def observe_checkouts(pool: Pool, observer: PoolObserver) -> None:
    """Tell an observer of the checkouts of a pool that is none of ours.

    SQLAlchemy has no event for a checkout that begins, waits or fails. Each passes `connect()`
    once, which is public; `_do_get` recurses, and reconnects happen after it.
    """
    connect = pool.connect

    def observed() -> PoolProxiedConnection:
        start = time.perf_counter()
        observer.waiting(1)
        try:
            connection = connect()
        except BaseException as error:
            observer.failed(time.perf_counter() - start, error)
            raise
        finally:
            observer.waiting(-1)
        observer.waited(time.perf_counter() - start)
        return connection

    pool.connect = observed  # type: ignore[method-assign] # of this one pool only


def pool_limits(pool: Pool) -> tuple[float, float]:
    """How many connections a pool keeps, and how many it opens at most."""
    if isinstance(pool, MeteredPoolMixin):
        return pool.size() or math.inf, pool.capacity
    if isinstance(pool, NullPool):
        return 0, math.inf
    if not isinstance(pool, QueuePool):
        return 1, 1
    overflow = pool._max_overflow  # noqa: SLF001 - it has no public reader
    size = pool.size() or math.inf
    return size, math.inf if overflow < 0 else size + overflow

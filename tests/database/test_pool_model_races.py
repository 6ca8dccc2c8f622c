"""Two things at once: what a random sequence of steps meets too seldom."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from service.database.pool import MeteredQueuePool
from service.database.pool_waiters import ThreadWaiter
from tests.database.conftest import MakePool
from tests.database.pools import pool_of
from tests.support.polling import eventually

pytestmark = pytest.mark.usefixtures("manual_clock")


def let_tick(pool: MeteredQueuePool) -> None:
    """What the clock does every second, and what follows from it."""
    pool.tick()
    for thread in threading.enumerate():
        if thread.name == "pool-maintenance":
            thread.join(10)


def test_waiter_that_is_faster_than_the_dispose_is_counted(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new pool serves those who waited before the engine knows of it."""
    pool = make_pool(pool_size=1, max_overflow=0)
    served: list[PoolProxiedConnection] = []
    recreate = MeteredQueuePool.recreate

    def recreate_slowly(former: MeteredQueuePool) -> Any:
        successor = recreate(former)
        waiter.join(10)
        return successor

    out = pool.engine.raw_connection()
    waiter = threading.Thread(target=lambda: served.append(pool.engine.raw_connection()))
    waiter.start()
    eventually(lambda: pool_of(pool).queue.waiting == 1)
    monkeypatch.setattr(MeteredQueuePool, "recreate", recreate_slowly)
    pool.engine.dispose()
    pool.assert_true(used=1, idle=0, elsewhere=1)
    out.close()
    pool.assert_true(used=1, idle=0)
    served.pop().close()
    pool.assert_true(used=0, idle=1)


def test_disposed_pool_opens_nothing_any_more(make_pool: MakePool) -> None:
    """Its clock ticks for as long as one of its connections is out."""
    pool = make_pool(pool_size=2, pool_min_idle=2)
    out = pool.engine.raw_connection()
    former = pool_of(pool)
    pool.engine.dispose()
    let_tick(former)
    pool.assert_true(used=0, idle=0, elsewhere=1)
    out.close()
    pool.assert_true(used=0, idle=0)


def test_disposed_pool_keeps_nothing_that_was_opened_late(make_pool: MakePool) -> None:
    """Whoever asked the engine for its pool a moment before still uses that one."""
    pool = make_pool()
    former = pool_of(pool)
    pool.engine.dispose()
    former.connect().close()
    assert former.checkedin() == 0
    pool.assert_true(used=0, idle=0)
    assert pool.closed("disposed") == 1


def _during_the_ping(former: MeteredQueuePool, work: Callable[[], None]) -> None:
    validate = former.queue.validate

    def answer(record: ConnectionPoolEntry) -> bool:
        work()
        return validate(record)

    former.queue.validate = answer


def test_connection_that_is_asked_over_a_dispose_is_closed(make_pool: MakePool) -> None:
    pool = make_pool(pool_keepalive=60)
    connection = pool.engine.raw_connection()
    details: Any = connection.info["tidegate.connection"]
    connection.close()
    details.heard_at -= 61
    former = pool_of(pool)
    _during_the_ping(former, pool.engine.dispose)
    assert former.queue.maintain_one()
    assert former.checkedin() == 0
    pool.assert_true(used=0, idle=0)
    assert pool.closed("disposed") == 1


def test_connection_that_is_opened_anew_while_others_are_looked_at_is_not_due(
    make_pool: MakePool,
) -> None:
    """SQLAlchemy clears what is known of it first."""
    pool = make_pool()
    pool.engine.raw_connection().close()
    queue: Any = pool_of(pool).queue
    (record,) = queue._idle  # noqa: SLF001 - what another thread is about to take
    known = dict(record.info)
    record.info.clear()
    assert not queue.is_due()
    assert not queue.maintain_one()
    record.info.update(known)


class CollectingDeque(deque[Any]):
    """A deque in which the garbage collector gives a connection back once, as it may anywhere."""

    def __init__(self, entries: Iterable[Any], out: PoolProxiedConnection) -> None:
        super().__init__(entries)
        self._out: PoolProxiedConnection | None = out

    def _collect(self) -> None:
        out, self._out = self._out, None
        if out is not None:
            out.close()

    def remove(self, value: Any) -> None:
        self._collect()
        super().remove(value)

    def __iter__(self) -> Iterator[Any]:
        self._collect()
        return super().__iter__()


def test_connection_that_is_collected_where_a_waiter_comes_too_late_gives_its_place_back(
    make_pool: MakePool,
) -> None:
    pool = make_pool()
    queue: Any = pool_of(pool).queue
    out = pool.engine.raw_connection()
    queue._waiters = CollectingDeque((), out)  # noqa: SLF001 - to be in the midst of it
    assert queue.abandon(ThreadWaiter())
    pool.assert_true(used=0, idle=1)


def test_connection_that_is_collected_where_no_other_is_due_gives_its_place_back(
    make_pool: MakePool,
) -> None:
    pool = make_pool()
    queue: Any = pool_of(pool).queue
    out, other = pool.engine.raw_connection(), pool.engine.raw_connection()
    other.close()
    queue._idle = CollectingDeque(queue._idle, out)  # noqa: SLF001 - as above
    assert not queue.maintain_one()
    pool.assert_true(used=0, idle=2)

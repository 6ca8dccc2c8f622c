"""The pool's own rules: who is served next, what becomes of connections, what can be changed."""

import asyncio
import logging
import re
import threading
import time
from typing import Any

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from service.database import (
    DatabaseSettings,
    create_async_db_engine,
    instrument,
    pool_snapshot,
    route_source,
)
from service.database.pool import PoolTimeoutError
from service.database.pool_events import follower_of
from service.database.pool_queue import FairQueue
from service.database.pool_waiters import TaskWaiter
from tests.database.conftest import MakePool
from tests.database.pools import PoolMetrics, WatchedPool, pool_of
from tests.support.polling import eventually

pytestmark = pytest.mark.usefixtures("manual_clock")


def tick(pool: WatchedPool) -> None:
    """What the clock does every second."""
    follower = follower_of(pool.engine)
    assert follower is not None
    follower.tick()
    pool_of(pool).tick()


def used_once(pool: WatchedPool, count: int = 1) -> list[Any]:
    """Let so many connections lie idle.

    Returns:
        What the pool knows of each.
    """
    held = [pool.engine.connect() for _ in range(count)]
    details = [connection.info["tidegate.connection"] for connection in held]
    for connection in held:
        connection.close()
    return details


def age(details: Any, seconds: float) -> None:
    """Let a connection be so much older."""
    details.expires_at -= seconds
    details.used_at -= seconds
    details.heard_at -= seconds


class Line:
    """Threads that wait for a connection one after the other, and the order they got it in."""

    def __init__(self, pool: WatchedPool) -> None:
        self.served: list[int] = []
        self._pool = pool
        self._threads: list[threading.Thread] = []

    def join(self, count: int) -> None:
        for number in range(count):
            thread = threading.Thread(target=self._serve, args=(number,))
            self._threads.append(thread)
            thread.start()
            eventually(lambda: pool_of(self._pool).queue.waiting == len(self._threads))

    def end(self) -> None:
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive()

    def _serve(self, number: int) -> None:
        with self._pool.engine.connect():
            self.served.append(number)


# The line.


def test_waiting_threads_are_served_in_their_order(make_pool: MakePool) -> None:
    pool = make_pool(pool_size=1, max_overflow=0)
    line = Line(pool)
    with pool.engine.connect():
        line.join(8)
    line.end()
    assert line.served == [*range(8)]


def test_newcomer_does_not_overtake_a_task_that_waits(kit_url: str, pool_name: str) -> None:
    settings = DatabaseSettings(url=kit_url, pool_size=1, max_overflow=0)
    engine = create_async_db_engine(settings=settings, pool_name=pool_name)
    served: list[str] = []

    async def serve(name: str) -> None:
        async with engine.connect():
            served.append(name)

    async def run() -> None:
        async with engine.connect():
            waiting = [asyncio.create_task(serve(f"waiter {number}")) for number in range(3)]
            while pool_snapshot(engine).oldest_wait == 0:
                await asyncio.sleep(0)
        # The connection came back in this step of the loop, and no waiter has run yet.
        newcomer = asyncio.create_task(serve("newcomer"))
        await asyncio.gather(*waiting, newcomer)
        await engine.dispose()

    asyncio.run(run())
    assert served == ["waiter 0", "waiter 1", "waiter 2", "newcomer"]


def test_task_whose_loop_has_ended_takes_no_place_and_gives_none_back() -> None:
    async def make_waiter() -> TaskWaiter:
        return TaskWaiter()

    queue = FairQueue(1)
    assert queue.try_enter()
    with asyncio.Runner() as runner:
        waiter = runner.run(make_waiter())
    queue.line_up(waiter)
    queue.leave()
    # As whoever waits does when it is interrupted.
    if queue.abandon(waiter) and waiter.has_place:
        queue.leave()
    assert queue.try_enter()
    assert not queue.try_enter()


def test_timeout_tells_who_has_the_connections(make_pool: MakePool) -> None:
    pool = make_pool(pool_size=2, max_overflow=0, pool_timeout=0.01)
    token = route_source.set(lambda: "/reports/{year}")
    with pool.engine.connect():
        route_source.reset(token)
        with pool.engine.connect(), pytest.raises(PoolTimeoutError) as refused:
            pool.engine.connect()
    assert re.search(
        r"the pool is full, and no connection came free within 0\.01 s: total 2 of 2, used 2,"
        r" idle 0, waiting 1; the oldest is out for \d\.\d s for /reports/\{year\}",
        str(refused.value),
    )


# What becomes of connections.


def test_connection_that_was_used_a_moment_ago_is_not_asked(make_pool: MakePool) -> None:
    pool = make_pool(pool_validation_bypass=60)
    for _ in range(3):
        pool.engine.connect().close()
    assert pool.value("validations_total", outcome="alive") == 0


def test_connection_that_was_long_unheard_is_asked_before_it_is_used(make_pool: MakePool) -> None:
    pool = make_pool(pool_validation_bypass=60)
    (details,) = used_once(pool)
    age(details, 61)
    pool.engine.connect().close()
    assert pool.value("validations_total", outcome="alive") == 1
    assert pool.created == 1


def test_dead_connection_makes_the_others_suspect(make_pool: MakePool) -> None:
    pool = make_pool(pool_validation_bypass=60)
    _, first_out = used_once(pool, 2)
    pool.end_sessions()
    age(first_out, 61)
    with pool.engine.connect() as connection:
        connection.exec_driver_sql("SELECT 1")
    assert pool.value("validations_total", outcome="dead") == 2
    assert pool.closed("validation") == 2


def test_idle_connection_is_kept_alive(make_pool: MakePool) -> None:
    pool = make_pool(pool_keepalive=60)
    (details,) = used_once(pool)
    tick(pool)
    age(details, 61)
    tick(pool)
    eventually(lambda: pool.value("validations_total", outcome="alive") == 1)
    pool.assert_true(used=0, idle=1)
    assert pool.created == 1


def test_idle_connection_that_is_dead_is_closed_before_anybody_takes_it(
    make_pool: MakePool,
) -> None:
    pool = make_pool(pool_keepalive=60)
    (details,) = used_once(pool)
    pool.end_sessions()
    age(details, 61)
    tick(pool)
    eventually(lambda: pool.closed("keepalive") == 1)
    pool.assert_true(used=0, idle=0)


def test_connection_that_nobody_needs_is_closed_down_to_the_minimum(make_pool: MakePool) -> None:
    pool = make_pool(pool_min_idle=1, pool_idle_timeout=60, pool_keepalive=0)
    for details in used_once(pool, 2):
        details.used_at -= 61
    tick(pool)
    eventually(lambda: pool.closed("idle_timeout") == 1)
    pool.assert_true(used=0, idle=1)
    tick(pool)
    pool.assert_true(used=0, idle=1)


def test_idle_connection_past_its_lifetime_is_closed(make_pool: MakePool) -> None:
    pool = make_pool(pool_max_lifetime=60)
    (details,) = used_once(pool)
    age(details, 61)
    tick(pool)
    eventually(lambda: pool.closed("max_lifetime") == 1)
    pool.assert_true(used=0, idle=0)


def test_lifetimes_differ_so_that_connections_do_not_expire_together(make_pool: MakePool) -> None:
    pool = make_pool(pool_size=5, pool_max_lifetime=1000)
    before = time.monotonic()
    ends = [details.expires_at - before for details in used_once(pool, 5)]
    assert len(set(ends)) == 5
    assert max(ends) - min(ends) > 0.01
    assert all(975 <= end <= 1001 for end in ends)


def test_warm_up_opens_the_minimum(make_pool: MakePool) -> None:
    pool = make_pool(pool_size=4, pool_min_idle=3)
    pool_of(pool).warm_up()
    pool.assert_true(used=0, idle=3)
    pool_of(pool).warm_up()
    assert pool.created == 3


def test_idle_connections_serve_on_while_the_missing_one_is_opened(make_pool: MakePool) -> None:
    pool = make_pool(pool_size=3, max_overflow=0, pool_min_idle=3)
    used_once(pool, 2)
    is_opening, may_open = threading.Event(), threading.Event()

    @event.listens_for(pool.engine, "do_connect")
    def open_slowly(*_: object) -> None:
        is_opening.set()
        assert may_open.wait(30)

    opener = threading.Thread(target=pool_of(pool).warm_up)
    opener.start()
    try:
        assert is_opening.wait(30)
        # As the clock may at the same time: what is being opened is missing no more.
        pool_of(pool).warm_up()
        for connection in [pool.engine.connect() for _ in range(2)]:
            connection.close()
    finally:
        may_open.set()
        opener.join(30)
    pool.assert_true(used=0, idle=3)
    # Nobody waited for the third one, and nobody used it.
    assert (pool.created, pool.waits, pool.uses) == (3, 4, 4)


def test_pool_returns_to_its_minimum_by_itself(make_pool: MakePool) -> None:
    pool = make_pool(pool_size=4, pool_min_idle=2)
    pool.engine.connect().invalidate()
    tick(pool)
    eventually(lambda: pool.idle == 2)
    pool.assert_true(used=0, idle=2)


# Changes at run time.


def test_larger_pool_serves_those_who_wait(make_pool: MakePool) -> None:
    pool = make_pool(pool_size=1, max_overflow=0)
    line = Line(pool)
    with pool.engine.connect():
        line.join(2)
        pool_of(pool).resize(2, 1)
        line.end()
    assert sorted(line.served) == [0, 1]
    assert (pool.value("max"), pool.value("idle_max")) == (3, 2)


def test_smaller_pool_sheds_what_is_too_much(make_pool: MakePool) -> None:
    pool = make_pool(pool_size=4, max_overflow=0, pool_timeout=0.01)
    with pool.engine.connect(), pool.engine.connect():
        with pool.engine.connect(), pool.engine.connect():
            pass
        pool_of(pool).resize(1)
        eventually(lambda: pool.idle == 0)
        pool.assert_true(used=2, idle=0)
        with pytest.raises(PoolTimeoutError, match="total 2 of 1"):
            pool.engine.connect()
    pool.assert_true(used=0, idle=1)


def test_new_limits_outlive_a_dispose(make_pool: MakePool) -> None:
    pool = make_pool(pool_size=4, max_overflow=0)
    pool_of(pool).resize(2, 1)
    pool.engine.dispose()
    assert (pool_of(pool).size(), pool_of(pool).capacity) == (2, 3)


def test_suspended_pool_serves_nobody_until_it_is_resumed(make_pool: MakePool) -> None:
    pool = make_pool(pool_timeout=0.01)
    pool_of(pool).suspend()
    with pytest.raises(PoolTimeoutError, match="the pool is suspended"):
        pool.engine.connect()
    assert pool.value("checkout_failures_total", reason="suspended") == 1
    pool_of(pool).resume()
    pool.engine.connect().close()


def test_those_who_waited_for_a_suspended_pool_are_served_in_their_order(
    make_pool: MakePool,
) -> None:
    pool = make_pool(pool_size=1, max_overflow=0)
    pool_of(pool).suspend()
    line = Line(pool)
    line.join(4)
    pool_of(pool).resume()
    line.end()
    assert line.served == [*range(4)]


def test_evicted_connections_are_replaced_as_soon_as_nobody_uses_them(
    make_pool: MakePool,
) -> None:
    pool = make_pool(pool_size=3)
    with pool.engine.connect():
        with pool.engine.connect(), pool.engine.connect():
            pass
        before = pool.sessions()
        pool_of(pool).soft_evict()
        eventually(lambda: pool.closed("evicted") == 2)
        pool.assert_true(used=1, idle=0)
    assert pool.closed("evicted") == 3
    with pool.engine.connect():
        assert not before & pool.sessions()


# Leaks.


def leak(make_pool: MakePool) -> WatchedPool:
    """A pool that takes a connection for leaked after a moment."""
    return make_pool(leak_threshold=0.01)


def log_of(caplog: pytest.LogCaptureFixture, text: str) -> str:
    """The one record of the pool that contains a text."""
    (found,) = [record.getMessage() for record in caplog.records if text in record.getMessage()]
    return found


def test_leak_is_told_once_with_the_code_that_took_it(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    pool = leak(make_pool)
    token = route_source.set(lambda: "/leaky")
    with caplog.at_level(logging.WARNING), pool.engine.connect():
        route_source.reset(token)
        eventually(lambda: pool_snapshot(pool.engine).holders[0].age > 0.01)
        tick(pool)
        tick(pool)
        assert pool.value("leaked") == 1
        assert pool.value("leaks_total") == 1
        assert pool.value("oldest_use_seconds") >= 0.01
        assert pool_snapshot(pool.engine).holders[0].is_leaked
        text = log_of(caplog, "taken for leaked")
    assert "for /leaky" in text
    assert "in test_leak_is_told_once_with_the_code_that_took_it" in text


def test_leak_that_comes_back_after_all_is_told(
    make_pool: MakePool, caplog: pytest.LogCaptureFixture
) -> None:
    pool = leak(make_pool)
    with caplog.at_level(logging.WARNING), pool.engine.connect():
        eventually(lambda: pool_snapshot(pool.engine).holders[0].age > 0.01)
        tick(pool)
    assert pool.value("leaked") == 0
    assert pool.value("leaks_returned_total") == 1
    assert log_of(caplog, "came back after all")


def test_leak_of_a_stock_pool_is_told_too(stock_url: str, pool_name: str) -> None:
    engine = create_engine(stock_url)
    instrument(engine, pool_name=pool_name, leak_threshold=0.01)
    follower = follower_of(engine)
    assert follower is not None
    with engine.connect():
        eventually(lambda: follower.ledger.holders()[0].age > 0.01)
        follower.tick()
        assert PoolMetrics(pool_name).value("leaked") == 1
    engine.dispose()


# Watching itself.


def test_gauge_that_disagrees_with_the_pool_is_counted_and_mended(make_pool: MakePool) -> None:
    pool = make_pool()
    records: list[ConnectionPoolEntry] = []
    event.listen(pool.engine, "checkin", lambda _connection, record: records.append(record))
    used_once(pool)
    # An event too many.
    pool.engine.pool.dispatch.checkout(records[0].dbapi_connection, records[0], None)
    assert pool.used == 1
    tick(pool)
    assert pool.value("drifts_total") == 0
    tick(pool)
    assert pool.value("drifts_total") == 1
    pool.assert_true(used=0, idle=1)


def test_wait_for_a_stock_pool_is_measured(stock_url: str, pool_name: str) -> None:
    engine = create_engine(stock_url, pool_size=1, max_overflow=0, pool_timeout=0.05)
    instrument(engine, pool_name=pool_name)
    metrics = PoolMetrics(pool_name)
    assert isinstance(engine.pool, QueuePool)
    with engine.connect(), pytest.raises(Exception, match="QueuePool limit"):
        engine.connect()
    assert metrics.waits == 2
    assert metrics.value("wait_time_seconds_sum") >= 0.05
    assert metrics.timeouts == 1
    assert metrics.value("checkout_failures_total", reason="pool_timeout") == 1
    engine.dispose()

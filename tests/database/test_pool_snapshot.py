"""A snapshot tells what a pool looks like, and who has its connections."""

import asyncio
import threading
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from service.database import (
    DatabaseSettings,
    UnknownPoolError,
    create_async_db_engine,
    create_db_engine,
    instrument,
    operable_pool,
    pool_snapshot,
    pool_snapshots,
    route_source,
)
from tests.database.conftest import MakePool
from tests.support.polling import eventually


def test_snapshot_tells_counts_and_limits(make_pool: MakePool) -> None:
    pool = make_pool(pool_size=2, max_overflow=1)
    with pool.engine.connect(), pool.engine.connect():
        pass
    with pool.engine.connect():
        snapshot = pool_snapshot(pool.engine)
    assert (snapshot.pool_name, snapshot.used, snapshot.idle) == (pool.pool_name, 1, 1)
    assert (snapshot.max, snapshot.idle_max) == (3, 2)
    assert (snapshot.pending, snapshot.oldest_wait, snapshot.is_suspended) == (0, 0, False)


def test_snapshot_names_the_holders_oldest_first(make_pool: MakePool) -> None:
    pool = make_pool()
    token = route_source.set(lambda: "/slow")
    first = pool.engine.connect()
    route_source.reset(token)
    with first, pool.engine.connect():
        holders = pool_snapshot(pool.engine).holders
    assert [holder.route for holder in holders] == ["/slow", ""]
    assert holders[0].age >= holders[1].age > 0
    assert holders[0].stack == ()


def test_snapshot_tells_the_code_that_took_a_connection_when_asked(make_pool: MakePool) -> None:
    pool = make_pool()
    with pool.engine.connect():
        (holder,) = pool_snapshot(pool.engine, stacks=True).holders
    here = f"{Path(__file__)}:"
    assert holder.stack[0].startswith(here)
    assert holder.stack[0].endswith(
        "in test_snapshot_tells_the_code_that_took_a_connection_when_asked"
    )


def test_snapshot_tells_who_waits(make_pool: MakePool) -> None:
    pool = make_pool(pool_size=1, max_overflow=0)

    def wait() -> None:
        route_source.set(lambda: "/waits")
        pool.engine.connect().close()

    with pool.engine.connect():
        thread = threading.Thread(target=wait)
        thread.start()
        eventually(lambda: pool_snapshot(pool.engine).pending == 1)
        eventually(lambda: pool_snapshot(pool.engine).oldest_wait > 0.01)
        (waiter,) = pool_snapshot(pool.engine).waiters
        assert waiter.route == "/waits"
        assert waiter.age > 0.01
    thread.join()
    assert pool_snapshot(pool.engine).pending == 0


def test_connection_of_a_former_pool_is_a_holder_and_not_used(make_pool: MakePool) -> None:
    pool = make_pool()
    with pool.engine.connect():
        pool.engine.dispose()
        snapshot = pool_snapshot(pool.engine)
    assert (snapshot.used, len(snapshot.holders)) == (0, 1)


def test_suspended_pool_tells_so(make_pool: MakePool) -> None:
    pool = make_pool()
    operated = operable_pool(pool.pool_name)
    assert operated is pool.engine.pool
    operated.suspend()
    assert pool_snapshot(pool.engine).is_suspended
    assert pool.value("suspended") == 1
    operated.resume()
    assert not pool_snapshot(pool.engine).is_suspended
    assert pool.value("suspended") == 0


def test_suspended_pool_stays_so_over_dispose(make_pool: MakePool) -> None:
    pool = make_pool()
    operable_pool(pool.pool_name).suspend()
    pool.engine.dispose()
    assert pool.value("suspended") == 1
    assert operable_pool(pool.pool_name) is pool.engine.pool


def test_every_pool_of_the_process_is_found_by_its_name(make_pool: MakePool) -> None:
    pool = make_pool()
    assert pool.pool_name in [snapshot.pool_name for snapshot in pool_snapshots()]
    with pytest.raises(UnknownPoolError, match=f"nope: there is no such pool; .*{pool.pool_name}"):
        operable_pool("nope")
    engine = create_db_engine("sqlite:///:memory:", pool_name=f"{pool.pool_name}_fixed")
    with pytest.raises(UnknownPoolError, match="one fixed connection"):
        operable_pool(f"{pool.pool_name}_fixed")
    engine.dispose()


def test_snapshot_of_an_asyncio_engine_tells_the_tasks_code(kit_url: str, pool_name: str) -> None:
    engine = create_async_db_engine(settings=DatabaseSettings(url=kit_url), pool_name=pool_name)

    async def look() -> None:
        async with engine.connect():
            (holder,) = pool_snapshot(engine, stacks=True).holders
        assert any(line.endswith(".look") for line in holder.stack)
        await engine.dispose()

    asyncio.run(look())


def test_stock_engine_has_a_snapshot_once_it_is_instrumented(
    stock_url: str, pool_name: str
) -> None:
    engine = create_engine(stock_url, poolclass=NullPool)
    with pytest.raises(ValueError, match="call instrument"):
        pool_snapshot(engine)
    instrument(engine, pool_name=pool_name, leak_threshold=60)
    with engine.connect():
        snapshot = pool_snapshot(engine, stacks=True)
    assert (snapshot.used, snapshot.max, snapshot.idle_max) == (1, None, 0)
    assert Path(__file__).name in snapshot.holders[0].stack[0]

"""Sessions: what is committed, what is rolled back, and what a read costs."""

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, contextmanager

import anyio
import pytest
from sqlalchemy import event, func, insert, select, text

from service.database import (
    AsyncSessionLocal,
    ReadOnlySessionError,
    SessionLocal,
    get_async_db,
    get_db,
    get_db_context,
    process,
    read_session,
    write_session,
)
from service.product_catalog.models import Product
from tests.product_catalog.support import rope

pytestmark = pytest.mark.usefixtures("configured")


def count() -> int:
    with read_session() as session:
        return session.scalars(select(func.count()).select_from(Product)).one()


def checked_out() -> int:
    return process.engine.pool.checkedout()  # type: ignore[attr-defined, no-any-return]


def test_sessions_neither_flush_by_themselves_nor_expire() -> None:
    with SessionLocal() as session:
        assert session.autoflush is False
        row = rope()
        session.add(row)
        assert session.scalars(select(func.count()).select_from(Product)).one() == 0
        session.commit()
        assert row.__dict__["name"] == "Rope"


def test_get_db_closes_and_commits_nothing() -> None:
    generator = get_db()
    session = next(generator)
    session.add(rope())
    session.flush()
    assert checked_out() == 1
    with pytest.raises(StopIteration):
        next(generator)
    assert (checked_out(), count()) == (0, 0)


def test_get_db_closes_on_an_exception() -> None:
    opened = contextmanager(get_db)()
    session = opened.__enter__()
    session.execute(text("SELECT 1"))
    assert opened.__exit__(ZeroDivisionError, ZeroDivisionError(), None) is False
    assert checked_out() == 0


def test_get_db_context_leaves_the_commit_to_its_caller() -> None:
    with get_db_context() as session:
        session.add(rope())
        session.commit()
    with get_db_context() as session:
        session.add(rope("OTHER"))
        session.flush()
    assert (count(), checked_out()) == (1, 0)


def test_get_db_context_rolls_back_on_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), get_db_context() as session:
        session.add(rope())
        session.flush()
        raise ZeroDivisionError
    assert (count(), checked_out()) == (0, 0)


def test_write_session_commits_at_the_end() -> None:
    with write_session() as session:
        session.add(rope())
    assert count() == 1


def test_write_session_rolls_back_on_an_exception() -> None:
    with pytest.raises(ZeroDivisionError), write_session() as session:
        session.add(rope())
        session.flush()
        raise ZeroDivisionError
    assert (count(), checked_out()) == (0, 0)


def test_read_session_reads() -> None:
    with write_session() as session:
        session.add(rope())
    with read_session() as session:
        assert session.scalars(select(Product.code)).all() == ["ROPE"]


def test_read_session_refuses_new_changed_and_deleted_rows() -> None:
    with write_session() as session:
        session.add(rope())
    with read_session() as session:
        session.add(rope("NEW"))
        with pytest.raises(ReadOnlySessionError):
            session.flush()
    with read_session() as session:
        session.scalars(select(Product)).one().name = "Changed"
        with pytest.raises(ReadOnlySessionError):
            session.commit()
    with read_session() as session:
        session.delete(session.scalars(select(Product)).one())
        with pytest.raises(ReadOnlySessionError):
            session.flush()
    with read_session() as session:
        assert session.scalars(select(Product.name)).all() == ["Rope"]


def test_read_session_refuses_statements_that_write() -> None:
    values = {"code": "A", "name": "B", "price": 1}
    with read_session() as session, pytest.raises(ReadOnlySessionError):
        session.execute(insert(Product).values(values))
    assert count() == 0


def test_read_session_refuses_rows_in_bulk() -> None:
    values = {"code": "A", "name": "B", "price": 1}
    for write in (
        lambda session: session.bulk_insert_mappings(Product, [values]),
        lambda session: session.bulk_update_mappings(Product, [{"id": 1, **values}]),
        lambda session: session.bulk_save_objects([rope()]),
    ):
        with read_session() as session, pytest.raises(ReadOnlySessionError):
            write(session)  # type: ignore[no-untyped-call]
    assert count() == 0


def test_read_session_takes_an_attribute_that_was_set_to_what_it_was() -> None:
    with write_session() as session:
        session.add(rope())
    with read_session() as session:
        row = session.scalars(select(Product)).one()
        row.name = str(row.name)
        session.commit()
    with read_session() as session:
        assert session.scalars(select(Product.version)).one() == 1


def test_savepoint_undoes_what_is_within_it() -> None:
    with write_session() as session:
        session.add(rope("KEPT"))
        session.flush()
        with pytest.raises(ZeroDivisionError), session.begin_nested():
            session.add(rope("UNDONE"))
            session.flush()
            raise ZeroDivisionError
    with read_session() as session:
        assert session.scalars(select(Product.code)).all() == ["KEPT"]


def test_asyncio_session_commits_nothing_by_itself_and_is_closed() -> None:
    async def scenario() -> None:
        generator = get_async_db()
        session = await anext(generator)
        session.add(rope())
        await session.flush()
        assert not session.sync_session.autoflush
        with pytest.raises(StopAsyncIteration):
            await anext(generator)
        async with AsyncSessionLocal() as another:
            counted = await another.scalars(select(func.count()).select_from(Product))
            assert counted.one() == 0
            another.add(rope())
            await another.commit()
        await process.async_engine.dispose()

    anyio.run(scenario)
    assert count() == 1


def test_asyncio_session_is_closed_on_an_exception_and_on_cancellation() -> None:
    async def use(work: Callable[[], Awaitable[object]]) -> None:
        async with asynccontextmanager(get_async_db)() as session:
            await session.execute(text("SELECT 1"))
            await work()

    async def fail() -> None:
        raise ZeroDivisionError

    async def scenario() -> None:
        pool = process.async_engine.pool
        with pytest.raises(ZeroDivisionError):
            await use(fail)
        assert pool.checkedout() == 0  # type: ignore[attr-defined]
        with anyio.move_on_after(0.2) as deadline:
            await use(anyio.sleep_forever)
        assert deadline.cancelled_caught
        assert pool.checkedout() == 0  # type: ignore[attr-defined]
        await process.async_engine.dispose()

    anyio.run(scenario)


def test_each_session_of_a_request_is_its_own() -> None:
    opened: list[object] = []
    event.listen(process.engine, "checkout", lambda *arguments: opened.append(arguments))
    for _ in range(2):
        for session in get_db():
            session.execute(text("SELECT 1"))
    assert len(opened) == 2

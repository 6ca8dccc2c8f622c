"""The garbage collector of a process that serves."""

import asyncio
import gc
import threading
import weakref
from functools import partial
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from service import app
from service.database import DatabaseSettings, create_db_engine
from service.web.garbage import collect_now_and_then, spared_collector
from tests.support.application import application
from tests.support.collector import without_collector
from tests.support.polling import eventually, until


def test_connection_that_was_forgotten_in_a_cycle_comes_back(sqlite_url: str) -> None:
    """Hardly anything else makes the collector look while a process serves."""
    settings = DatabaseSettings(url=sqlite_url, pool_size=1, max_overflow=0)
    engine = create_db_engine(settings=settings)

    async def scenario() -> None:
        task = asyncio.create_task(collect_now_and_then(0.01))
        try:
            await until(lambda: _used(engine) == 0)
        finally:
            task.cancel()

    with without_collector():
        cycle: list[Any] = [engine.raw_connection()]
        cycle.append(cycle)
        del cycle
        assert _used(engine) == 1
        asyncio.run(scenario())
    engine.dispose()


def _used(engine: Engine) -> int:
    return engine.pool.checkedout()  # type: ignore[attr-defined,no-any-return] # a QueuePool has it


def test_collector_is_as_it_was_when_the_process_serves_no_more() -> None:
    before = gc.get_threshold(), gc.get_freeze_count()
    with pytest.raises(RuntimeError), spared_collector():
        assert gc.get_threshold()[0] > before[0][0]
        assert gc.get_freeze_count() > before[1]
        raise RuntimeError
    assert (gc.get_threshold(), gc.get_freeze_count()) == before


def test_application_collects_by_the_clock(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "collect_now_and_then", partial(collect_now_and_then, 0.01))
    with application(sqlite_url), without_collector():
        cycle: list[Any] = [threading.local()]
        cycle.append(cycle)
        gone = weakref.ref(cycle[0])
        del cycle
        eventually(lambda: gone() is None)

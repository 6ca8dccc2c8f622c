"""Two things at once: what a random sequence of steps meets too seldom."""

import threading
from typing import Any

import pytest
from sqlalchemy.pool import PoolProxiedConnection

from service.database.pool import MeteredQueuePool
from tests.database.conftest import MakePool
from tests.database.pools import WatchedPool
from tests.support.polling import eventually


def pool_of(pool: WatchedPool) -> MeteredQueuePool:
    assert isinstance(pool.engine.pool, MeteredQueuePool)
    return pool.engine.pool


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

"""Whatever is done to a pool, in whatever order, its metrics agree with the truth."""

from functools import partial
from typing import Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import exc
from sqlalchemy.pool import Pool, PoolProxiedConnection

from service.database import DatabaseSettings, create_db_engine
from tests.database.pools import ServerView, WatchedPool
from tests.support.databases import worker_name

POOL_SIZE: Final = 2
MAX_OVERFLOW: Final = 2
_CLOSE_REASONS: Final = ("released", "recycled", "invalidated", "error", "detached", "disposed")
_choice = st.integers(min_value=0, max_value=100)


class PoolMachine(RuleBasedStateMachine):
    """A pool, what is out of it, and what the metrics must say."""

    def __init__(self, url: str, server: ServerView) -> None:
        super().__init__()
        name = f"model-{worker_name()}"
        engine = create_db_engine(
            f"{url}?application_name={name}",
            settings=DatabaseSettings(
                url=url, pool_size=POOL_SIZE, max_overflow=MAX_OVERFLOW, pool_timeout=0.001
            ),
            pool_name=name,
        )
        self.pool = WatchedPool(name, engine, server)
        self.engine = engine
        self.out: list[tuple[PoolProxiedConnection, Pool]] = []
        self.detached: list[PoolProxiedConnection] = []
        self.checkouts = 0
        self.timeouts = 0
        self.before = self.counters()

    def counters(self) -> dict[str, float]:
        """What only ever grows; the examples before this one had the same name."""
        pool = self.pool
        return {
            "created": pool.created,
            "closed": sum(map(pool.closed, _CLOSE_REASONS)),
            "uses": pool.uses,
            "waits": pool.waits,
            "timeouts": pool.timeouts,
        }

    @property
    def ours(self) -> int:
        """How many connections of the present pool are out."""
        return sum(pool is self.engine.pool for _, pool in self.out)

    def take(self, choice: int) -> tuple[PoolProxiedConnection, Pool]:
        """One of the connections that are out, which is then out no more."""
        return self.out.pop(choice % len(self.out))

    def close_former(self, pool: Pool) -> None:
        """Close what a pool holds that nobody asks again, as the garbage collector would."""
        if pool is not self.engine.pool:
            pool.dispose()

    @rule()
    def checkout(self) -> None:
        if self.ours == POOL_SIZE + MAX_OVERFLOW:
            with pytest.raises(exc.TimeoutError):
                self.engine.raw_connection()
            self.timeouts += 1
            return
        self.out.append((self.engine.raw_connection(), self.engine.pool))
        self.checkouts += 1

    @precondition(lambda self: self.out)
    @rule(choice=_choice)
    def checkin(self, choice: int) -> None:
        connection, pool = self.take(choice)
        connection.close()
        self.close_former(pool)

    @precondition(lambda self: self.out)
    @rule(choice=_choice)
    def invalidate(self, choice: int) -> None:
        connection, pool = self.take(choice)
        connection.invalidate()
        self.close_former(pool)

    @precondition(lambda self: self.out)
    @rule(choice=_choice)
    def invalidate_softly(self, choice: int) -> None:
        self.out[choice % len(self.out)][0].invalidate(soft=True)

    @precondition(lambda self: self.out)
    @rule(choice=_choice)
    def detach(self, choice: int) -> None:
        connection, pool = self.take(choice)
        connection.detach()
        self.detached.append(connection)
        self.close_former(pool)

    @precondition(lambda self: self.detached)
    @rule()
    def close_detached(self) -> None:
        self.detached.pop().close()

    @precondition(lambda self: self.out)
    @rule(choice=_choice)
    def forget(self, choice: int) -> None:
        """Drop the last reference: the garbage collector's part begins."""
        connection, pool = self.take(choice)
        del connection
        self.close_former(pool)

    @rule(close=st.booleans())
    def dispose(self, close: bool) -> None:
        former = self.engine.pool
        self.engine.dispose(close=close)
        former.dispose()

    @invariant()
    def gauges_are_true(self) -> None:
        elsewhere = len(self.out) - self.ours + len(self.detached)
        self.pool.assert_true(used=self.ours, idle=int(self.pool.idle), elsewhere=elsewhere)
        assert self.pool.idle <= POOL_SIZE

    def teardown(self) -> None:
        try:
            self.assert_counters()
        finally:
            # The next example has the same name.
            self.end()
        self.pool.assert_true(used=0, idle=0)

    def assert_counters(self) -> None:
        counted = {name: now - self.before[name] for name, now in self.counters().items()}
        assert counted["created"] - counted["closed"] == self.pool.idle + len(self.out)
        assert counted["uses"] + len(self.out) == self.checkouts
        assert counted["waits"] == self.checkouts + self.timeouts
        assert counted["timeouts"] == self.timeouts
        assert self.pool.pending == 0

    def end(self) -> None:
        for connection, _ in self.out:
            connection.invalidate()
        for connection in self.detached:
            connection.close()
        self.engine.dispose()


def test_metrics_agree_with_the_truth_after_every_step(
    kit_url: str, server_view: ServerView
) -> None:
    run_state_machine_as_test(
        partial(PoolMachine, kit_url, server_view),  # type: ignore[arg-type]
        settings=settings(
            max_examples=30,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )

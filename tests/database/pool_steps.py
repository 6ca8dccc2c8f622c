"""What can be done to a pool: the steps of its machines."""

import contextlib
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from service.database.pool import PoolTimeoutError
from tests.database.pool_drivers import MOST_WAITERS, patience
from tests.database.pool_machine import PoolMachine
from tests.database.pool_model import RefusedError

choices = st.integers(min_value=0, max_value=100)


class ConnectionSteps(PoolMachine):
    """What becomes of one checkout, and of one connection."""

    # Steps that a checkout takes.

    @precondition(lambda self: self.model.is_free)
    @rule()
    def checkout(self) -> None:
        try:
            expected = self.model.checkout()
        except RefusedError:
            with pytest.raises(ConnectionRefusedError):
                self.driver.run(self.engine.raw_connection)
            return
        self.keep(expected, self.driver.run(self.engine.raw_connection))

    @precondition(lambda self: not self.model.is_free)
    @rule()
    def time_out(self) -> None:
        token = patience.set(0.001)
        with pytest.raises(PoolTimeoutError) as refused:
            self.driver.run(self.engine.raw_connection)
        patience.reset(token)
        why = "suspended" if self.model.is_suspended else "pool_timeout"
        assert refused.value.reason == why
        self.model.fail(why)

    @precondition(lambda self: not self.model.is_free and len(self.line) < MOST_WAITERS)
    @rule()
    def wait(self) -> None:
        self.line.append(self.driver.start(self.engine.raw_connection))
        self.model.waiting += 1
        self.driver.settle(lambda: self.pool.queue.waiting == len(self.line))

    # Steps of a connection that is out.

    @precondition(lambda self: self.proxies)
    @rule(choice=choices)
    def checkin(self, choice: int) -> None:
        connection, proxy = self.take(choice)
        self.driver.run(proxy.close)
        self.model.give_back(connection)
        self.serve()

    @precondition(lambda self: self.proxies)
    @rule(choice=choices)
    def invalidate(self, choice: int) -> None:
        connection, proxy = self.take(choice)
        self.driver.run(proxy.invalidate)
        self.model.remove(connection, "invalidated")
        self.serve()

    @precondition(lambda self: self.proxies)
    @rule(choice=choices)
    def invalidate_softly(self, choice: int) -> None:
        connection = [*self.proxies][choice % len(self.proxies)]
        self.proxies[connection].invalidate(soft=True)
        connection.is_soft = True

    @precondition(lambda self: self.proxies)
    @rule(choice=choices)
    def detach(self, choice: int) -> None:
        connection, proxy = self.take(choice)
        self.driver.run(proxy.detach)
        self.model.remove(connection, "detached")
        self.detached[connection] = proxy
        self.serve()

    @precondition(lambda self: self.detached)
    @rule()
    def close_detached(self) -> None:
        self.driver.run(self.detached.popitem()[1].close)


class PoolSteps(PoolMachine):
    """What happens to the pool, to the server, and to time."""

    @rule()
    def let_time_pass(self) -> None:
        self.driver.run(self.pool.tick)
        self.tick()

    @precondition(lambda self: self.model.idle or self.model.out)
    @rule(choice=choices, how=st.sampled_from(["expired", "unheard", "cold"]))
    def grow_old(self, choice: int, how: str) -> None:
        known = [each for each in [*self.model.idle, *self.model.out] if each.details is not None]
        if not known:
            return
        connection = known[choice % len(known)]
        details: Any = connection.details
        match how:
            case "expired":
                details.expires_at -= 1e6
                connection.is_expired = True
            case "unheard":
                details.heard_at -= 1e6
                connection.is_unheard = True
            case _:
                details.used_at -= 1e6
                connection.is_cold = True

    @precondition(lambda self: any(not each.is_dead for each in self.model.open))
    @rule(choice=choices)
    def kill(self, choice: int) -> None:
        """The server ends a session: one that lies idle, or one that is out."""
        alive = [each for each in self.model.open if not each.is_dead]
        connection = alive[choice % len(alive)]
        self.server.end_session(connection.pid)
        connection.is_dead = True

    @rule()
    def refuse_or_accept(self) -> None:
        """The server takes no new connections, or does again."""
        self.model.is_refused = not self.model.is_refused

    @precondition(lambda self: not self.model.is_suspended)
    @rule()
    def warm_up(self) -> None:
        with contextlib.suppress(ConnectionRefusedError):
            self.driver.run(self.pool.warm_up)
        self.model.warm_up()

    @rule()
    def evict_softly(self) -> None:
        self.driver.run(self.pool.soft_evict)
        self.model.evict()
        self.tick()

    @precondition(lambda self: self.may_serve_many())
    @rule(size=st.integers(1, 3), overflow=st.integers(0, 2))
    def resize(self, size: int, overflow: int) -> None:
        self.driver.run(lambda: self.pool.resize(size, overflow))
        self.model.size, self.model.capacity = size, size + overflow
        self.serve()
        self.tick()

    @rule()
    def suspend(self) -> None:
        self.pool.suspend()
        self.model.is_suspended = True

    @precondition(lambda self: self.model.is_suspended and self.may_serve_many())
    @rule()
    def resume(self) -> None:
        self.driver.run(self.pool.resume)
        self.model.is_suspended = False
        self.serve()

    @precondition(lambda self: self.may_move())
    @rule()
    def dispose(self) -> None:
        """Those who wait go on with the new pool."""
        self.driver.run(self.engine.dispose)
        self.model.dispose()
        self.serve()

    @precondition(lambda self: not self.line)
    @rule()
    def dispose_without_closing(self) -> None:
        former = self.pool
        self.engine.dispose(close=False)
        self.driver.run(former.dispose)
        self.model.dispose()

    def may_move(self) -> bool:
        """Whether the order in which those who wait reach the new pool does not matter."""
        return len(self.line) <= (1 if self.model.is_suspended else self.model.capacity)

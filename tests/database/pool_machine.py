"""A pool under test by random sequences of steps, held against a model and the server.

The steps are written once, for threads and for asyncio: a driver runs them.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable
from typing import Final

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, run_state_machine_as_test
from sqlalchemy import Engine, event
from sqlalchemy.pool import PoolProxiedConnection

from service.database import DatabaseSettings
from service.database.pool import MeteredPoolMixin
from service.database.pool_events import follower_of
from tests.database.pool_drivers import LONG, Driver, Outcome
from tests.database.pool_model import ModelConnection, ModelPool
from tests.database.pools import ServerView, WatchedPool

logger = logging.getLogger(__name__)

SIZE: Final = 2
OVERFLOW: Final = 2
MIN_IDLE: Final = 1
_CLOSE_REASONS: Final = (
    *("released", "recycled", "invalidated", "error", "detached", "disposed", "evicted"),
    *("max_lifetime", "idle_timeout", "resized", "keepalive", "validation"),
)
# What the model calls a failure, and the metric's reason.
_FAILURES: Final = {
    "refused": "connection_lost",
    "pool_timeout": "pool_timeout",
    "suspended": "suspended",
    "cancelled": "cancelled",
}


def try_sequences(make_machine: "Callable[[], PoolMachine]", usual: int) -> None:
    """Run a machine through random sequences of forty steps each.

    Args:
        make_machine: Called for each sequence.
        usual: How many sequences fit a test run; `TIDEGATE_MODEL_EXAMPLES` says otherwise.
    """
    PoolMachine.runs = PoolMachine.steps = 0
    start = time.monotonic()
    run_state_machine_as_test(
        make_machine,  # type: ignore[arg-type] # it is only called
        settings=settings(
            max_examples=int(os.environ.get("TIDEGATE_MODEL_EXAMPLES", usual)),
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
    seconds = time.monotonic() - start
    logger.info("%d sequences, %d steps, %.1f s", PoolMachine.runs, PoolMachine.steps, seconds)


def machine_settings(url: str) -> DatabaseSettings:
    """A small pool in which nothing grows old by itself."""
    return DatabaseSettings(
        url=url,
        pool_size=SIZE,
        max_overflow=OVERFLOW,
        pool_min_idle=MIN_IDLE,
        pool_idle_timeout=LONG,
        pool_keepalive=LONG,
        pool_validation_bypass=LONG,
    )


class PoolMachine(RuleBasedStateMachine):
    """A pool, what is out of it, and a model of both.

    Args:
        engine: Made with `machine_settings` and a pool with `PatienceMixin`.
        name: The pool's label, which is its sessions' application name too.
        server: The server's view.
        driver: Runs the steps.
    """

    steps = 0
    runs = 0

    def __init__(self, engine: Engine, name: str, server: ServerView, driver: Driver) -> None:
        super().__init__()
        PoolMachine.runs += 1
        self.engine = engine
        self.server = server
        self.driver = driver
        self.metrics = WatchedPool(name, engine, server)
        self.model = ModelPool(SIZE, OVERFLOW, MIN_IDLE, is_async=engine.dialect.is_async)
        self.proxies: dict[ModelConnection, PoolProxiedConnection] = {}
        self.detached: dict[ModelConnection, PoolProxiedConnection] = {}
        self.line: list[Outcome] = []
        self.is_sound = True
        self.before = self.counters()
        event.listen(engine, "do_connect", self._refuse)

    @property
    def pool(self) -> MeteredPoolMixin:
        """The engine's pool of this moment."""
        assert isinstance(self.engine.pool, MeteredPoolMixin)
        return self.engine.pool

    def _refuse(self, *_: object) -> None:
        if self.model.is_refused:
            raise ConnectionRefusedError

    # What several steps have in common.

    def take(self, choice: int) -> tuple[ModelConnection, PoolProxiedConnection]:
        """One of the connections that are out, which is then in nobody's hands."""
        held = [*self.model.out, *self.model.former]
        connection = held[choice % len(held)]
        return connection, self.proxies.pop(connection)

    def keep(self, expected: ModelConnection, proxy: PoolProxiedConnection) -> None:
        """Hold a connection, which has to be the one that the model says."""
        details = proxy.info["tidegate.connection"]
        if expected.details is None:
            expected.pid = self.driver.pid(proxy.driver_connection)
            expected.details = details
        assert expected.details is details, "another connection was handed out"
        self.proxies[expected] = proxy

    def serve(self) -> None:
        """See that those who waited got what came free, in their order."""
        expected = self.model.admit()
        served, self.line = self.line[: len(expected)], self.line[len(expected) :]
        self.driver.settle(lambda: all(outcome.done() for outcome in served))
        self.driver.settle(lambda: self.pool.queue.waiting == len(self.line))
        assert not any(outcome.done() for outcome in self.line), "somebody overtook another"
        proxies = [each.result() for each in served if each.exception() is None]
        taken = [each for each in expected if each is not None]
        known = {id(each.details): each for each in taken if each.details is not None}
        fresh = [each for each in taken if each.details is None]
        assert len(proxies) == len(known) + len(fresh)
        for proxy in proxies:
            found = known.pop(id(proxy.info["tidegate.connection"]), None)
            self.keep(found or fresh.pop(), proxy)

    def tick(self) -> None:
        """Tell the model of a tick and wait until the pool's own is over."""
        self.driver.rest()
        self.model.tick()

    def may_serve_many(self) -> bool:
        """Whether it does not matter in which order several are served at once."""
        return len(self.line) < 2 or not any(each.is_dead for each in self.model.idle)

    # What has to hold after each step.

    @invariant()
    def everything_agrees(self) -> None:
        was_sound, self.is_sound = self.is_sound, False
        PoolMachine.steps += 1
        model, queue = self.model, self.pool.queue
        used, idle = len(model.out), len(model.idle)
        metrics = self.metrics
        assert (metrics.used, metrics.idle, metrics.pending) == (used, idle, len(self.line))
        assert (metrics.value("idle_max"), metrics.value("max")) == (model.size, model.capacity)
        assert (self.pool.checkedout(), self.pool.checkedin()) == (used, idle)
        assert (queue.waiting, queue.suspended) == (len(self.line), model.is_suspended)
        # A session ends a moment after its connection was closed.
        self.driver.settle(self.sessions_agree)
        self.look_for_drift()
        self.is_sound = was_sound

    def sessions_agree(self) -> bool:
        """Whether the server has the sessions that it should have, and no others."""
        sessions = self.metrics.sessions()
        held = [*self.model.open, *self.detached]
        # One that the pool opened by itself has been in nobody's hands.
        new = sessions - {each.pid for each in held}
        for connection in held:
            if not connection.pid and len(new) == 1:
                connection.pid = new.pop()
        return sessions == {each.pid for each in held if not each.is_dead}

    def look_for_drift(self) -> None:
        """What the clock has the metrics do."""
        follower = follower_of(self.engine)
        assert follower is not None
        follower.tick()

    def counters(self) -> dict[str, float]:
        """What only ever grows; the sequences before this one had the same name."""
        metrics = self.metrics
        closed = {f"closed {reason}": metrics.closed(reason) for reason in _CLOSE_REASONS}
        failed = {
            name: metrics.value("checkout_failures_total", reason=reason)
            for name, reason in _FAILURES.items()
        }
        validations = {
            outcome: metrics.value("validations_total", outcome=outcome)
            for outcome in ("alive", "dead")
        }
        return {
            **closed,
            **failed,
            **validations,
            "created": metrics.created,
            "uses": metrics.uses,
            "waits": metrics.waits,
            "timeouts": metrics.timeouts,
            "create_failures": metrics.failed("connection_lost"),
            "drifts": metrics.value("drifts_total"),
        }

    def assert_counters(self) -> None:
        """Hold every counter against the model's."""
        expected = self.model.counted
        expected["timeouts"] = expected["pool_timeout"] + expected["suspended"]
        counted = {name: now - self.before[name] for name, now in self.counters().items()}
        assert counted == {name: expected[name] for name in counted}
        closed = sum(counted[f"closed {reason}"] for reason in _CLOSE_REASONS)
        assert counted["created"] - closed == len(self.model.open)
        failed = sum(counted[name] for name in _FAILURES)
        assert counted["waits"] == expected["checkouts"] + failed

    def assert_places_are_free(self) -> None:
        """Every place can be taken, and no more than there are."""
        pool = self.pool
        places = [pool.queue.try_enter() for _ in range(self.model.capacity + 1)]
        assert places == [True] * self.model.capacity + [False]
        for _ in range(self.model.capacity):
            pool.queue.leave()

    def teardown(self) -> None:
        try:
            if self.is_sound:
                self.assert_counters()
        finally:
            self.end()
        if self.is_sound:
            self.assert_places_are_free()
            self.metrics.assert_true(used=0, idle=0)

    def end(self) -> None:
        """Leave no thread and no session behind, whatever became of the sequence."""
        self.model.is_refused = False
        self.pool.queue.resize(0, float("inf"))
        self.pool.resume()
        with contextlib.suppress(AssertionError, TimeoutError):
            self.driver.settle(lambda: all(outcome.done() for outcome in self.line))
        late = [each.result() for each in self.line if each.done() and each.exception() is None]
        for proxy in [*late, *self.proxies.values(), *self.detached.values()]:
            self.driver.run(proxy.close)
        self.driver.run(self.engine.dispose)
        self.pool.queue.resize(self.model.size, self.model.capacity)
        self.driver.close()
        self.server.end_sessions(self.metrics.pool_name)

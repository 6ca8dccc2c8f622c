"""What an operator does to the pools of a running worker.

Admission follows the pool: never more requests are let in than have a connection to get.
"""

import asyncio
import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Final

import structlog

from service.database import UnknownPoolError, operable_pool
from service.database.budget import ServerLimit, budget_complaint, server_complaint
from service.database.pool import MeteredPoolMixin
from service.settings import Settings
from service.web.control_directory import ControlError
from service.web.streaming import STREAMS, StreamSessions
from service.web.unit_of_work import UnitOfWork

PRIMARY: Final = "primary"
# They tell whether the database is there: without them, a worker takes it for dead.
_WATCHING: Final = ("health", "primary_monitor", "replica_monitor")
# As the settings have them.
_SIZES: Final = range(1, 1001)
_OVERFLOWS: Final = range(1001)
_LOOP_SECONDS: Final = 1.0

log = structlog.stdlib.get_logger(__name__)


class PoolOperations:
    """Acts on pools by their names; from any thread but the event loop's.

    Args:
        settings: What was decided at start: the budget, and the limits of admission.
        unit_of_work: Whose admission follows the pool `primary`.
        streams: Whose admission follows the pool `streams`.
        loop: Whose they are.
    """

    def __init__(
        self,
        settings: Settings,
        unit_of_work: UnitOfWork,
        streams: StreamSessions,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        # What the server lets the service open, once somebody has asked it.
        self.server_limit: ServerLimit | None = None
        self._settings = settings
        self._unit_of_work = unit_of_work
        self._streams = streams
        self._loop = loop

    def suspend(self, pool_name: str) -> None:
        """Let every checkout wait, up to the pool's timeout; connections in use go on."""
        _served(pool_name).suspend()
        log.warning("pool suspended by an operator", pool_name=pool_name)

    def resume(self, pool_name: str) -> None:
        """Serve those who wait, in their order."""
        _known(pool_name).resume()
        log.warning("pool resumed by an operator", pool_name=pool_name)

    def evict(self, pool_name: str) -> None:
        """Close idle connections now, and those in use when they come back."""
        _known(pool_name).soft_evict()
        log.warning("pool evicted by an operator", pool_name=pool_name)

    def resize(self, pool_name: str, size: int | None, max_overflow: int | None) -> None:
        """Change the limits of a pool, and those of admission with them.

        Args:
            pool_name: Which.
            size: How many connections are kept; as it is when None.
            max_overflow: How many more may be opened; as it is when None.

        Raises:
            ControlError: The pool cannot be resized, or connections would be too few.
        """
        pool = _served(pool_name)
        before = pool.capacity
        size = pool.size() if size is None else size
        max_overflow = _max_overflow(pool) if max_overflow is None else max_overflow
        if size not in _SIZES or max_overflow not in _OVERFLOWS:
            raise ControlError("a pool's size is from 1 to 1000, and its overflow from 0 to 1000")
        capacity = size + max_overflow
        if capacity > before:
            self._refuse_too_many(pool_name, capacity)
        if capacity < before:
            # First, so that nobody is let in for a connection that is taken away.
            self._in_loop(lambda: self._limit(pool_name, capacity))
        pool.resize(size, max_overflow)
        if capacity > before:
            self._in_loop(lambda: self._limit(pool_name, capacity))
        log.warning(
            "pool resized by an operator", pool_name=pool_name, size=size, max_overflow=max_overflow
        )

    def loop_delay(self, patience: float) -> float | None:
        """How long the event loop takes to turn to something new, in seconds.

        Args:
            patience: Seconds after which it counts as blocked, which is None.
        """
        # Not the loop's own time, which may stand still within one round.
        begun = time.perf_counter()
        answer: Future[float] = Future()
        self._loop.call_soon_threadsafe(lambda: answer.set_result(time.perf_counter() - begun))
        try:
            return answer.result(patience)
        except TimeoutError:
            return None

    def _refuse_too_many(self, pool_name: str, capacity: int) -> None:
        # As if every worker of every replica were given as many: they are the next to be resized.
        sizes = {name: int(_known(name).capacity) for name in (PRIMARY, STREAMS)}
        sizes[STREAMS if pool_name == STREAMS else PRIMARY] = capacity
        demand = replace(
            self._settings.connection_demand, capacity=sizes[PRIMARY], streams=sizes[STREAMS]
        )
        complaint = budget_complaint(demand, self._settings.database.connection_budget)
        if complaint is None and self.server_limit is not None:
            complaint = server_complaint(demand, self.server_limit)
        if complaint is not None:
            raise ControlError(f"not resized: {complaint}")

    def _limit(self, pool_name: str, capacity: int) -> None:
        settings = self._settings
        if pool_name == PRIMARY:
            limit = min(settings.admission_limit or capacity, capacity)
            queue = limit if settings.admission_queue is None else settings.admission_queue
            self._unit_of_work.resize(limit, queue)
        elif pool_name == STREAMS:
            self._streams.admission.resize(capacity, 0)

    def _in_loop(self, change: Callable[[], None]) -> None:
        """Change something in the loop; one that is blocked does it when it goes on."""
        done: Future[None] = Future()

        def run() -> None:
            change()
            done.set_result(None)

        self._loop.call_soon_threadsafe(run)
        try:
            done.result(_LOOP_SECONDS)
        except TimeoutError:
            log.warning("the event loop is blocked: admission follows the pool when it goes on")


def _known(pool_name: str) -> MeteredPoolMixin:
    try:
        return operable_pool(pool_name)
    except UnknownPoolError as error:
        raise ControlError(error.args[0]) from None


def _served(pool_name: str) -> MeteredPoolMixin:
    if pool_name in _WATCHING:
        raise ControlError(
            f"{pool_name}: by this pool the worker asks whether the database is there; it can be"
            " evicted, and nothing else"
        )
    return _known(pool_name)


def _max_overflow(pool: MeteredPoolMixin) -> int:
    return 0 if math.isinf(pool.capacity) else int(pool.capacity) - pool.size()

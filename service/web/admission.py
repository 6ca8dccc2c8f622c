"""Admission: no more requests hold a database connection than the pool has connections.

Bounding threads is not enough: a request keeps its connection while it hops between threads, so
threads that wait for a connection can keep those from running that would give one back.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from service.database import pool_clock
from service.database.batches import SampledGauges
from service.errors import OverloadedError
from service.web.client_watch import ClientWatch, DisconnectedError
from service.web.retry_after import RetryAfter

REQUESTS = Gauge(
    "service_admission_requests",
    "Requests that may hold a database connection (admitted), or wait for that (queued).",
    ["gate", "state"],
    multiprocess_mode="livesum",
)
LIMIT = Gauge(
    "service_admission_limit",
    "The most requests in each state.",
    ["gate", "state"],
    multiprocess_mode="livesum",
)
SHED = Counter(
    "service_admission_shed",
    "Requests that were not admitted, by reason.",
    ["gate", "reason"],
)
QUEUE_TIME = Histogram(
    "service_admission_queue_time_seconds",
    "How long requests waited in the queue, or did not have to; not those turned away at once.",
    ["gate"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
_QUEUE_FULL: Final = "queue_full"
_TIMEOUT: Final = "timeout"
_DISCONNECTED: Final = "disconnected"
# How a wait in the queue ends, when it ends well.
_ADMITTED: Final = "admitted"


@dataclass(frozen=True, kw_only=True)
class GateSnapshot:
    """A gate at one moment.

    Attributes:
        gate: Its label.
        admitted: How many are in.
        queued: How many wait.
        limit: How many may be in.
        queue: How many may wait.
    """

    gate: str
    admitted: int
    queued: int
    limit: int
    queue: int


class Admission:
    """A bounded number of places, a bounded queue before them, and a bounded wait in it.

    It belongs to one event loop; whoever waits blocks no thread.

    Args:
        gate: What they are admitted to: the label of the metrics.
        limit: How many may be in at once.
        queue: How many may wait.
        wait: How long each may wait, in seconds; who is turned away is told to come again after
            as long at the least.
    """

    def __init__(self, gate: str, *, limit: int, queue: int, wait: float) -> None:
        self._gate = gate
        self._wait = wait
        self._retry_after = RetryAfter(math.ceil(wait))
        self._admitted = 0
        self._line: deque[asyncio.Future[str]] = deque()
        self.resize(limit, queue)
        self._shed = {
            reason: SHED.labels(gate, reason) for reason in (_QUEUE_FULL, _TIMEOUT, _DISCONNECTED)
        }
        self._queue_time = QUEUE_TIME.labels(gate)
        self._gauges = SampledGauges(
            {
                REQUESTS.labels(gate, "admitted"): lambda: self._admitted,
                REQUESTS.labels(gate, "queued"): lambda: len(self._line),
            }
        )
        pool_clock.watch(self)

    def resize(self, limit: int, queue: int) -> None:
        """Change how many may be in, and wait; within the event loop.

        Who is in or waits already stays so: fewer are let in until it is as many as may be.

        Args:
            limit: How many may be in at once.
            queue: How many may wait.
        """
        self._limit, self._queue = limit, queue
        LIMIT.labels(self._gate, "admitted").set(limit)
        LIMIT.labels(self._gate, "queued").set(queue)
        self._admit()

    def snapshot(self) -> GateSnapshot:
        """Look at it; from any thread."""
        return GateSnapshot(
            gate=self._gate,
            admitted=self._admitted,
            queued=len(self._line),
            limit=self._limit,
            queue=self._queue,
        )

    @asynccontextmanager
    async def place(self, client: ClientWatch) -> AsyncIterator[None]:
        """Hold a place.

        Args:
            client: Who waits for it.

        Raises:
            OverloadedError: The queue is full, or no place came free in time.
            DisconnectedError: The client went away while it waited.
        """
        if (refusal := self.turn_away()) is not None:
            raise refusal
        start = time.perf_counter()
        try:
            if self._admitted < self._limit:
                self._admitted += 1
            else:
                await self._line_up(client)
        finally:
            self._queue_time.observe(time.perf_counter() - start)
        self._gauges.changed()
        try:
            yield
        finally:
            self._leave()

    def turn_away(self) -> OverloadedError | None:
        """Turn a request away, if it could not even wait.

        Returns:
            What it is told; None where there is a place, or room in the queue.
        """
        if self._admitted < self._limit or len(self._line) < self._queue:
            return None
        self._shed[_QUEUE_FULL].inc()
        return self._overloaded()

    def tick(self) -> None:
        """Publish the counts, where they are published, and follow the load."""
        self._gauges.write()
        self._retry_after.tick()

    def _overloaded(self) -> OverloadedError:
        return OverloadedError(self._retry_after.turned_away())

    async def _line_up(self, client: ClientWatch) -> None:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[str] = loop.create_future()
        self._line.append(waiter)
        self._gauges.changed()
        timer = loop.call_later(self._wait, _end, waiter, _TIMEOUT)
        client.expect(lambda: _end(waiter, _DISCONNECTED))
        try:
            outcome = await waiter
        except asyncio.CancelledError:
            # In the same moment its wait may have ended in any way.
            if not waiter.cancelled() and waiter.result() == _ADMITTED:
                self._leave()
            raise
        finally:
            timer.cancel()
            with suppress(ValueError):
                self._line.remove(waiter)
            self._gauges.changed()
        if outcome != _ADMITTED:
            self._shed[outcome].inc()
            raise DisconnectedError if client.is_gone else self._overloaded()

    def _leave(self) -> None:
        self._admitted -= 1
        self._admit()
        self._gauges.changed()

    def _admit(self) -> None:
        while self._line and self._admitted < self._limit:
            if _end(self._line.popleft(), _ADMITTED):
                self._admitted += 1


def _end(waiter: asyncio.Future[str], outcome: str) -> bool:
    """End a wait; False when it has ended already."""
    if waiter.done():
        return False
    waiter.set_result(outcome)
    return True

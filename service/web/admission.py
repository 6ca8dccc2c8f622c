"""Admission: no more requests hold a database connection than the pool has connections.

Bounding threads is not enough: a request keeps its connection while it hops between threads, so
threads that wait for a connection can keep those from running that would give one back.
"""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from service.errors import OverloadedError


class Admission:
    """A bounded number of places, a bounded queue before them, and a bounded wait in it.

    Args:
        limit: How many may be in at once.
        queue: How many may wait.
        wait: How long each may wait, in seconds.
    """

    def __init__(self, *, limit: int, queue: int, wait: float) -> None:
        self._places = anyio.Semaphore(limit)
        self._queue = queue
        self._wait = wait

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Hold a place.

        Raises:
            OverloadedError: The queue is full, or no place came free in time.
        """
        await self._enter()
        try:
            yield
        finally:
            self._places.release()

    async def _enter(self) -> None:
        if self._places.statistics().tasks_waiting >= self._queue and self._places.value == 0:
            raise OverloadedError(math.ceil(self._wait))
        try:
            with anyio.fail_after(self._wait):
                await self._places.acquire()
        except TimeoutError:
            raise OverloadedError(math.ceil(self._wait)) from None

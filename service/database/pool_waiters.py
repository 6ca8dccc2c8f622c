"""Waiting in the line of a pool: by a thread, or by a task."""

import asyncio
import contextlib
import threading
import time

from sqlalchemy.util import await_

from service.database.deadline_drivers import in_its_loop
from service.database.pool_holders import current_route


class ThreadWaiter:
    """A thread that waits for a place."""

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.route = current_route()
        self.has_place = False
        self._blocked = threading.Lock()
        self._blocked.acquire()

    def wake(self) -> bool:
        """Wake the thread, from whatever other one."""
        with contextlib.suppress(RuntimeError):  # somebody else has woken it
            self._blocked.release()
        return True

    def wait(self, timeout: float) -> None:
        """Block until it is woken.

        Args:
            timeout: At most for so many seconds.
        """
        self._blocked.acquire(timeout=min(timeout, threading.TIMEOUT_MAX))


class TaskWaiter:
    """A task that waits for a place; made within its loop."""

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.route = current_route()
        self.has_place = False
        self._loop = asyncio.get_running_loop()
        self._woken: asyncio.Future[None] = self._loop.create_future()

    def wake(self) -> bool:
        """Wake the task, from whatever thread; False when its loop has ended."""
        return in_its_loop(self._loop, self._end)

    def wait(self, timeout: float) -> None:
        """As `ThreadWaiter.wait`, letting the loop go on.

        Raises:
            asyncio.CancelledError: The task was cancelled.
        """
        # asyncio.wait() and timeouts cost several times as much.
        timer = self._loop.call_later(timeout, self._end)
        try:
            await_(self._woken)
        finally:
            timer.cancel()

    def _end(self) -> None:
        if not self._woken.done():
            self._woken.set_result(None)

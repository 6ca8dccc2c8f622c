"""Waiting in the line of a pool: by a thread, or by a task."""

import asyncio
import threading
import time

from sqlalchemy.util import await_

from service.database.pool_holders import current_route


class ThreadWaiter:
    """A thread that waits for a place."""

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.route = current_route()
        self.has_place = False
        self._blocked = threading.Lock()
        self._blocked.acquire()

    def grant(self) -> bool:
        """Wake the thread."""
        self._blocked.release()
        return True

    def wait(self, timeout: float) -> bool:
        """Block until it is woken.

        Args:
            timeout: Seconds.

        Returns:
            Whether it was in time.
        """
        return self._blocked.acquire(timeout=min(timeout, threading.TIMEOUT_MAX))


class TaskWaiter:
    """A task that waits for a place; made within its loop."""

    def __init__(self) -> None:
        self.since = time.monotonic()
        self.route = current_route()
        self.has_place = False
        self._loop = asyncio.get_running_loop()
        self._granted: asyncio.Future[bool] = self._loop.create_future()

    def grant(self) -> bool:
        """Wake the task, from whatever thread; False when its loop has ended."""
        if asyncio._get_running_loop() is self._loop:  # noqa: SLF001 - the one that raises nothing
            self._end(True)
            return True
        try:
            self._loop.call_soon_threadsafe(self._end, True)
        except RuntimeError:
            return False
        return True

    def wait(self, timeout: float) -> bool:
        """As `ThreadWaiter.wait`, letting the loop go on.

        Raises:
            asyncio.CancelledError: The task was cancelled.
        """
        # asyncio.wait() and timeouts cost several times as much.
        timer = self._loop.call_later(timeout, self._end, False)
        try:
            return await_(self._granted)
        finally:
            timer.cancel()

    def _end(self, is_granted: bool) -> None:
        if not self._granted.done():
            self._granted.set_result(is_granted)

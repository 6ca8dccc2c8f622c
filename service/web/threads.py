"""Threads that work for an event loop.

`concurrent.futures` makes two futures for each piece of work and chains them by callbacks: that
takes as long as the query of a read.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

ResultT = TypeVar("ResultT")
_Work = tuple[asyncio.AbstractEventLoop, "asyncio.Future[Any]", Callable[[], Any]]


class LoopThreads:
    """A number of threads that do what one event loop gives them; they begin when needed.

    Args:
        count: How many.
        name: What they are called.
    """

    def __init__(self, count: int, name: str) -> None:
        self._count = count
        self._name = name
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._busy = 0
        self._threads: list[threading.Thread] = []

    def resize(self, count: int) -> None:
        """Change how many there may be; those that have begun stay."""
        self._count = count

    def submit(self, work: Callable[[], ResultT]) -> "asyncio.Future[ResultT]":
        """Do something in one of the threads, as soon as one is free.

        Args:
            work: What to do. It goes on also when the future is cancelled.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[ResultT] = loop.create_future()
        if self._busy >= len(self._threads) < self._count:
            self._begin()
        self._busy += 1
        self._queue.put((loop, future, work))
        return future

    def close(self) -> None:
        """Let each thread end when it has done what it was given."""
        for _ in self._threads:
            self._queue.put(None)
        self._threads.clear()

    def _begin(self) -> None:
        name = f"{self._name}_{len(self._threads)}"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            loop, future, work = item
            result, error = None, None
            try:
                result = work()
            except BaseException as raised:  # noqa: BLE001 - raised by whoever awaits it
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._end, future, result, error)
            # What a thread holds while it waits would live until the next piece of work.
            del item, future, work, result, error

    def _end(
        self, future: "asyncio.Future[Any]", result: object, error: BaseException | None
    ) -> None:
        self._busy -= 1
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

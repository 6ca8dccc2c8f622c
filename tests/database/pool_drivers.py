"""Running the steps of a machine: by threads, or in an event loop."""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol, TypeVar

from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.util import greenlet_spawn

from service.database.pool import AsyncMeteredQueuePool, MeteredPoolMixin, MeteredQueuePool
from tests.support.polling import eventually

T = TypeVar("T")

# As long as any step of a machine.
LONG: Final = 600.0
MOST_WAITERS: Final = 3
# Short, for a failure that is found is tried again many times.
_WITHIN: Final = 3.0
patience: contextvars.ContextVar[float] = contextvars.ContextVar("patience", default=LONG)


class PatienceMixin(MeteredPoolMixin):
    """A pool in which each checkout has a patience of its own."""

    def timeout(self) -> float:
        """How long this checkout waits."""
        return patience.get()


class PatientPool(PatienceMixin, MeteredQueuePool):
    """For a sync engine."""


class AsyncPatientPool(PatienceMixin, AsyncMeteredQueuePool):
    """For an asyncio engine."""


class Outcome(Protocol):
    """What became of a checkout that waits; futures and tasks are such."""

    def done(self) -> bool: ...

    def cancelled(self) -> bool: ...

    def exception(self) -> BaseException | None: ...

    def result(self) -> PoolProxiedConnection: ...


class Driver(Protocol):
    """How steps are run: by threads, or in an event loop."""

    def run(self, work: Callable[[], T]) -> T:
        """Do something that may wait for the server."""

    def start(self, work: Callable[[], PoolProxiedConnection]) -> Outcome:
        """Do it beside the steps that follow."""

    def settle(self, check: Callable[[], object]) -> None:
        """Let others go on until a check holds."""

    def rest(self) -> None:
        """Let the pool's own work in the background come to its end."""

    def pid(self, connection: Any) -> int:
        """The server's process number of a driver's connection."""

    def close(self) -> None:
        """Give back what it holds."""


class ThreadDriver:
    """Steps run in the machine's own thread, those that wait in others."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(MOST_WAITERS)

    def run(self, work: Callable[[], T]) -> T:
        return work()

    def start(self, work: Callable[[], PoolProxiedConnection]) -> Outcome:
        return self._executor.submit(work)

    def settle(self, check: Callable[[], object]) -> None:
        eventually(check, within=_WITHIN, every=0.001)

    def rest(self) -> None:
        for thread in threading.enumerate():
            if thread.name == "pool-maintenance":
                thread.join(10)

    def pid(self, connection: Any) -> int:
        return int(connection.info.backend_pid)

    def close(self) -> None:
        self._executor.shutdown()


class TaskDriver:
    """Steps run in an event loop, which stands still between them."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self._waiting: set[asyncio.Task[PoolProxiedConnection]] = set()

    def run(self, work: Callable[[], T]) -> T:
        return self.runner.run(greenlet_spawn(work), context=contextvars.copy_context())

    def start(self, work: Callable[[], PoolProxiedConnection]) -> Outcome:
        task = self.runner.get_loop().create_task(greenlet_spawn(work))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        return task

    def request_cancel(self, outcome: Outcome) -> None:
        """Cancel a task, which hears of it when it runs next."""
        assert isinstance(outcome, asyncio.Task)
        outcome.cancel()

    def cancel(self, outcome: Outcome) -> None:
        """Cancel a task and let it end."""
        self.request_cancel(outcome)
        self.settle(outcome.done)
        assert outcome.cancelled()

    def settle(self, check: Callable[[], object]) -> None:
        self.runner.run(self._poll(check))

    async def _poll(self, check: Callable[[], object]) -> None:
        async with asyncio.timeout(_WITHIN):
            while not check():
                await asyncio.sleep(0)

    def rest(self) -> None:
        self.runner.run(self._rest())

    async def _rest(self) -> None:
        # The pool hands its work to the loop as from another thread: it begins a step later.
        await asyncio.sleep(0)
        others = asyncio.all_tasks() - self._waiting - {asyncio.current_task()}
        await asyncio.gather(*others)

    def pid(self, connection: Any) -> int:
        return int(connection.get_server_pid())

    def close(self) -> None:
        self.runner.close()

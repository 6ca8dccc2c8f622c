"""gunicorn's ASGI worker, with an end that loses no request.

A worker ends for one of two reasons. The whole server stops: then readiness fails at once, and
requests are served for a while, until whoever sends them has noticed. Or it alone is to be
replaced, as it has served enough, or on a reload: then it goes on until its successor is ready and
serves, which the arbiter sees to (`service/web/arbiter.py`), and readiness stays. Either way it
then accepts no more connections, and lets go of each that it has after an answer with
`Connection: close`.
"""

import asyncio
import contextlib
import faulthandler
import math
import mmap
import os
import signal
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final

import structlog
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped] # it ships no types
from gunicorn.asgi.lifespan import LifespanManager  # type: ignore[import-untyped] # as above
from gunicorn.workers.gasgi import ASGIWorker  # type: ignore[import-untyped] # as above
from prometheus_client import Counter

from service.settings import Settings
from service.web.connections import Acceptor, Connection

# Counted by the worker, into its slot's files, which outlive it. An alert looks at those that
# nobody ordered: `died` and `blocked`.
STARTS = Counter(
    "service_worker_starts",
    "Workers that gunicorn started, by why: start, reload, recycled, died or blocked.",
    ["reason"],
)
_REASONS: Final = ("start", "reload", "recycled", "died", "blocked")
# Those whose predecessor serves until they do.
_SUCCESSIONS: Final = ("reload", "recycled")
# Makes a worker say where it is; Python's fault handler cannot have SIGABRT alone.
STACK_SIGNAL: Final = signal.SIGUSR2
# Twice in the time by which the arbiter's promise, timeout + 1 s, may be late.
BEAT_SECONDS: Final = 0.5
# A client that keeps its connection busy asks once more in this time, and is told of the end.
IDLE_SECONDS: Final = 2.0
_POLL_SECONDS: Final = 0.05
# What a successor gets beyond HEALTH_TIMEOUT, until whoever it replaces waits for it no longer.
_SUCCESSION_SECONDS: Final = 10.0
# What requests that were broken off get to clean up, and the application's shutdown when hurried;
# the arbiter kills 2 s after it has hurried.
_BREAK_OFF_SECONDS: Final = 0.5
_HURRIED_SECONDS: Final = 1.0

log = structlog.stdlib.get_logger(__name__)


class Order(IntEnum):
    """What the arbiter wants of a worker that it sends SIGTERM."""

    NONE = 0
    # Somebody else serves in its place.
    LEAVE = 1
    # The server ends.
    STOP = 2


class SharedState:
    """What a worker and the arbiter tell each other, in memory that both see."""

    def __init__(self) -> None:
        self._bytes = mmap.mmap(-1, mmap.PAGESIZE)

    @property
    def order(self) -> Order:
        """What the arbiter wants."""
        return Order(self._bytes[0])

    @order.setter
    def order(self, value: Order) -> None:
        self._bytes[0] = value

    @property
    def is_serving(self) -> bool:
        """Whether the worker accepts connections."""
        return bool(self._bytes[1])

    @is_serving.setter
    def is_serving(self, value: bool) -> None:
        self._bytes[1] = value

    @property
    def wants_to_leave(self) -> bool:
        """Whether the worker asks to be replaced."""
        return bool(self._bytes[2])

    @wants_to_leave.setter
    def wants_to_leave(self, value: bool) -> None:
        self._bytes[2] = value


class Worker(ASGIWorker):  # type: ignore[misc] # untyped
    """Serves one process's share of the connections."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.shared = SharedState()
        # Of the arbiter's: why it was started, and whether another is to take its place.
        self.start_reason = "start"
        self.is_leaving = False
        self.connections: set[Connection] = set()
        self.is_closing = False
        # gunicorn would stop in the middle of a connection when it has served so many.
        self._most_requests: int = self.max_requests
        self.max_requests: int = sys.maxsize
        self._acceptors: list[Acceptor] = []

    def init_signals(self) -> None:
        """Handle signals within the loop, except the one that a blocked loop has to obey."""
        super().init_signals()
        # Into the file of the heartbeat, which the arbiter can read.
        faulthandler.register(STACK_SIGNAL, file=self.tmp.fileno(), all_threads=False)

    def handle_exit_signal(self) -> None:
        """SIGTERM: of the arbiter, whose order says what for, or of somebody at a terminal."""
        order = self.shared.order
        if order is Order.STOP:
            self.asgi.state.drain.begin()
        elif order is Order.NONE:
            self.shared.wants_to_leave = True

    def handle_quit_signal(self) -> None:
        """SIGINT or SIGQUIT: end at once."""
        self._quick_shutdown = True

    async def _serve(self) -> None:
        beat = self.loop.create_task(self._beat())
        for reason in _REASONS:
            # A series that appears at 1 has not risen for an alert.
            STARTS.labels(reason)
        STARTS.labels(self.start_reason).inc()
        settings: Settings = self.asgi.state.settings
        await self._start(settings)
        await self._wait_until(self._is_over)
        order = self.shared.order
        if order is not Order.LEAVE:
            log.info("draining", seconds=settings.drain_seconds)
            self.asgi.state.drain.begin()
            await self._wait_until(_never, settings.drain_seconds)
        log.info("closing connections", connections=len(self.connections))
        for acceptor in self._acceptors:
            await acceptor.stop(is_last=order is not Order.LEAVE)
        self.is_closing = True
        await self._wait_until(self._are_closed, settings.graceful_timeout)
        await self._break_off()
        await self._end()
        beat.cancel()

    async def _start(self, settings: Settings) -> None:
        self.lifespan = LifespanManager(self.asgi, self.log, self.state)
        try:
            await self.lifespan.startup()
        except Exception as error:
            self.log.error("ASGI lifespan startup failed: %s", error)  # noqa: TRY400 - one line
            raise SystemExit(Arbiter.WORKER_BOOT_ERROR) from error
        if self.start_reason in _SUCCESSIONS:
            # Another serves meanwhile; at any other start, probes want an answer at once.
            most = settings.health_timeout + _SUCCESSION_SECONDS
            await self._wait_until(lambda: self._is_ready() or self._is_over(), most)
        context = self._get_ssl_context()
        for listener in self.sockets:
            acceptor = Acceptor(listener.sock, lambda: Connection(self), context)
            acceptor.start()
            self._acceptors.append(acceptor)
        self.shared.is_serving = True

    async def _beat(self) -> None:
        """Tell the arbiter that the loop is not blocked, until the very end."""
        while True:
            self.notify()
            await asyncio.sleep(BEAT_SECONDS)

    async def _wait_until(self, holds: Callable[[], bool], seconds: float = math.inf) -> None:
        """Wait until something holds, the time is over, or somebody is in a hurry."""
        end = self.loop.time() + seconds
        # No event: signals, the arbiter and every client can change what it waits for.
        while not self._quick_shutdown and not holds() and self.loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(_POLL_SECONDS)

    def _is_ready(self) -> bool:
        # Imported by the arbiter, it would be what it was at the start after every reload.
        from service.web.probes import is_ready  # noqa: PLC0415

        return is_ready(self.asgi)

    def _is_over(self) -> bool:
        if self.nr >= self._most_requests:
            self.shared.wants_to_leave = True
        # Without an arbiter nobody would replace it, or stop it.
        return self.shared.order is not Order.NONE or self.ppid != os.getppid()

    def _are_closed(self) -> bool:
        for connection in list(self.connections):
            connection.close_if_idle(IDLE_SECONDS)
        return not self.connections

    async def _break_off(self) -> None:
        """End what did not end by itself, so that its clients see an end, though not a good one."""
        for connection in list(self.connections):
            connection.close_if_idle(0)
        # A transport tells in the loop's next turn that it is closed.
        await asyncio.sleep(_POLL_SECONDS)
        if not self.connections:
            return
        log.warning("connections are broken off", connections=len(self.connections))
        tasks = [task for c in list(self.connections) if (task := c.break_off()) is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_BREAK_OFF_SECONDS)
            for task in late:
                task.cancel()

    async def _end(self) -> None:
        seconds = _HURRIED_SECONDS if self._quick_shutdown else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.lifespan.shutdown()


def _never() -> bool:
    return False

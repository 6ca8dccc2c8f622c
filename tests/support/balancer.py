"""A TCP balancer that does what a Kubernetes Service and its controllers do.

It asks each server for its readiness now and then. New connections go to the ready ones in turn;
those that are open stay where they are. It tries nothing twice: a server that is listed as ready
and refuses is the client's loss.
"""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_HOST: Final = "127.0.0.1"
_QUESTION: Final = b"GET /readyz HTTP/1.1\r\nHost: balancer\r\nConnection: close\r\n\r\n"
_ANSWER_SECONDS: Final = 1.0
_CHUNK_BYTES: Final = 1 << 16


class Balancer:
    """Where clients connect.

    Args:
        interval: Seconds between two questions.
    """

    def __init__(self, interval: float) -> None:
        self.port = 0
        self._interval = interval
        self._is_ready: dict[int, bool] = {}
        self._next = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, port: int) -> None:
        """Know a server, which gets connections once it is ready."""
        self._is_ready[port] = False

    def remove(self, port: int) -> None:
        """Forget a server."""
        del self._is_ready[port]

    def ready(self) -> list[int]:
        """The ports of the servers that get connections."""
        return [port for port, is_ready in list(self._is_ready.items()) if is_ready]

    async def run(self, started: threading.Event, stop: asyncio.Event) -> None:
        """Balance until it is told to stop."""
        server = await asyncio.start_server(self._serve, _HOST, 0)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        while not stop.is_set():
            await asyncio.gather(*map(self._ask, list(self._is_ready)))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._interval)
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(self, port: int) -> None:
        line = b""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(_ANSWER_SECONDS):
                reader, writer = await asyncio.open_connection(_HOST, port)
                with contextlib.closing(writer):
                    writer.write(_QUESTION)
                    line = await reader.readline()
        if port in self._is_ready:
            self._is_ready[port] = line.startswith(b"HTTP/1.1 200 ")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            if ready := self.ready():
                self._next += 1
                port = ready[self._next % len(ready)]
                there, to_there = await asyncio.open_connection(_HOST, port)
                await asyncio.gather(_copy(reader, to_there), _copy(there, writer))
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction; its end, or its breach, is passed on."""
    try:
        while piece := await reader.read(_CHUNK_BYTES):
            writer.write(piece)
            await writer.drain()
    except OSError:
        writer.transport.abort()
    finally:
        writer.close()


@contextmanager
def balancing(interval: float = 0.1) -> Iterator[Balancer]:
    """Run a balancer in a thread for as long as the context is open."""
    balancer = Balancer(interval)
    started = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    thread = threading.Thread(
        target=lambda: loop.run_until_complete(balancer.run(started, stop)), name="balancer"
    )
    thread.start()
    started.wait()
    try:
        yield balancer
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()

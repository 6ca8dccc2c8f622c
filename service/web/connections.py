"""HTTP connections that end without a lost request, on top of gunicorn's own.

gunicorn's protocol closes a connection after whatever it answers when its worker has just been told
to stop, also when that answer's head had announced nothing: a client that trusts the connection has
its next request lost. Here an announcement is kept either way. A connection ends after an answer
with `Connection: close`, or after some idle time.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, Protocol

import structlog
from gunicorn.asgi.protocol import ASGIProtocol  # type: ignore[import-untyped] # it ships no types

# A closed connection whose client takes none of what is left for it is broken off.
_LINGER_SECONDS: Final = 5.0
_LAST_LINGER_SECONDS: Final = 0.5
# How many connections are accepted in one turn of the loop: other workers want some, too.
_BURST: Final = 16
# What accept(2) says when the process or the machine has no room for another.
_EXHAUSTED: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_EXHAUSTED_PAUSE_SECONDS: Final = 1.0

log = structlog.stdlib.get_logger(__name__)


class Owner(Protocol):
    """What a connection asks of its worker.

    Attributes:
        is_closing: Whether every answer that begins now is the last of its connection.
        connections: Those that are open.
    """

    is_closing: bool
    connections: set["Connection"]


class Connection(ASGIProtocol):  # type: ignore[misc] # untyped
    """One connection, which its worker can see and close."""

    def __init__(self, worker: Owner) -> None:
        super().__init__(worker)
        self._owner = worker
        self._loop = asyncio.get_running_loop()
        self._used_at = self._loop.time()
        self._answered: object = None
        self._is_last = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve it."""
        self._owner.connections.add(self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        super().connection_lost(exc)
        self._owner.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        self._used_at = self._loop.time()
        super().data_received(data)

    def close_if_idle(self, seconds: float) -> None:
        """Close it if it has been without a request for so long."""
        is_waiting = self._awaiting_request and not self._finishing_calls
        if is_waiting and self._loop.time() - self._used_at >= seconds:
            self._keepalive_timeout()

    def break_off(self) -> asyncio.Task[None] | None:
        """End it at once, whatever it does: what was not sent yet is lost.

        Returns:
            The task that serves it, which is told that the client is gone.
        """
        if self.transport is not None:
            self.transport.abort()
        task: asyncio.Task[None] | None = self._task
        return task

    def _arm_keepalive_timer(self) -> None:
        # The answer to the last request is complete only here.
        self._used_at = self._loop.time()
        super()._arm_keepalive_timer()

    def _will_close(self, request: Any, response_requires_close: bool) -> bool:
        # Asked when the answer's head is written and again when it is complete.
        if request is not self._answered:
            self._answered = request
            self._is_last = self._owner.is_closing or super()._will_close(
                request, response_requires_close
            )
        return self._is_last

    def _close_transport(self) -> None:
        was_closed = self._closed
        super()._close_transport()
        if not was_closed and self.transport is not None:
            self._linger(self.transport.get_write_buffer_size())

    def _linger(self, unsent: int) -> None:
        """See that a transport, which waits for its client without limit, does not wait forever."""
        if unsent:
            seconds = _LAST_LINGER_SECONDS if self._owner.is_closing else _LINGER_SECONDS
            self._loop.call_later(seconds, self._give_up_unless_less, unsent)

    def _give_up_unless_less(self, unsent: int) -> None:
        if self not in self._owner.connections:
            return
        left = self.transport.get_write_buffer_size()
        if left < unsent:
            self._linger(left)
        else:
            self.transport.abort()


class Acceptor:
    """Accepts the connections of a listening socket.

    asyncio's server drops those that it has accepted, but not begun to serve, when it is closed.

    Args:
        listener: The socket; several processes may share it.
        make_connection: Makes the protocol of each.
        context: For TLS.
    """

    def __init__(
        self,
        listener: socket.socket,
        make_connection: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._make_connection = make_connection
        self._context = context
        self._beginning: set[asyncio.Task[object]] = set()
        self._is_stopped = False

    def start(self) -> None:
        """Accept connections from now on."""
        if not self._is_stopped:
            self._listener.setblocking(False)
            self._loop.add_reader(self._listener, self._accept_some)

    async def stop(self, *, is_last: bool) -> None:
        """Accept no more, and close the socket in this process.

        Args:
            is_last: Whether nobody else accepts what waits in the kernel, so that this has to.
        """
        self._is_stopped = True
        self._loop.remove_reader(self._listener)
        while is_last and self._accept():
            pass
        self._listener.close()
        if self._beginning:
            await asyncio.wait(self._beginning, timeout=1)

    def _accept_some(self) -> None:
        for _ in range(_BURST):
            if not self._accept():
                return

    def _accept(self) -> bool:
        """Accept a connection; returns whether there may be more."""
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionAbortedError:
            return True
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            log.error("no connection can be accepted", reason=error.strerror)  # noqa: TRY400 - no stack is wanted
            self._loop.remove_reader(self._listener)
            self._loop.call_later(_EXHAUSTED_PAUSE_SECONDS, self.start)
            return False
        client.setblocking(False)
        task: asyncio.Task[object] = self._loop.create_task(self._begin(client))
        self._beginning.add(task)
        task.add_done_callback(self._beginning.discard)
        return True

    async def _begin(self, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._make_connection, client, ssl=self._context
            )
        except OSError as error:
            # TLS that fails is one, too; the client has gone or speaks something else.
            log.debug("a connection did not begin", reason=str(error))
            client.close()

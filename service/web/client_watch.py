"""Noticing that a client has gone away while its request waits or works."""

import asyncio
from collections.abc import Callable
from typing import Final

from starlette.types import Message, Receive

# Most requests end sooner, queued ones too; to watch one costs as much as a tenth of it.
_PATIENCE_SECONDS: Final = 0.05


class DisconnectedError(Exception):
    """The client went away before its request was done; there is nobody to answer."""


class ClientWatch:
    """Watches the client of one request, whose body has been read.

    Args:
        receive: The request's.
    """

    def __init__(self, receive: Receive) -> None:
        self.is_gone = False
        self._receive = receive
        self._on_gone: Callable[[], object] | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def expect(self, on_gone: Callable[[], object]) -> None:
        """Call something when the client is found to be gone, in place of what was to be called.

        It is looked for only when the request takes its time.

        Args:
            on_gone: What to call, within the loop.
        """
        self._on_gone = on_gone
        if self.is_gone:
            on_gone()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(_PATIENCE_SECONDS, self._start)

    def stop(self) -> None:
        """Watch no more."""
        self._on_gone = None
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            # Its CancelledError knows this watch: together they would wait for the collector.
            self._task = None

    def _start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        if self._on_gone is not None:
            self._on_gone()


async def nobody() -> Message:
    """The `receive` of work that no client waits for: it never goes away."""
    never: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    return await never

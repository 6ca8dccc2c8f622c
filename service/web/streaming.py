"""Answers that are read from the database row by row, while the client takes them.

They have a few connections of their own: a download that lasts for minutes holds up no other
request. A client that takes nothing for too long is cut off, and its connection goes back.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from prometheus_client import Counter
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.database import create_async_db_engine
from service.database.failures import failure_reason
from service.database.settings import DatabaseSettings
from service.web.admission import Admission
from service.web.client_watch import ClientWatch, DisconnectedError

logger = logging.getLogger(__name__)

STALLED = Counter(
    "service_streams_stalled", "Streamed answers that were broken off, as nobody took them."
)
# What a client has to take within `stall`: of more, a slow one would not get through all.
_BLOCK_BYTES: Final = 64 * 1024
# The name of the gate, and of the pool.
STREAMS: Final = "streams"
# What a stream is made of: pieces of the body, from a session that reads.
Chunks = Callable[[AsyncSession], AsyncIterator[bytes]]


class BrokenOffError(DisconnectedError):
    """The answer ends unfinished, for all that the client is still there."""


class StreamSessions:
    """Sessions for answers that are streamed; belongs to one event loop.

    Args:
        settings: Which database.
        limit: How many at once.
        stall: How long a client may take nothing, in seconds.
    """

    def __init__(self, settings: DatabaseSettings, *, limit: int, stall: float) -> None:
        self.stall = stall
        # No queue: a place may be taken for minutes.
        self.admission = Admission(STREAMS, limit=limit, queue=0, wait=stall)
        # A download that lasts is none that leaked; one that stalls is cut off.
        own = {"pool_size": limit, "max_overflow": 0, "pool_min_idle": 0, "leak_threshold": 0.0}
        self._engine = create_async_db_engine(
            settings=settings.model_copy(update=own), pool_name=STREAMS
        )

    @asynccontextmanager
    async def session(self, client: ClientWatch) -> AsyncIterator[AsyncSession]:
        """Give a session whose rows can be read slowly.

        PostgreSQL has server-side cursors within a transaction only. SQLite reads bit by bit
        without one, and there the kit's transactions take the write lock.

        Args:
            client: Who reads.

        Raises:
            OverloadedError: As many as may are reading.
        """
        is_sqlite = self._engine.dialect.name == "sqlite"
        options = {"isolation_level": "AUTOCOMMIT"} if is_sqlite else {}
        async with self.admission.place(client), AsyncSession(self._engine) as session:
            await session.connection(execution_options=options)
            yield session

    async def close(self) -> None:
        """Close the connections."""
        await self._engine.dispose()


class StreamResponse(Response):
    """An answer whose body comes from the database bit by bit.

    Args:
        chunks: Makes the body; asked for its first piece before the answer begins, so that an
            error until then is a problem and not a broken answer.
        media_type: What the body is.
    """

    def __init__(self, chunks: Chunks, media_type: str) -> None:
        # Not Response's own: that would declare the length of an empty body.
        self.status_code = 200
        self.media_type = media_type
        self.background = None
        self.init_headers()
        self._chunks = chunks
        self._has_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer.

        Raises:
            DisconnectedError: The client went away.
            BrokenOffError: It took nothing for too long, or the database failed in the middle.
        """
        sessions: StreamSessions = scope["app"].state.stream_sessions
        client = ClientWatch(receive)
        client.expect(_nothing)
        try:
            async with sessions.session(client) as session:
                await self._send(self._chunks(session), client, send, sessions.stall)
        except SQLAlchemyError as error:
            if not self._has_begun:
                raise
            # As for a problem, without a stack; but by now the answer can only be broken off.
            logger.warning("database error in a stream: %s: %s", failure_reason(error), error)
            raise BrokenOffError from None
        finally:
            client.stop()

    async def _send(
        self, chunks: AsyncIterator[bytes], client: ClientWatch, send: Send, stall: float
    ) -> None:
        piece = await anext(chunks, b"")
        message: dict[str, Any] = {"type": "http.response.start", "status": 200}
        self._has_begun = True
        await send({**message, "headers": self.raw_headers})
        while piece:
            for start in range(0, len(piece), _BLOCK_BYTES):
                await _send_block(piece[start : start + _BLOCK_BYTES], client, send, stall)
            piece = await anext(chunks, b"")
        # This waits as well: for the room that the last block took.
        await _send_block(b"", client, send, stall, more_body=False)


async def _send_block(
    block: bytes, client: ClientWatch, send: Send, stall: float, *, more_body: bool = True
) -> None:
    if client.is_gone:
        raise DisconnectedError
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(stall) as patience:
            # Not every server wakes whoever waits to send when the client goes away.
            client.expect(lambda: patience.reschedule(loop.time()))
            await send({"type": "http.response.body", "body": block, "more_body": more_body})
    except TimeoutError:
        if client.is_gone:
            raise DisconnectedError from None
        STALLED.inc()
        raise BrokenOffError from None
    finally:
        client.expect(_nothing)


def _nothing() -> None:
    """The flag is enough: it is looked at between two pieces."""

"""Noticing that a client has gone away."""

import asyncio
import weakref

from starlette.types import Message

from service.web.client_watch import ClientWatch, nobody
from tests.support.collector import without_collector
from tests.support.polling import until


def test_watch_that_has_begun_is_gone_without_the_collector() -> None:
    """In an overload each queued request would leave it all that it was made of."""

    async def scenario() -> None:
        watching = asyncio.Event()

        async def receive() -> Message:
            watching.set()
            return await nobody()

        client = ClientWatch(receive)
        client.expect(lambda: None)
        await watching.wait()
        client.stop()
        gone = weakref.ref(client)
        del client
        await until(lambda: gone() is None)

    with without_collector():
        asyncio.run(scenario())

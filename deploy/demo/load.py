"""Clients that ask for products all the time, as those of a shop would."""

import asyncio
import random
import threading
import time
from collections import Counter, deque
from typing import Final, Self

import httpx2

CLIENTS: Final = 24
_PAUSE_SECONDS: Final = 0.4
# As a client should that is told to come back later.
_PAUSE_AFTER_503: Final = 0.5
_NO_ANSWER: Final = 0
_RECENT_SECONDS: Final = 1.0


class Load:
    """So many clients in a thread of their own, until the block ends.

    Args:
        port: Where the service listens.
    """

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._answers: deque[tuple[float, int]] = deque(maxlen=10_000)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        # Made here, so that there is something to end however soon the block does.
        self._asking = self._loop.create_task(self._ask_all())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._asking.cancel)
        self._thread.join()

    def change(self, path: str) -> None:
        """Send one request that changes a product, and do not wait for its answer."""
        self._loop.call_soon_threadsafe(self._begin_change, path)

    def get(self, path: str) -> str:
        """The status and the body of an answer, in a line."""
        answer = httpx2.get(f"{self._url}{path}", timeout=10)
        return f"{answer.status_code} {answer.text.strip()}"

    def recent(self) -> str:
        """How the requests of the last second ended, such as `131x 200, 4x 503`."""
        since = time.monotonic() - _RECENT_SECONDS
        counts = Counter(status for at, status in [*self._answers] if at > since)
        return ", ".join(
            f"{count}x {status or 'no answer'}" for status, count in sorted(counts.items())
        )

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._asking)
        except asyncio.CancelledError:
            pass
        finally:
            self._loop.close()

    async def _ask_all(self) -> None:
        limits = httpx2.Limits(max_connections=None)
        async with httpx2.AsyncClient(base_url=self._url, timeout=90, limits=limits) as http:
            self._http = http
            self._tasks |= {asyncio.create_task(self._ask()) for _ in range(CLIENTS)}
            try:
                await asyncio.wait(self._tasks)
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask(self) -> None:
        while True:
            number = random.randint(1, 20)  # noqa: S311 - guards nothing
            status = await self._status("GET", f"/products/{number}")
            pause = _PAUSE_AFTER_503 if status != httpx2.codes.OK else _PAUSE_SECONDS
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - the same

    def _begin_change(self, path: str) -> None:
        self._tasks.add(asyncio.create_task(self._change(path)))

    async def _change(self, path: str) -> None:
        await self._status("PATCH", path, {"description": "Changed by the demo"})

    async def _status(self, method: str, path: str, body: object = None) -> int:
        try:
            status = (await self._http.request(method, path, json=body)).status_code
        except httpx2.TransportError:
            status = _NO_ANSWER
        self._answers.append((time.monotonic(), status))
        return status

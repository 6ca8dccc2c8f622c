"""A closed loop of clients over HTTP/1.1, in a process of its own: each asks when it was answered.

Unlike wrk they do as a 503 says: they wait as long as its `Retry-After`, and up to as long again at
random, so that those who were turned away together do not come back together. A request without an
answer in time fails, and its client connects anew, as it does when an answer says that it is the
last of its connection. SIGTERM ends them early. They print a line when all of them ask, and at the
end how each request ended.
"""

import argparse
import asyncio
import json
import random
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Final, NamedTuple, cast

import uvloop

TIMEOUT: Final = "timeout"
BROKEN: Final = "broken"
# Before a client that had no answer connects anew: one whose server is gone would spin.
_PAUSE_SECONDS: Final = 0.1
_HOST: Final = "127.0.0.1"
_HEAD_END: Final = b"\r\n\r\n"
_FAILED: Final = "the clients failed"


class Plan(NamedTuple):
    """What the clients do. Times are in seconds.

    The clients are connected, then begin one after another within `warm_up`, and what ends in it
    does not count. Who is not `patient` asks again at once, whatever a 503 says.
    """

    port: int
    clients: int
    seconds: float
    products: int
    creates: float = 0.0
    timeout: float = 10.0
    warm_up: float = 1.0
    patient: bool = True


class Answer(NamedTuple):
    """How a request ended: when it was sent by the monotonic clock, its seconds, its status."""

    sent: float
    seconds: float
    status: str

    @property
    def is_success(self) -> bool:
        """Whether the server did what was asked."""
        return self.status.startswith("2")


def begin(plan: Plan) -> subprocess.Popen[bytes]:
    """Start the clients, on the core of whoever calls this; they are warm when this returns.

    Args:
        plan: What they do.

    Returns:
        What `answers` reads. Terminated, they ask for nothing more, and end with what they have.

    Raises:
        RuntimeError: The clients themselves failed.
    """
    given = json.dumps(plan._asdict())
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.load.client", given],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    if not process.stdout.readline():
        process.communicate()
        raise RuntimeError(_FAILED)
    return process


def answers(process: subprocess.Popen[bytes]) -> list[Answer]:
    """Wait for the clients to end.

    Returns:
        How each of their requests ended, in that order.

    Raises:
        RuntimeError: The clients themselves failed.
    """
    output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(_FAILED)
    return [Answer(*each) for each in json.loads(output)]


class _Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self) -> None:
        self.is_last = False
        self._received = b""
        self._answer: asyncio.Future[tuple[str, float]] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is no subclass of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(_HEAD_END)
        if not end or self._answer is None or self._answer.done():
            return
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (each.partition(":") for each in lines)
        }
        if len(body) >= int(headers.get("content-length", "0")):
            self._received = b""
            self.is_last = headers.get("connection", "").strip().lower() == "close"
            pause = float(headers.get("retry-after", "0"))
            self._answer.set_result((status.split(" ")[1], pause))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError())

    async def ask(self, request: bytes, seconds: float) -> tuple[str, float]:
        """Send a request, for so many seconds; its status, and how long to wait before another."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        timer = loop.call_later(seconds, _end, self._answer)
        self._transport.write(request)
        try:
            return await self._answer
        finally:
            timer.cancel()

    @property
    def is_open(self) -> bool:
        """Whether the server has not closed it, as it may while nothing is asked."""
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _end(answer: asyncio.Future[tuple[str, float]]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())


def _tell() -> None:
    print("warm", flush=True)


class _Clients:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._counted_from = self._end = 0.0
        self._codes = uuid.uuid4().hex
        self._created = 0
        self._random = random.Random()  # noqa: S311 - guards nothing
        self.answers: list[Answer] = []

    async def run(self) -> None:
        # First of all: a busy server under uvloop accepts one connection in each turn of its loop.
        connections = [await self._connect() for _ in range(self._plan.clients)]
        self._counted_from = time.monotonic() + self._plan.warm_up
        self._end = self._counted_from + self._plan.seconds
        loop = asyncio.get_running_loop()
        # Before anybody is told that there is something to end.
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        loop.call_later(self._plan.warm_up, _tell)
        await asyncio.gather(*map(self._client, range(self._plan.clients), connections))

    def _stop(self) -> None:
        self._end = time.monotonic()

    async def _client(self, number: int, connection: _Connection | None) -> None:
        await asyncio.sleep(self._plan.warm_up * number / self._plan.clients)
        while (sent := time.monotonic()) < self._end:
            pause = 0.0
            try:
                if connection is None or not connection.is_open:
                    connection = await self._connect()
                sent = time.monotonic()
                status, pause = await connection.ask(self._request(), self._plan.timeout)
            except TimeoutError:
                status = TIMEOUT
            except OSError:
                status = BROKEN
            if status in (TIMEOUT, BROKEN):
                pause = _PAUSE_SECONDS
            if connection is not None and (status in (TIMEOUT, BROKEN) or connection.is_last):
                connection.close()
                connection = None
            now = time.monotonic()
            if now >= self._counted_from:
                self.answers.append(Answer(sent, now - sent, status))
            if self._plan.patient or connection is None:
                await self._wait(pause * self._random.uniform(1, 2))
        if connection is not None:
            connection.close()

    async def _connect(self) -> _Connection:
        async with asyncio.timeout(self._plan.timeout):
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(_Connection, _HOST, self._plan.port)
            return connection

    async def _wait(self, seconds: float) -> None:
        if seconds:
            await asyncio.sleep(min(seconds, max(self._end - time.monotonic(), 0)))

    def _request(self) -> bytes:
        if self._random.random() >= self._plan.creates:
            number = self._random.randint(1, self._plan.products)
            return b"GET /products/%d HTTP/1.1\r\nHost: bench\r\n\r\n" % number
        self._created += 1
        code = f"{self._codes}-{self._created}"
        body = json.dumps({"code": code, "name": "Fender", "price": "19.90"}).encode()
        return (
            b"POST /products HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )


def main() -> None:
    """Run the clients, and print how each request ended as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("plan", help="the fields of a plan, as JSON")
    clients = _Clients(Plan(**json.loads(parser.parse_args().plan)))
    uvloop.run(clients.run())
    json.dump(clients.answers, sys.stdout)


if __name__ == "__main__":
    main()

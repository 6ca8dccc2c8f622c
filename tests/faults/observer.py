"""Probes as a kubelet sends them: each over a new connection, with a deadline, all the time."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from typing import Final, NamedTuple

LIVENESS: Final = "/livez"
READINESS: Final = "/readyz"
PROBES: Final = (LIVENESS, READINESS, "/startupz", "/readyz/database", "/readyz/schema")
TIMEOUT: Final = "timeout"
BROKEN: Final = "broken"


class Said(NamedTuple):
    """What a probe said: when it was asked by the monotonic clock, its seconds, its status."""

    probe: str
    asked: float
    seconds: float
    status: str

    @property
    def passes(self) -> bool:
        """Whether a kubelet takes it for success."""
        return self.status == "200"


class Observer:
    """Asks some probes of a service, each in a thread of its own.

    Args:
        port: Of the service.
        probes: Their paths.
        every: Seconds from one question to the next of the same probe.
        timeout: Seconds that an answer may take.
    """

    def __init__(self, port: int, probes: Sequence[str], *, every: float, timeout: float) -> None:
        self._port = port
        self._probes = probes
        self._every = every
        self._timeout = timeout
        self._stop = threading.Event()
        self.said: list[Said] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Ask for as long as the context is open."""
        threads = [threading.Thread(target=self._ask_on, args=[probe]) for probe in self._probes]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def _ask_on(self, probe: str) -> None:
        due = time.monotonic()
        while not self._stop.wait(due - time.monotonic()):
            self.said.append(ask(self._port, probe, self._timeout))
            due = max(due + self._every, time.monotonic())


def ask(port: int, probe: str, timeout: float) -> Said:
    """Ask one probe once.

    Args:
        port: Of the service.
        probe: Its path.
        timeout: Seconds that the connection, and again the answer, may take.
    """
    start = time.monotonic()
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", probe)
        answer = connection.getresponse()
        answer.read()
        status = str(answer.status)
    except TimeoutError:
        status = TIMEOUT
    except (OSError, HTTPException):
        status = BROKEN
    finally:
        connection.close()
    return Said(probe, start, time.monotonic() - start, status)

"""Clients that keep their connections and try nothing twice, while servers come and go under them.

Shared by the benchmark of rolling restarts and by its short form among the tests.
"""

import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Final, NamedTuple, Self

from tests.load.client import Answer, Plan, answers, begin
from tests.support.balancer import Balancer, balancing
from tests.support.polling import eventually
from tests.support.server import Service

CLIENTS: Final = 32
# The clients end when they are told to.
_LONG_SECONDS: Final = 3600.0
Start = Callable[[], AbstractContextManager[Service]]


class Outcome(NamedTuple):
    """How the requests ended: how many there were, and which statuses the failed ones had."""

    requests: int
    failed: dict[str, int]
    longest: float


class Load:
    """Clients that ask for products until they are told to end; the outcome is known then."""

    def __init__(self, port: int, products: int, clients: int) -> None:
        plan = Plan(port, clients, _LONG_SECONDS, products, timeout=30.0, warm_up=0.5)
        self._process = begin(plan)
        self.outcome: Outcome | None = None

    def end(self) -> Outcome:
        """End it."""
        self._process.send_signal(signal.SIGTERM)
        return _outcome(answers(self._process))


@contextmanager
def load(port: int, products: int, clients: int = CLIENTS) -> Iterator[Load]:
    """Run clients for as long as the context is open; they ask from its start on."""
    running = Load(port, products, clients)
    try:
        yield running
    finally:
        running.outcome = running.end()


def rolling(start: Start, restarts: int, products: int, clients: int = CLIENTS) -> Outcome:
    """Two servers behind a balancer, of which each in turn is stopped and started anew."""
    with balancing() as balancer, ExitStack() as stack:
        servers = [stack.enter_context(_Restartable(start, balancer)) for _ in range(2)]
        eventually(lambda: len(balancer.ready()) == 2)
        with load(balancer.port, products, clients) as running:
            for number in range(restarts):
                servers[number % 2].restart()
                eventually(lambda: len(balancer.ready()) == 2)
    assert running.outcome is not None
    return running.outcome


def reloading(service: Service, reloads: int, products: int, clients: int = CLIENTS) -> Outcome:
    """One server that is told to reload, each time when the last reload is done."""
    with load(service.port, products, clients) as running:
        for _ in range(reloads):
            old = {worker.pid for worker in service.workers()}
            service.process.send_signal(signal.SIGHUP)
            eventually(lambda o=old: _are_new(service, o), within=60)  # type: ignore[misc] # bound now
    assert running.outcome is not None
    return running.outcome


def _are_new(service: Service, old: set[int]) -> bool:
    workers = {worker.pid for worker in service.workers()}
    return len(workers) == len(old) and workers.isdisjoint(old)


def _outcome(ended: list[Answer]) -> Outcome:
    failed = Counter(answer.status for answer in ended if not answer.is_success)
    return Outcome(len(ended), dict(failed), max(answer.seconds for answer in ended))


class _Restartable:
    """A server that a balancer knows for as long as it runs."""

    def __init__(self, start: Start, balancer: Balancer) -> None:
        self._start = start
        self._balancer = balancer
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        service = self._stack.enter_context(self._start())
        self._balancer.add(service.port)
        self._stack.callback(self._balancer.remove, service.port)
        # Last in, first out: it is stopped while the balancer still knows it.
        self._stack.callback(_stop, service)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def restart(self) -> None:
        """Stop it, then start another."""
        self._stack.close()
        self.__enter__()


def _stop(service: Service) -> None:
    service.process.terminate()
    service.process.wait(timeout=60)

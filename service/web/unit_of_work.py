"""What a request does with the database: in one place, in one thread, until its time is over.

It waits for its place without a thread. When the client goes away, or the time for the database is
over, what is asked of the database is cut off.
"""

import asyncio
import random
from collections.abc import Callable
from contextvars import copy_context
from functools import partial
from typing import Final, TypeVar

from prometheus_client import Counter
from sqlalchemy.exc import SQLAlchemyError

from service.database.deadline import TimeLimit, time_limit
from service.database.failures import DeadlockDetected, SerializationFailure, classify
from service.errors import OverloadedError
from service.web.admission import Admission
from service.web.client_watch import ClientWatch, DisconnectedError
from service.web.threads import LoopThreads

ResultT = TypeVar("ResultT")

RETRIES = Counter(
    "service_transaction_retries",
    "Transactions that were run again, by the failure that ended them.",
    ["http_route", "reason"],
)
# Which failures another try may not meet again.
_TRANSIENT: Final = (SerializationFailure, DeadlockDetected)
# The longest pause before the second try, in seconds; it doubles with each.
_PAUSE_SECONDS: Final = 0.01
_LONGEST_PAUSE_SECONDS: Final = 0.2


class UnitOfWork:
    """Runs what requests do with the database; belongs to one event loop.

    Args:
        admission: Who may.
        threads: How many at once.
        seconds: How long each may take, its wait for a place included.
    """

    def __init__(self, admission: Admission, *, threads: int, seconds: float) -> None:
        self.admission = admission
        self._threads = LoopThreads(threads, "database")
        self._seconds = seconds

    async def run(
        self, client: ClientWatch, work: Callable[[], ResultT], *, route: str, retries: int = 0
    ) -> ResultT:
        """Do something in a thread that may hold one database connection.

        Args:
            client: For whom.
            work: What to do.
            route: The template of the route, for the metrics.
            retries: How often to do it again after a serialization failure or a deadlock.

        Raises:
            OverloadedError: There is no place for it.
            DisconnectedError: The client went away.
            sqlalchemy.exc.SQLAlchemyError: As `work` raises it, also when the time is over.
        """
        try:
            with time_limit(self._seconds) as limit:
                async with self.admission.place(client):
                    client.expect(limit.cancel)
                    return await self._try(work, limit, route, retries)
        except SQLAlchemyError:
            if client.is_gone:
                raise DisconnectedError from None
            raise
        finally:
            client.stop()

    def turn_away(self) -> OverloadedError | None:
        """As `Admission.turn_away`."""
        return self.admission.turn_away()

    def resize(self, limit: int, queue: int) -> None:
        """As `Admission.resize`, with a thread for each that may be in."""
        self._threads.resize(limit)
        self.admission.resize(limit, queue)

    def close(self) -> None:
        """Let the threads end."""
        self._threads.close()

    async def _try(
        self, work: Callable[[], ResultT], limit: TimeLimit, route: str, retries: int
    ) -> ResultT:
        for pause in _pauses(retries):
            try:
                return await self._in_thread(work, limit)
            except SQLAlchemyError as error:
                failure = classify(error)
                if not isinstance(failure, _TRANSIENT):
                    raise
                RETRIES.labels(route, failure.reason).inc()
                await asyncio.sleep(pause)
        return await self._in_thread(work, limit)

    async def _in_thread(self, work: Callable[[], ResultT], limit: TimeLimit) -> ResultT:
        future = self._threads.submit(partial(copy_context().run, work))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # The thread has a connection for as long as it runs, and so needs the place.
            limit.cancel()
            await asyncio.wait([future])
            if not future.cancelled():
                future.exception()
            raise


def _pauses(retries: int) -> list[float]:
    """How long to wait before each retry; at random, so that rivals do not meet again."""
    longest = [min(_LONGEST_PAUSE_SECONDS, _PAUSE_SECONDS * 2**number) for number in range(retries)]
    return [random.uniform(0, seconds) for seconds in longest]  # noqa: S311 - guards nothing

"""Having a connection open in time, and be set up in time.

What is opened has no socket yet that could be shut down: the attempt is left alone instead.
"""

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from functools import partial
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from service.database.deadline import TimeLimit, current_limit, watchdog
from service.database.deadline_calls import CallGuard
from service.database.deadline_drivers import in_its_loop
from service.database.failures import OutOfTime


class OpeningGuard:
    """Guards the opening of an engine's connections.

    Args:
        calls: The guard of its other calls.
    """

    def __init__(self, calls: CallGuard) -> None:
        self._calls = calls
        # The connections that are being set up, by identity.
        self._set_ups: dict[int, int] = {}

    def install(self, engine: Engine) -> None:
        """Wrap the opening, and what SQLAlchemy and others ask of a new connection."""
        dialect: Any = engine.dialect
        in_time = self._connect_as_task if dialect.is_async else self._connect_in_thread
        dialect.connect = partial(in_time, dialect.connect)
        event.listen(engine, "connect", self._begin_set_up, insert=True)
        event.listen(engine, "connect", self._end_set_up)

    def abandon_set_up(self, connection: Any) -> None:
        """See to a connection that is closed before it was set up.

        SQLAlchemy closes it within the handling of what a listener raised: an error of the
        driver's own, which does not know that it was cut.
        """
        key = self._set_ups.pop(id(connection), None)
        if key is None or watchdog.leave(key):
            return
        _, error, _ = sys.exc_info()
        if error is not None and not isinstance(error, OutOfTime):
            error.__cause__ = self._calls.error(current_limit())

    def _connect_in_thread(
        self, connect: Callable[..., Any], *args: Any, **params: Any
    ) -> DBAPIConnection:
        """Open a connection in a thread that is left alone when it takes too long.

        It closes what it gets too late.
        """
        limit, ends = self._begin()
        self._calls.cuts.shorten(params, ends - time.monotonic())
        opened: Future[DBAPIConnection] = Future()

        def run() -> None:
            try:
                connection = connect(*args, **params)
            except BaseException as error:  # noqa: BLE001 - raised by whoever waits
                with contextlib.suppress(InvalidStateError):
                    opened.set_exception(error)
                return
            try:
                opened.set_result(connection)
            except InvalidStateError:
                connection.close()

        key = watchdog.enter(ends, limit, lambda late: late.cancel(), opened)
        try:
            self._refuse_cancelled(limit)
            threading.Thread(target=run, name="database-connect", daemon=True).start()
            return opened.result()
        except CancelledError:
            raise self._calls.error(limit) from None
        finally:
            watchdog.leave(key)
            opened.cancel()

    def _connect_as_task(
        self, connect: Callable[..., Any], *args: Any, **params: Any
    ) -> DBAPIConnection:
        """Open a connection of an asyncio driver."""
        create = params.pop("async_creator_fn", self._calls.dialect.loaded_dbapi.driver.connect)
        limit, ends = self._begin()

        async def create_in_time(*args: Any, **params: Any) -> Any:
            loop = asyncio.get_running_loop()

            def expire(scope: asyncio.Timeout) -> None:
                with contextlib.suppress(RuntimeError):  # it has ended meanwhile
                    scope.reschedule(loop.time())

            scope = asyncio.timeout(None)
            try:
                async with scope:
                    cut = partial(in_its_loop, loop)
                    key = watchdog.enter(ends, limit, cut, partial(expire, scope))
                    try:
                        self._refuse_cancelled(limit)
                        return await create(*args, **params)
                    finally:
                        watchdog.leave(key)
            except TimeoutError as error:
                if scope.expired():
                    raise self._calls.error(limit) from error
                raise

        return connect(*args, async_creator_fn=create_in_time, **params)  # type: ignore[no-any-return]

    def _begin(self) -> tuple[TimeLimit | None, float]:
        limit = current_limit()
        return limit, self._calls.end_of(limit, time.monotonic() + self._calls.seconds)

    def _refuse_cancelled(self, limit: TimeLimit | None) -> None:
        """Refuse what was entered too late for the cancellation to see it."""
        if limit is not None and limit.is_cancelled:
            raise self._calls.error(limit)

    def _begin_set_up(self, connection: Any, record: ConnectionPoolEntry) -> None:
        """Limit what the listeners to come ask of a new connection by cursors of their own."""
        del record
        self._calls.cuts.opened(connection)
        limit, ends = self._begin()
        key = watchdog.enter(ends, limit, self._calls.cut, connection)
        self._set_ups[id(connection)] = key
        self._refuse_cancelled(limit)

    def _end_set_up(self, connection: Any, record: ConnectionPoolEntry) -> None:
        del record
        if not watchdog.leave(self._set_ups.pop(id(connection))):
            raise self._calls.cut_error(current_limit(), connection)

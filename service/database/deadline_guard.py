"""Having every call of an engine to its driver end in time.

The methods of the engine's dialect are wrapped, of this one instance only: they are what crosses
the network, COMMIT, ROLLBACK and the ping included, which fire no engine event; and an event for
each statement costs several times as much.
"""

import asyncio
import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, InvalidStateError
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import AdaptedConnection, Dialect, ExceptionContext
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from service.database.deadline import NO_TIME, TimeLimit, current_limit, watchdog
from service.database.deadline_drivers import DRIVERS, DriverCuts, in_its_loop
from service.database.failures import DeadlineExceeded, OutOfTime

# Beyond a limit that is over there is this much time to leave a connection in order.
GRACE_SECONDS: Final = 0.5

_CALLS: Final = (
    "do_execute", "do_execute_no_params", "do_executemany", "do_begin", "do_commit", "do_ping",
    "do_begin_twophase", "do_prepare_twophase", "do_commit_twophase", "do_recover_twophase",
    "get_isolation_level", "set_isolation_level",
)  # fmt: skip
_LAST_CALLS: Final = ("do_rollback", "do_rollback_twophase", "reset_isolation_level")
_CLOSES: Final = ("do_close", "do_terminate")


def guard(engine: Engine, seconds: float) -> None:
    """Limit each call of an engine to its driver, as `time_limit` says, or else to some seconds.

    Args:
        engine: One of a driver that `DRIVERS` knows; another one's is left as it is.
        seconds: How long a call may take that is within no limit.
    """
    dialect = engine.dialect
    cuts = DRIVERS.get(dialect.driver)
    if cuts is None:
        return
    DialectGuard(dialect, cuts, seconds).install(engine)


class DialectGuard:
    """Guards the calls of one dialect.

    Args:
        dialect: Whose.
        cuts: How its driver's calls are cut.
        seconds: How long a call may take that is within no limit.
    """

    def __init__(self, dialect: Dialect, cuts: DriverCuts, seconds: float) -> None:
        self._dialect = dialect
        self._cuts = cuts
        self._seconds = seconds
        # SQLAlchemy wraps what is an error of the driver's, and tells its kind by its class.
        base: type[Exception] = dialect.loaded_dbapi.OperationalError
        self._error_class: Any = type("OutOfTimeError", (OutOfTime, base), {})
        # The connections that are being set up, by identity.
        self._opening: dict[int, int] = {}

    def install(self, engine: Engine) -> None:
        """Wrap the dialect's methods, its cursors, and the opening of connections."""
        dialect: Any = self._dialect
        for name in _CALLS:
            setattr(dialect, name, self.guarded(getattr(dialect, name)))
        for name in _LAST_CALLS:
            setattr(dialect, name, self.guarded(getattr(dialect, name), is_last=True))
        for name in _CLOSES:
            setattr(dialect, name, self._closing(getattr(dialect, name)))
        dialect.execution_ctx_cls = self._with_guarded_cursors(dialect.execution_ctx_cls)
        if self._cuts.connects:
            in_time = self._connect_as_task if dialect.is_async else self._connect_in_thread
            dialect.connect = partial(in_time, dialect.connect)
            event.listen(engine, "connect", self._begin_set_up, insert=True)
            event.listen(engine, "connect", self._end_set_up)
        event.listen(engine, "handle_error", self._on_error)

    def guarded(
        self, method: Callable[..., Any], *, is_last: bool = False, seconds: float | None = None
    ) -> Callable[..., Any]:
        """Make a method end in time.

        Args:
            method: Its first argument is a cursor or a connection.
            is_last: Whether it is to leave a connection in order, for which there is a little
                time even when the limit is over.
            seconds: How long it may take within any limit or none.
        """
        # Names of its own cost a call the least.
        longest, severs, cut = seconds or self._seconds, self._cuts.severs, self._cut
        limit_of_now, now = current_limit, time.monotonic
        enter, leave = watchdog.enter, watchdog.leave

        def call(target: Any, *args: Any, **kwargs: Any) -> Any:
            limit = limit_of_now()
            ends = now() + longest
            if limit is None:
                key = enter(ends, limit, cut, target)
            else:
                if limit.ends < ends:
                    ends = self._end_of(limit, ends, is_last=is_last)
                key = enter(ends, limit, cut, target)
                if (limit.cancelled or limit.outer is not None) and limit.is_cancelled:
                    key = self._enter_again(key, limit, target, is_last=is_last)
            try:
                result = method(target, *args, **kwargs)
            except Exception as error:
                if leave(key):
                    raise
                raise self._cut_error(limit, target) from error
            except BaseException:
                leave(key)
                raise
            if not leave(key) and severs:
                raise self._cut_error(limit, target)
            return result

        return call

    def _enter_again(self, key: int, limit: TimeLimit, target: Any, *, is_last: bool) -> int:
        """Refuse a call whose limit was cancelled when it was entered, or give it its grace."""
        is_whole = watchdog.leave(key)
        if not is_whole and self._cuts.severs:
            raise self._cut_error(limit, target)
        ends = self._end_of(limit, math.inf, is_last=is_last)
        return watchdog.enter(ends, limit, self._cut, target)

    def _end_of(self, limit: TimeLimit, latest: float, *, is_last: bool) -> float:
        now = time.monotonic()
        ends = now if limit.is_cancelled else limit.ends
        if is_last and limit is not NO_TIME:
            ends = max(ends, now + GRACE_SECONDS)
        if ends <= now:
            raise self._error(limit)
        return min(latest, ends)

    def _error(self, limit: TimeLimit | None) -> Exception:
        failure = DeadlineExceeded if limit is None else limit.failure
        error = self._error_class(failure.reason.replace("_", " "))
        error.failure = failure
        return error  # type: ignore[no-any-return]

    def _cut_error(self, limit: TimeLimit | None, target: Any) -> Exception:
        # In a loop the cut may only be on its way.
        self._cut(target)
        error: Any = self._error(limit)
        error.is_cut = self._cuts.severs
        return error  # type: ignore[no-any-return]

    def _cut(self, target: Any) -> None:
        if (connection := _connection_of(target)) is not None:
            self._cuts.cut(connection)

    @staticmethod
    def _on_error(context: ExceptionContext) -> None:
        error = context.original_exception
        if isinstance(error, OutOfTime):
            context.is_disconnect = error.is_cut
            # A slow query says nothing of the pool's other connections.
            context.invalidate_pool_on_disconnect = False

    def _closing(self, method: Callable[..., Any]) -> Callable[[Any], None]:
        # To cut a connection closes it as well, and asyncpg would wait for two seconds or for ever.
        seconds = GRACE_SECONDS if self._cuts.severs else self._seconds
        in_time = self.guarded(method, is_last=True, seconds=seconds)

        def close(connection: Any) -> None:
            key = self._opening.pop(id(connection), None)
            if key is not None and not watchdog.leave(key):
                self._explain_failed_set_up()
            # One that was cut is closed.
            with contextlib.suppress(self._error_class):
                in_time(connection)

        return close

    def _explain_failed_set_up(self) -> None:
        # SQLAlchemy closes a connection within the handling of what a listener raised: an error
        # of the driver's own, which does not know that it was cut.
        _, error, _ = sys.exc_info()
        if error is not None and not isinstance(error, OutOfTime):
            error.__cause__ = self._error(current_limit())

    def _with_guarded_cursors(self, context_class: Any) -> Any:
        cursor_class = _cursor_class(self.guarded)
        fetches = self._cuts.fetches

        def create_cursor(context: Any) -> Any:
            cursor = context_class.create_cursor(context)
            is_guarded = fetches or context._is_server_side  # noqa: SLF001 - no public way
            return cursor_class(cursor) if is_guarded else cursor

        return type(context_class.__name__, (context_class,), {"create_cursor": create_cursor})

    def _connect_in_thread(
        self, connect: Callable[..., Any], *args: Any, **params: Any
    ) -> DBAPIConnection:
        """Open a connection in a thread that is left alone when it takes too long.

        It closes what it gets too late.
        """
        limit = current_limit()
        ends = self._end_of_opening(limit)
        self._cuts.shorten(params, ends - time.monotonic())
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
            if limit is not None and limit.is_cancelled:
                raise self._error(limit)
            threading.Thread(target=run, name="database-connect", daemon=True).start()
            return opened.result()
        except CancelledError:
            raise self._error(limit) from None
        finally:
            watchdog.leave(key)
            opened.cancel()

    def _connect_as_task(
        self, connect: Callable[..., Any], *args: Any, **params: Any
    ) -> DBAPIConnection:
        """Open a connection of an asyncio driver."""
        create = params.pop("async_creator_fn", self._dialect.loaded_dbapi.driver.connect)
        limit = current_limit()
        ends = self._end_of_opening(limit)

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
                        return await create(*args, **params)
                    finally:
                        watchdog.leave(key)
            except TimeoutError as error:
                if scope.expired():
                    raise self._error(limit) from error
                raise

        return connect(*args, async_creator_fn=create_in_time, **params)  # type: ignore[no-any-return]

    def _end_of_opening(self, limit: TimeLimit | None) -> float:
        ends = time.monotonic() + self._seconds
        return ends if limit is None else self._end_of(limit, ends, is_last=False)

    def _begin_set_up(self, connection: Any, record: ConnectionPoolEntry) -> None:
        """Limit what the listeners to come ask of a new connection by cursors of their own."""
        del record
        self._cuts.opened(connection)
        limit = current_limit()
        ends = self._end_of_opening(limit)
        self._opening[id(connection)] = watchdog.enter(ends, limit, self._cut, connection)

    def _end_set_up(self, connection: Any, record: ConnectionPoolEntry) -> None:
        del record
        if not watchdog.leave(self._opening.pop(id(connection))):
            raise self._cut_error(current_limit(), connection)


def _connection_of(target: Any) -> Any:
    """The driver's connection, or SQLAlchemy's adapted one, that a call is about."""
    if isinstance(target, Connection):
        target = None if target.invalidated else target.connection
    if isinstance(target, PoolProxiedConnection):
        return target.dbapi_connection
    if isinstance(target, AdaptedConnection):
        return target
    # That of a cursor, which has either; a connection has none.
    connection = getattr(target, "_adapt_connection", None)
    return connection or getattr(target, "connection", target)


def _cursor_class(guarded: Callable[..., Callable[..., Any]]) -> type:
    """A cursor whose fetches end in time, and which is in all else the one it is made from."""

    def passed_on(name: str, *, is_last: bool = False) -> Callable[..., Any]:
        def call(cursor: Any, *args: Any, **kwargs: Any) -> Any:
            return getattr(cursor._inner, name)(*args, **kwargs)  # noqa: SLF001 - of this class

        return guarded(call, is_last=is_last)

    class GuardedCursor:
        __slots__ = ("_inner",)

        def __init__(self, inner: Any) -> None:
            object.__setattr__(self, "_inner", inner)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def __setattr__(self, name: str, value: Any) -> None:
            setattr(self._inner, name, value)

        def __iter__(self) -> Iterator[Any]:
            return iter(self.fetchone, None)

        fetchone = passed_on("fetchone")
        fetchmany = passed_on("fetchmany")
        fetchall = passed_on("fetchall")
        close = passed_on("close", is_last=True)

    return GuardedCursor

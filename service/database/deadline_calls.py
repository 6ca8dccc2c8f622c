"""Having a call to a driver end in time."""

import math
import time
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.engine import AdaptedConnection, Dialect
from sqlalchemy.pool import PoolProxiedConnection

from service.database.deadline import NO_TIME, TimeLimit, current_limit, watchdog
from service.database.deadline_drivers import DriverCuts
from service.database.failures import DeadlineExceeded, OutOfTime

# Beyond a limit that is over there is this much time to leave a connection in order.
GRACE_SECONDS: Final = 0.5


class CallGuard:
    """Guards the calls of one dialect.

    Args:
        dialect: Whose.
        cuts: How its driver's calls are cut.
        seconds: How long a call may take that is within no limit.
    """

    def __init__(self, dialect: Dialect, cuts: DriverCuts, seconds: float) -> None:
        self.dialect = dialect
        self.cuts = cuts
        self.seconds = seconds
        # SQLAlchemy wraps what is an error of the driver's, and tells its kind by its class.
        base: type[Exception] = dialect.loaded_dbapi.OperationalError
        self.error_class: Any = type("OutOfTimeError", (OutOfTime, base), {})

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
        longest, severs, cut = seconds or self.seconds, self.cuts.severs, self.cut
        limit_of_now, now = current_limit, time.monotonic
        enter, leave = watchdog.enter, watchdog.leave

        def call(target: Any, *args: Any, **kwargs: Any) -> Any:
            limit = limit_of_now()
            ends = now() + longest
            if limit is None:
                key = enter(ends, limit, cut, target)
            else:
                if limit.ends < ends:
                    ends = self.end_of(limit, ends, is_last=is_last)
                key = enter(ends, limit, cut, target)
                if (limit.cancelled or limit.outer is not None) and limit.is_cancelled:
                    key = self._enter_again(key, limit, target, is_last=is_last)
            try:
                result = method(target, *args, **kwargs)
            except Exception as error:
                if leave(key):
                    raise
                raise self.cut_error(limit, target) from error
            except BaseException:
                leave(key)
                raise
            if not leave(key) and severs:
                raise self.cut_error(limit, target)
            return result

        return call

    def _enter_again(self, key: int, limit: TimeLimit, target: Any, *, is_last: bool) -> int:
        """Refuse a call whose limit was cancelled when it was entered, or give it its grace."""
        is_whole = watchdog.leave(key)
        if not is_whole and self.cuts.severs:
            raise self.cut_error(limit, target)
        ends = self.end_of(limit, math.inf, is_last=is_last)
        return watchdog.enter(ends, limit, self.cut, target)

    def end_of(self, limit: TimeLimit | None, latest: float, *, is_last: bool = False) -> float:
        """When a call that begins now has to end.

        Args:
            limit: Within which it is asked.
            latest: When it has to end in any case.
            is_last: As in `guarded`.

        Raises:
            OutOfTime: There is no time left.
        """
        if limit is None:
            return latest
        now = time.monotonic()
        ends = now if limit.is_cancelled else limit.ends
        if is_last and limit is not NO_TIME:
            ends = max(ends, now + GRACE_SECONDS)
        if ends <= now:
            raise self.error(limit)
        return min(latest, ends)

    def error(self, limit: TimeLimit | None) -> Exception:
        """What a call raises that a limit, or the deadline outside of any, ended or refused."""
        failure = DeadlineExceeded if limit is None else limit.failure
        error = self.error_class(failure.reason.replace("_", " "))
        error.failure = failure
        return error  # type: ignore[no-any-return]

    def cut_error(self, limit: TimeLimit | None, target: Any) -> Exception:
        """The same for a call that was cut."""
        error: Any = self.error(limit)
        if self.cuts.severs:
            # In a loop the cut may only be on its way.
            self.cut(target)
            error.is_cut = True
        return error  # type: ignore[no-any-return]

    def cut(self, target: Any) -> None:
        """End what is asked of a connection, or by a cursor."""
        if (connection := _connection_of(target)) is not None:
            self.cuts.cut(connection)


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

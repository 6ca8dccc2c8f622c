"""Having everything that an engine asks of its database end in time.

The methods of the engine's dialect are wrapped, of this one instance only: they are what crosses
the network, COMMIT, ROLLBACK and the ping included, which fire no engine event; and an event for
each statement costs several times as much.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext

from service.database.deadline import NO_TIME, current_limit
from service.database.deadline_calls import GRACE_SECONDS, CallGuard
from service.database.deadline_drivers import DRIVERS
from service.database.deadline_opening import OpeningGuard
from service.database.failures import OutOfTime

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
    dialect: Any = engine.dialect
    cuts = DRIVERS.get(dialect.driver)
    if cuts is None:
        return
    calls = CallGuard(dialect, cuts, seconds)
    opening = OpeningGuard(calls)
    for name in _CALLS:
        setattr(dialect, name, calls.guarded(getattr(dialect, name)))
    for name in _LAST_CALLS:
        setattr(dialect, name, calls.guarded(getattr(dialect, name), is_last=True))
    for name in _CLOSES:
        setattr(dialect, name, _closing(getattr(dialect, name), calls, opening))
    dialect.execution_ctx_cls = _with_guarded_cursors(dialect.execution_ctx_cls, calls)
    if cuts.connects:
        opening.install(engine)
    event.listen(engine, "handle_error", _on_error)


def _on_error(context: ExceptionContext) -> None:
    error = context.original_exception
    if isinstance(error, OutOfTime):
        context.is_disconnect = error.is_cut
        # A slow query says nothing of the pool's other connections.
        context.invalidate_pool_on_disconnect = False


def _closing(
    method: Callable[..., Any], calls: CallGuard, opening: OpeningGuard
) -> Callable[[Any], None]:
    # To cut a connection closes it as well, and asyncpg would wait for two seconds or for ever.
    seconds = GRACE_SECONDS if calls.cuts.severs else calls.seconds
    in_time = calls.guarded(method, is_last=True, seconds=seconds)

    def close(connection: Any) -> None:
        opening.abandon_set_up(connection)
        if current_limit() is NO_TIME:
            # What the collector closes waits for nothing, and is closed by nobody else.
            method(connection)
            return
        # One that was cut is closed.
        with contextlib.suppress(calls.error_class):
            in_time(connection)

    return close


def _with_guarded_cursors(context_class: Any, calls: CallGuard) -> Any:
    cursor_class = _cursor_class(calls.guarded)
    fetches = calls.cuts.fetches

    def create_cursor(context: Any) -> Any:
        cursor = context_class.create_cursor(context)
        is_guarded = fetches or context._is_server_side  # noqa: SLF001 - no public way
        return cursor_class(cursor) if is_guarded else cursor

    return type(context_class.__name__, (context_class,), {"create_cursor": create_cursor})


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

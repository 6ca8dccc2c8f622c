"""How a call to a driver is cut, driver by driver."""

import asyncio
import contextlib
import math
import os
import socket
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

# libpq counts whole seconds and takes 1 for 2.
LIBPQ_SHORTEST: Final = 2
# pymysql takes 0 for a mistake.
_SHORTEST: Final = 0.001


@dataclass(frozen=True, kw_only=True)
class DriverCuts:
    """What a driver offers to whoever does not want to wait any longer.

    Args:
        cut: Ends the call that a connection is in, from any thread; called once more by the call
            itself, in its own thread, when it has ended.
        severs: Whether the connection is of no use after it.
        fetches: Whether every fetch is work for the database, and not only that of a server-side
            cursor.
        opened: Told of each connection that was opened.
        connects: Whether opening a connection may have to wait for a server.
        shorten: Changes the arguments of a connection that is given only so many seconds.
    """

    cut: Callable[[Any], None]
    severs: bool = True
    fetches: bool = False
    opened: Callable[[Any], None] = lambda _connection: None
    connects: bool = True
    shorten: Callable[[dict[str, Any], float], None] = lambda _arguments, _seconds: None


# The socket behind each connection, as the kernel knows it.
_inodes: "weakref.WeakKeyDictionary[Any, int]" = weakref.WeakKeyDictionary()


def _note_socket(connection: Any) -> None:
    _inodes[connection] = os.fstat(connection.fileno()).st_ino


def _shut_down_psycopg2(connection: Any) -> None:
    """Shut the socket down under libpq, which wakes and finds the connection lost."""
    if connection.closed:
        return
    # libpq may have closed its own, or close it now.
    with contextlib.suppress(OSError):
        duplicate = os.dup(connection.fileno())
        try:
            # The number may be another's by now.
            if os.fstat(duplicate).st_ino == _inodes.get(connection):
                _shut_down(duplicate)
        finally:
            os.close(duplicate)


def _shut_down(descriptor: int) -> None:
    shared = socket.socket(fileno=descriptor)
    try:
        shared.shutdown(socket.SHUT_RDWR)
    finally:
        shared.detach()


def _shorten_psycopg2(arguments: dict[str, Any], seconds: float) -> None:
    given = float(arguments.get("connect_timeout") or 0) or math.inf
    arguments["connect_timeout"] = int(min(given, max(LIBPQ_SHORTEST, math.ceil(seconds))))


def _terminate_asyncpg(connection: Any) -> None:
    driver = connection.driver_connection
    in_its_loop(driver._loop, driver.terminate)  # noqa: SLF001 - there is no public way


def _shut_down_pymysql(connection: Any) -> None:
    # None once it is closed.
    if (shared := connection._sock) is not None:  # noqa: SLF001 - there is no public way
        with contextlib.suppress(OSError):
            shared.shutdown(socket.SHUT_RDWR)


def _shorten_pymysql(arguments: dict[str, Any], seconds: float) -> None:
    arguments["connect_timeout"] = min(arguments["connect_timeout"], max(_SHORTEST, seconds))


def _abort_aiomysql(connection: Any) -> None:
    driver = connection.driver_connection
    # None once it is closed.
    if (writer := driver._writer) is not None:  # noqa: SLF001 - there is no public way
        in_its_loop(driver._loop, writer.transport.abort)  # noqa: SLF001 - as above


def _interrupt_sqlite(connection: Any) -> None:
    connection.interrupt()


def _interrupt_aiosqlite(connection: Any) -> None:
    # Its own `interrupt()` is a coroutine that does no more than this.
    connection.driver_connection._conn.interrupt()  # noqa: SLF001 - as above


def in_its_loop(loop: asyncio.AbstractEventLoop, work: Callable[[], object]) -> bool:
    """Run something in a loop: at once if that runs in this thread.

    Returns:
        False when the loop has ended, and nothing will run in it.
    """
    if asyncio._get_running_loop() is loop:  # noqa: SLF001 - the one that raises nothing
        work()
        return True
    try:
        loop.call_soon_threadsafe(work)
    except RuntimeError:
        return False
    return True


# By `dialect.driver`.
DRIVERS: Final[dict[str, DriverCuts]] = {
    "psycopg2": DriverCuts(cut=_shut_down_psycopg2, opened=_note_socket, shorten=_shorten_psycopg2),
    "pymysql": DriverCuts(cut=_shut_down_pymysql, shorten=_shorten_pymysql),
    "aiomysql": DriverCuts(cut=_abort_aiomysql),
    "asyncpg": DriverCuts(cut=_terminate_asyncpg),
    "pysqlite": DriverCuts(cut=_interrupt_sqlite, severs=False, fetches=True, connects=False),
    "aiosqlite": DriverCuts(cut=_interrupt_aiosqlite, severs=False, connects=False),
}

"""A network that loses every packet, told from a slow query: only the kernel can tell them apart.

It tells neither by default. What was sent into such a network is sent again, at intervals that
double, for a quarter of an hour: a request waits until its deadline, and when packets pass again,
for up to as long as they did not.
"""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from typing import Any, Final

from sqlalchemy import Engine, event

# How long a server may acknowledge nothing before its connection is lost. Within this time what was
# lost is sent again after 0.2, 0.6 and 1.4 s, so that a network that is back is soon noticed.
LOSS_SECONDS: Final = 3
# When a server that owes an answer, and is itself owed nothing, is asked whether it is there; and
# how often, when it does not say so.
_QUIET_SECONDS: Final = 2
_AGAIN_SECONDS: Final = 1
# RFC 5482 has the first; tcp(7) has all. Linux knows them, others know some.
_OPTIONS: Final = (
    ("SOL_SOCKET", "SO_KEEPALIVE", 1),
    ("IPPROTO_TCP", "TCP_USER_TIMEOUT", LOSS_SECONDS * 1000),
    ("IPPROTO_TCP", "TCP_KEEPIDLE", _QUIET_SECONDS),
    ("IPPROTO_TCP", "TCP_KEEPINTVL", _AGAIN_SECONDS),
)
# The same for PostgreSQL's end, which does not hear that we gave up: by its own default a session
# stays for two hours, and `max_connections` counts it.
SESSION_PARAMETERS: Final = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_user_timeout": "10000",
}
# libpq's own names for them. What the URL says is meant.
_IN_URL: Final = {"keepalives", "keepalives_idle", "keepalives_interval", "tcp_user_timeout"}


def notice_loss(engine: Engine) -> None:
    """Have the engine's connections end once the network has lost all packets for some seconds.

    Args:
        engine: Of any driver; one that connects to no host, or says in its URL what it wants, is
            left as it is.
    """
    borrow = _SOCKETS.get(engine.dialect.driver)
    if borrow is None or _IN_URL & engine.url.query.keys():
        return

    def on_connect(connection: Any, _record: object) -> None:
        with borrow(connection) as shared:
            _set_options(shared)

    event.listen(engine, "connect", on_connect)


def _set_options(shared: Any) -> None:
    for level, name, value in _OPTIONS:
        if (option := getattr(socket, name, None)) is not None:
            # A socket file has none of them, and loses nothing.
            with contextlib.suppress(OSError):
                shared.setsockopt(getattr(socket, level), option, value)


@contextlib.contextmanager
def _of_psycopg2(connection: Any) -> Iterator[socket.socket]:
    with socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
        yield duplicate


def _of_pymysql(connection: Any) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext(connection._sock)  # noqa: SLF001 - there is no public way


def _of_asyncpg(connection: Any) -> contextlib.AbstractContextManager[Any]:
    transport = connection.driver_connection._transport  # noqa: SLF001 - as above
    return contextlib.nullcontext(transport.get_extra_info("socket"))


def _of_aiomysql(connection: Any) -> contextlib.AbstractContextManager[Any]:
    writer = connection.driver_connection._writer  # noqa: SLF001 - as above
    return contextlib.nullcontext(writer.get_extra_info("socket"))


# By `dialect.driver`: the socket of a connection, on loan.
_SOCKETS: Final[dict[str, Callable[[Any], contextlib.AbstractContextManager[Any]]]] = {
    "psycopg2": _of_psycopg2,
    "pymysql": _of_pymysql,
    "asyncpg": _of_asyncpg,
    "aiomysql": _of_aiomysql,
}

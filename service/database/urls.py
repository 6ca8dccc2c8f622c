"""Which database URLs the kit takes, and how a sync URL becomes its asyncio twin."""

import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.util import asbool

SYNC_DRIVERS: Final = {
    "postgresql": "postgresql+psycopg2",
    "postgres": "postgresql+psycopg2",
    "postgresql+psycopg2": "postgresql+psycopg2",
    # The dialect is told by the server that it is for: with MySQL it refuses to work, where the
    # name "mysql" would go on and fail at the first thing that only MariaDB has.
    "mysql": "mariadb+pymysql",
    "mysql+pymysql": "mariadb+pymysql",
    "mariadb": "mariadb+pymysql",
    "mariadb+pymysql": "mariadb+pymysql",
    "sqlite": "sqlite+pysqlite",
    "sqlite+pysqlite": "sqlite+pysqlite",
}
ASYNC_DRIVERS: Final = {
    "postgresql+asyncpg": "postgresql+asyncpg",
    "mysql+aiomysql": "mariadb+aiomysql",
    "mariadb+aiomysql": "mariadb+aiomysql",
    "sqlite+aiosqlite": "sqlite+aiosqlite",
}
# Where a server listens, unless the URL says.
DEFAULT_PORTS: Final = {"postgresql": 5432, "mariadb": 3306}
_TWINS: Final = {
    "postgresql+psycopg2": "postgresql+asyncpg",
    "mariadb+pymysql": "mariadb+aiomysql",
    "sqlite+pysqlite": "sqlite+aiosqlite",
}
# What libpq calls a query parameter, and what asyncpg calls the same.
_LIBPQ_TO_ASYNCPG: Final = {
    "sslmode": "ssl",
    "host": "host",
    "port": "port",
    "user": "user",
    "dbname": "database",
    "target_session_attrs": "target_session_attrs",
}
# What a URL may say to pymysql. The character set, the SQL mode, the time zone and autocommit are
# the kit's: without them it would read and write something else.
_PYMYSQL: Final = frozenset({
    "connect_timeout", "program_name", "read_timeout", "unix_socket", "write_timeout",
    "ssl_ca", "ssl_capath", "ssl_cert", "ssl_check_hostname", "ssl_cipher", "ssl_key",
})  # fmt: skip
_AIOMYSQL: Final = frozenset({"connect_timeout", "program_name", "unix_socket"})
# Those whose own parameter `timeout` is in seconds: to connect, or for SQLite to wait for a writer.
_TIMED: Final = frozenset({"postgresql+asyncpg", "sqlite+pysqlite", "sqlite+aiosqlite"})
_COUNTERPARTS: Final[Mapping[str, Mapping[str, str]]] = {
    "postgresql+asyncpg": _LIBPQ_TO_ASYNCPG,
    "mariadb+aiomysql": {name: name for name in _AIOMYSQL},
}


class UnsupportedUrlError(ValueError):
    """A URL that the kit does not take. The text names the setting and never holds the URL."""


def parse_url(text: str, setting: str, *, asyncio: bool = False) -> URL:
    """Parse a database URL and make its driver explicit.

    A bare `postgresql://` means psycopg2: SQLAlchemy 2.1 would take psycopg 3 for it.

    Args:
        text: The URL.
        setting: The name of the setting that it came from, for the error.
        asyncio: Whether an asyncio driver is wanted.

    Raises:
        UnsupportedUrlError: It is no URL, or of a database or driver that is not supported.
    """
    drivers = ASYNC_DRIVERS if asyncio else SYNC_DRIVERS
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise UnsupportedUrlError(
            f"{setting}: not a database URL; write it as {_example(drivers)}"
        ) from None
    if "password" in url.query:
        raise UnsupportedUrlError(
            f"{setting}: move the password out of the query, to //user:password@host"
        )
    driver = drivers.get(url.drivername)
    if driver is None:
        raise UnsupportedUrlError(
            f"{setting}: {url.drivername}:// is not supported; use one of "
            + ", ".join(f"{name}://" for name in drivers)
        )
    url = url.set(drivername=driver)
    if driver.startswith("mariadb"):
        _refuse_parameters(url, _AIOMYSQL if asyncio else _PYMYSQL, setting)
    elif driver in _TIMED:
        _refuse_wrong_timeout(url, setting)
    return url


def async_url(url: URL) -> URL:
    """The asyncio twin of a sync URL, its query parameters renamed for the other driver.

    Raises:
        UnsupportedUrlError: A query parameter has no counterpart.
    """
    twin = url.set(drivername=_TWINS[url.drivername])
    names = _COUNTERPARTS.get(twin.drivername)
    if names is None:
        return twin
    unknown = sorted(set(url.query) - set(names))
    if unknown:
        raise UnsupportedUrlError(
            f"DATABASE_URL: {twin.get_driver_name()} has no counterpart of {', '.join(unknown)};"
            " set DATABASE_URL_ASYNC as well"
        )
    return twin.set(query={names[key]: value for key, value in url.query.items()})


def url_timeout(url: URL, otherwise: float) -> float:
    """The driver's own `timeout` that a URL gives, in seconds.

    Args:
        url: One that `parse_url` gave.
        otherwise: What it is where the URL gives none.
    """
    given = url.query.get("timeout")
    return float(given) if isinstance(given, str) else otherwise


def is_memory(url: URL) -> bool:
    """Whether the URL means an SQLite database that lives in one connection."""
    if url.get_backend_name() != "sqlite":
        return False
    database = url.database
    named = database in (":memory:", "file::memory:")
    return not database or named or url.query.get("mode") == "memory"


def sqlite_file(url: URL) -> Path | None:
    """The file of an SQLite database; None where it has none, or is no such database.

    With `?uri=true` the URL holds another one, like `file:///var/lib/shop.db`, as SQLite reads it
    (https://www.sqlite.org/uri.html).
    """
    if url.get_backend_name() != "sqlite" or is_memory(url):
        return None
    name = url.database or ""
    if name.startswith("file:") and asbool(url.query.get("uri", False)):
        name = unquote(urlsplit(name).path)
    return Path(name)


def _refuse_parameters(url: URL, known: AbstractSet[str], setting: str) -> None:
    unknown = sorted(set(url.query) - known)
    if unknown:
        raise UnsupportedUrlError(
            f"{setting}: {url.get_driver_name()} is not given {', '.join(unknown)} by the URL;"
            f" take out what is not one of {', '.join(sorted(known))}"
        )


def _refuse_wrong_timeout(url: URL, setting: str) -> None:
    given = url.query.get("timeout", "0")
    if not isinstance(given, str) or not re.fullmatch(r"\d{1,5}(\.\d+)?", given):
        raise UnsupportedUrlError(f"{setting}: write its timeout as a number of seconds, once")


def _example(drivers: dict[str, str]) -> str:
    return f"{next(iter(drivers))}://user:password@host:5432/name"

"""Databases that live for as long as something is proved in them."""

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pydantic import SecretStr
from sqlalchemy import URL, Engine, text
from sqlalchemy.exc import SQLAlchemyError

from service.database import DatabaseSettings
from service.database.urls import UnsupportedUrlError, parse_url
from service.migrator.cancellation import Cancellation
from service.migrator.connections import migration_engine, wait_for_database
from service.migrator.errors import UsageError
from service.migrator.events import Events

# By this an operator knows what a killed run left behind.
PREFIX: Final = "tidegate_scratch_"
# PostgreSQL's insufficient_privilege; MariaDB's ER_DBACCESS_DENIED_ERROR and ER_ACCESS_DENIED.
_DENIED: Final = {"42501", 1044, 1045}


class Scratch:
    """Where scratch databases are made: on the server of the settings, or on another one.

    On SQLite they are files in a temporary directory.

    Args:
        settings: The database whose server is used.
        url: The URL of any database on another server, of a role that may create databases there.
        cancellation: Ends the work, before the next database is made.

    Raises:
        UsageError: The URL is none that is supported.
    """

    def __init__(
        self,
        settings: DatabaseSettings,
        url: str | None = None,
        cancellation: Cancellation | None = None,
    ) -> None:
        if url is not None:
            try:
                parse_url(url, "--scratch-url or MIGRATE_SCRATCH_URL")
            except UnsupportedUrlError as error:
                raise UsageError(str(error)) from None
            settings = _at(settings, url)
        self._settings = settings
        self._cancellation = cancellation or Cancellation()

    @property
    def dialect_name(self) -> str:
        """Of which kind the databases are: "postgresql", "mariadb" or "sqlite"."""
        return self._settings.migration_url.get_backend_name()

    @contextmanager
    def database(self) -> Iterator[Engine]:
        """Make an empty database; it is dropped at the end, whatever happens.

        Raises:
            UsageError: The role may not create databases.
            UnreachableError: The server does not answer.
        """
        with self.url() as url, migration_engine(_at(self._settings, url)) as engine:
            yield engine

    @contextmanager
    def url(self) -> Iterator[str]:
        """The same for whoever connects by itself; gives the URL."""
        self._cancellation.check()
        if self.dialect_name == "sqlite":
            with tempfile.TemporaryDirectory(prefix=PREFIX) as directory:
                yield f"sqlite:///{Path(directory) / 'scratch.db'}"
            return
        name = f"{PREFIX}{secrets.token_hex(6)}"
        with migration_engine(self._settings) as server:
            wait_for_database(server, wait=0, events=Events(), cancellation=self._cancellation)
            _create(server, name)
            try:
                yield _text(self._settings.migration_url.set(database=name))
            finally:
                _drop(server, name)


def _create(server: Engine, name: str) -> None:
    quoted = server.dialect.identifier_preparer.quote_identifier(name)
    # A template of the operator's own may hold what no revision made.
    template = " TEMPLATE template0" if server.dialect.name == "postgresql" else ""
    try:
        _run(server, f"CREATE DATABASE {quoted}{template}")
    except SQLAlchemyError as error:
        if _code(error) not in _DENIED:
            raise
        raise UsageError(
            "the role may not create the scratch database: let it (ALTER ROLE … CREATEDB, or"
            " GRANT on MariaDB), or name a server where it may with --scratch-url"
        ) from error


def _drop(server: Engine, name: str) -> None:
    quoted = server.dialect.identifier_preparer.quote_identifier(name)
    force = " WITH (FORCE)" if server.dialect.name == "postgresql" else ""
    _run(server, f"DROP DATABASE IF EXISTS {quoted}{force}")


def _run(server: Engine, statement: str) -> None:
    with server.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(statement))


def _code(error: SQLAlchemyError) -> object:
    original = getattr(error, "orig", None)
    return getattr(original, "pgcode", None) or getattr(original, "args", (None,))[0]


def _at(settings: DatabaseSettings, url: str) -> DatabaseSettings:
    return settings.model_copy(update={"migrate_url": SecretStr(url)})


def _text(url: URL) -> str:
    return url.render_as_string(hide_password=False)

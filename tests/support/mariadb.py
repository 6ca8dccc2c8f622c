"""A real MariaDB for tests, run from the server that the machine has installed."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from typing import Any, Final

import pymysql

from tests.support.database_server import DatabaseServer
from tests.support.missing import missing
from tests.support.ports import free_port

# Debian has the server where only root looks for programs.
_PATH: Final = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
# The user that the package makes: the server refuses to run as root.
_SYSTEM_USER: Final = "mysql"
# Durability costs most of a test's time, and no test outlives a crash of the machine. The rest is
# what a careless administrator may leave behind: what the kit needs it has to ask for itself.
_SETTINGS: Final = {
    "bind_address": "127.0.0.1",
    "innodb_flush_log_at_trx_commit": "0",
    "innodb_flush_method": "nosync",
    "innodb_buffer_pool_size": "64M",
    "innodb_log_file_size": "16M",
    "max_connections": "200",
    "skip_name_resolve": "ON",
    "character_set_server": "latin1",
    "sql_mode": "",
    "default_time_zone": "+05:30",
    "transaction_isolation": "REPEATABLE-READ",
}


def require_mariadb() -> None:
    """Skip the test, or fail in CI, where no MariaDB server can be started."""
    for name in ("mariadbd", "mariadb-install-db"):
        if shutil.which(name, path=_PATH) is None:
            missing(f"MariaDB is not installed: no {name} (Debian's package is mariadb-server)")


class MariaDBServer(DatabaseServer):
    """One server with its own data directory, on a port of the loopback interface.

    Args:
        settings: Variables beside or instead of the usual ones.
    """

    stop_signal = signal.SIGTERM
    pid_file = "mariadbd.pid"

    def __init__(self, **settings: str) -> None:
        super().__init__("mariadb")
        self._settings = {**_SETTINGS, **settings}
        self._user = _SYSTEM_USER if os.geteuid() == 0 else None
        if self._user is not None:
            for path in (self.directory, self.data):
                shutil.chown(path, self._user)
        subprocess.run(
            [
                *(_program("mariadb-install-db"), "--no-defaults", f"--datadir={self.data}"),
                *("--auth-root-authentication-method=normal", "--skip-test-db"),
                *("--skip-name-resolve", "--innodb-log-file-size=16M"),
            ],
            check=True,
            capture_output=True,
            user=self._user,
        )
        self.port = free_port()

    def url(self, database: str = "", *, user: str = "root", driver: str = "mysql") -> str:
        """The URL of a database on this server."""
        return f"{driver}://{user}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        options = [f"--{name}={value}" for name, value in self._settings.items()]
        places = [
            f"--{name}={value}"
            for name, value in {
                "datadir": self.data,
                "port": self.port,
                "socket": self.data / "socket",
                "pid-file": self.data / self.pid_file,
            }.items()
        ]
        self.run([_program("mariadbd"), "--no-defaults", *places, *options], self._user)

    def execute(self, statement: str) -> None:
        """Run a statement outside of any transaction."""
        self.ask(statement)

    def ask(self, question: str) -> list[Any]:
        """As `execute`; returns the rows."""
        with self._connect() as connection, connection.cursor() as cursor:
            cursor.execute(question)
            return [*cursor.fetchall()]

    def sessions(self) -> list[str]:
        """What each session but our own is doing; one that does nothing is in "Sleep"."""
        rows = self.ask(
            "SELECT command FROM information_schema.processlist"
            " WHERE id <> connection_id() AND user = 'root'"
        )
        return [command for (command,) in rows]

    @contextlib.contextmanager
    def logged(self) -> Iterator[list[str]]:
        """Note what the server is asked; the list is filled when the context ends.

        A statement is noted by its text, and anything else by its name, like "Ping".
        """
        noted: list[str] = []
        with self._connect() as connection, connection.cursor() as cursor:
            cursor.execute("SET sql_log_off = 1")
            cursor.execute("SET GLOBAL log_output = 'TABLE'")
            cursor.execute("TRUNCATE mysql.general_log")
            cursor.execute("SET GLOBAL general_log = 1")
            try:
                yield noted
            finally:
                cursor.execute("SET GLOBAL general_log = 0")
                cursor.execute("SELECT command_type, argument FROM mysql.general_log")
                for kind, argument in cursor.fetchall():
                    noted.append(argument if kind == "Query" else kind)

    def _connect(self) -> "pymysql.Connection[Any]":
        return pymysql.connect(
            host="127.0.0.1", port=self.port, user="root", autocommit=True, ssl_disabled=True
        )

    def accepts(self) -> bool:
        """Whether it takes connections."""
        try:
            self.execute("SELECT 1")
        except pymysql.OperationalError:
            return False
        return True


def _program(name: str) -> str:
    return shutil.which(name, path=_PATH) or name

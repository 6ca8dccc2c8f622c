"""MariaDB made to behave as PostgreSQL does: transactions, text, times, strictness.

`engine.py` registers this module's dialects with SQLAlchemy as `mariadb+pymysql` and
`mariadb+aiomysql`; they are its own ones with the differences that are written here.
"""

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final
from weakref import WeakKeyDictionary, WeakSet

from pymysql.cursors import SSCursor
from sqlalchemy import BinaryExpression, ColumnElement, Table, Tuple, and_, or_
from sqlalchemy.dialects.mysql.aiomysql import (
    AsyncAdapt_aiomysql_ss_cursor,
    MySQLDialect_aiomysql,
)
from sqlalchemy.dialects.mysql.base import MySQLDDLCompiler, MySQLDialect
from sqlalchemy.dialects.mysql.mariadb import MariaDBDialect
from sqlalchemy.dialects.mysql.mysqldb import MySQLCompiler_mysqldb
from sqlalchemy.dialects.mysql.pymysql import MySQLDialect_pymysql
from sqlalchemy.engine.interfaces import IsolationLevel
from sqlalchemy.sql.compiler import OPERATORS
from sqlalchemy.sql.functions import now
from sqlalchemy.sql.operators import OperatorType

# Text is equal when its code points are, and sorts by them: no case, accent or trailing space is
# looked past. It is what PostgreSQL's and SQLite's UNIQUE mean.
COLLATION: Final = "utf8mb4_nopad_bin"
DEFAULT_ISOLATION: Final = "READ COMMITTED"
# Bits of the status that the server sends with the outcome of each statement.
_IN_TRANSACTION: Final = 0x0001
_IN_AUTOCOMMIT: Final = 0x0002
# The client's own number for a server that went away (CR_SERVER_LOST).
_SERVER_LOST: Final = 2013


class _DDLCompiler(MySQLDDLCompiler):
    """Gives every table the kit's collation, whatever the database's default is."""

    def post_create_table(self, table: Table) -> str:
        """The options behind a table's columns."""
        options = super().post_create_table(table)
        if any(name.startswith("mariadb_") and "coll" in name for name in table.kwargs):
            return options
        return f"{options} ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE {COLLATION}"


class _Compiler(MySQLCompiler_mysqldb):
    """Tells the time in UTC and with microseconds."""

    def visit_now_func(self, fn: now, **kw: Any) -> str:
        """The moment at which the statement began."""
        del fn, kw
        return "utc_timestamp(6)"

    def visit_gt_binary(
        self, binary: BinaryExpression[Any], operator: OperatorType, **kw: Any
    ) -> str:
        """Write a comparison of rows out column by column.

        `(price, id) > (x, y)` would have the server read an index from its start.
        """
        left, right = binary.left, binary.right
        if not (isinstance(left, Tuple) and isinstance(right, Tuple)):
            return self._generate_generic_binary(binary, OPERATORS[operator], **kw)
        *pairs, (key, value) = zip(left.clauses, right.clauses, strict=True)
        follows: ColumnElement[bool] = operator(key, value)
        for column, value in reversed(pairs):
            follows = or_(operator(column, value), and_(column == value, follows))
        return self.process(follows.self_group(), **kw)

    visit_lt_binary = visit_gt_binary


class _StreamingCursor(SSCursor):
    """Reads what is left of its rows when it is closed, unless the connection is lost.

    The driver would try that as well, when the collector finds the cursor.
    """

    def close(self) -> None:
        """Leave the connection to the next statement."""
        cursor: Any = self
        if cursor.connection is None or cursor.connection.open:
            super().close()
            return
        cursor.connection = None
        result = cursor._result  # noqa: SLF001 - of the class that this one extends
        if result is not None:
            result.unbuffered_active = False

    __del__ = close


class PyMySQLDialect(MariaDBDialect, MySQLDialect_pymysql):
    """Sends BEGIN, COMMIT and ROLLBACK where there is a transaction, and nothing elsewhere.

    Sessions of the server are in autocommit all the time, and a transaction begins with a BEGIN as
    on PostgreSQL. SQLAlchemy's own way is autocommit off and a ROLLBACK at each return to the pool,
    also when nothing was begun; its AUTOCOMMIT sends a SET before and another one behind.
    """

    supports_statement_cache = True
    supports_server_side_cursors = True
    ddl_compiler = _DDLCompiler
    statement_compiler = _Compiler
    _sscursor: type[Any] = _StreamingCursor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # By the driver's connection: which ones shall begin no transaction, and which ones are at
        # another isolation level than new ones.
        self._autocommitting: WeakSet[Any] = WeakSet()
        self._levels: WeakKeyDictionary[Any, IsolationLevel] = WeakKeyDictionary()

    def connect(self, *cargs: Any, **cparams: Any) -> Any:
        """Open a connection; what waits for the server meanwhile is bounded as the attempt is.

        The driver bounds only the TCP connection by its `connect_timeout`: a server that is
        stopped accepts that, and then says nothing.
        """
        timeout = cparams.pop("read_timeout", None)
        connection: Any = super().connect(
            *cargs, **cparams, read_timeout=cparams.get("connect_timeout")
        )
        connection._read_timeout = timeout  # noqa: SLF001 - nothing public changes it
        return connection

    def on_connect(self) -> Any:
        """Send nothing more: `connect_arguments` has it all in one statement."""

    def do_begin(self, dbapi_connection: Any) -> None:
        """Begin a transaction, unless the connection is in AUTOCOMMIT."""
        if self._driver(dbapi_connection) not in self._autocommitting:
            cursor = dbapi_connection.cursor()
            cursor.execute("BEGIN")
            cursor.close()

    def do_rollback(self, dbapi_connection: Any) -> None:
        """Roll back, where there is a transaction."""
        if self._in_transaction(dbapi_connection):
            dbapi_connection.rollback()

    def do_commit(self, dbapi_connection: Any) -> None:
        """Commit, where there is a transaction."""
        if self._in_transaction(dbapi_connection):
            dbapi_connection.commit()

    def set_isolation_level(self, dbapi_connection: Any, level: IsolationLevel) -> None:
        """Remember AUTOCOMMIT; tell the server another level, if it is another."""
        driver = self._driver(dbapi_connection)
        if level == "AUTOCOMMIT":
            self._autocommitting.add(driver)
            return
        self._autocommitting.discard(driver)
        if level != self._levels.get(driver, DEFAULT_ISOLATION):
            MySQLDialect.set_isolation_level(self, dbapi_connection, level)
            self._levels[driver] = level

    def detect_autocommit_setting(self, dbapi_conn: Any) -> bool:
        """Whether the connection shall begin no transaction."""
        return self._driver(dbapi_conn) in self._autocommitting

    def _driver(self, dbapi_connection: Any) -> Any:
        # The pool's wrapper tells the driver's connection; a bare one is asked through the dialect.
        driver = getattr(dbapi_connection, "driver_connection", None)
        return driver or self.get_driver_connection(dbapi_connection)

    def _in_transaction(self, dbapi_connection: Any) -> bool:
        """What the server said with its last answer."""
        status = self._driver(dbapi_connection).server_status
        return bool(status & _IN_TRANSACTION) or not status & _IN_AUTOCOMMIT


class AiomysqlDialect(PyMySQLDialect, MySQLDialect_aiomysql):
    """The same for asyncio engines."""

    supports_statement_cache = True
    _sscursor = AsyncAdapt_aiomysql_ss_cursor

    def connect(self, *cargs: Any, **cparams: Any) -> Any:
        """Open a connection within its time: this driver, too, bounds only the TCP connection."""
        seconds = cparams.get("connect_timeout")
        driver: Any = self.loaded_dbapi
        create = cparams.pop("async_creator_fn", driver.aiomysql.connect)

        async def within(*args: Any, **options: Any) -> Any:
            try:
                async with asyncio.timeout(seconds):
                    return await create(*args, **options)
            except TimeoutError:
                raise driver.OperationalError(_SERVER_LOST, "no answer in time") from None

        return MySQLDialect_aiomysql.connect(self, *cargs, async_creator_fn=within, **cparams)


def connect_arguments(
    *,
    connect_timeout: float,
    statement_timeout: float | None,
    name: str,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """What a driver's `connect()` is given so that a session is as the kit expects.

    The driver's own timeouts of later calls are not among it: `deadline_guard` limits those, on
    either driver alike.

    Args:
        connect_timeout: Seconds for the whole attempt.
        statement_timeout: Seconds; None for no limit.
        name: What the server shows as the program's name.
        variables: Further session variables, each with its value as SQL.
    """
    return {
        "charset": "utf8mb4",
        "autocommit": True,
        "program_name": name,
        "connect_timeout": connect_timeout,
        "init_command": _session_variables(statement_timeout, variables),
    }


def _session_variables(statement_timeout: float | None, more: Mapping[str, str]) -> str:
    """One statement that makes a session independent of the server's settings."""
    # The server takes 0 for no limit at all.
    limit = 0.0 if statement_timeout is None else max(0.001, statement_timeout)
    assigned = {
        # Refuse what does not fit; and a key of 0 is 0, not the next number.
        "sql_mode": "'TRADITIONAL,NO_AUTO_VALUE_ON_ZERO'",
        "time_zone": "'+00:00'",
        "tx_isolation": f"'{DEFAULT_ISOLATION.replace(' ', '-')}'",
        "max_statement_time": f"{limit:.3f}",
        **more,
    }
    assignments = ", ".join(f"{name}={value}" for name, value in assigned.items())
    return f"SET NAMES utf8mb4 COLLATE {COLLATION}, {assignments}"

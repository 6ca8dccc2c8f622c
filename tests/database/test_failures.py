"""Every failure of the table, caused for real, says the same closed words."""

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import anyio
import psycopg2
import pytest
from sqlalchemy import (
    CheckConstraint,
    Connection,
    Dialect,
    Engine,
    ForeignKey,
    Index,
    MetaData,
    Numeric,
    String,
    UniqueConstraint,
    delete,
    func,
    insert,
    text,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.orm import Mapped, Session, mapped_column

from service.database import (
    NAMING_CONVENTION,
    Base,
    DatabaseSettings,
    create_async_db_engine,
    create_db_engine,
    failures,
)
from service.database.failures import DatabaseFailure, classify, failure_reason
from service.database.types import ExactDecimal
from tests.support.database_server import running
from tests.support.polling import eventually
from tests.support.ports import free_port
from tests.support.postgres import PostgresServer


class OwnBase(Base):
    """The base of the models that only these tests have."""

    __abstract__ = True
    metadata = MetaData(naming_convention=NAMING_CONVENTION)


class Shelf(OwnBase):
    __tablename__ = "failure_shelves"

    id: Mapped[int] = mapped_column(primary_key=True)


class Box(OwnBase):
    __tablename__ = "failure_boxes"
    __table_args__ = (
        UniqueConstraint("place", "label"),
        CheckConstraint("weight >= 0.5", name="weight_is_real"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    shelf_id: Mapped[int | None] = mapped_column(ForeignKey("failure_shelves.id"))
    place: Mapped[int]
    label: Mapped[str] = mapped_column(String(20))
    code: Mapped[str] = mapped_column(String(20), unique=True)
    weight: Mapped[float] = mapped_column(Numeric(4, 1))


def has_expression_indexes(*_: object, dialect: Dialect, **__: object) -> bool:
    """MariaDB has none."""
    return dialect.name != "mariadb"


Index("uq_failure_boxes_label", func.lower(Box.label), Box.shelf_id, unique=True).ddl_if(
    callable_=has_expression_indexes
)


class Crate(OwnBase):
    """A table whose constraint has a longer name than PostgreSQL keeps."""

    __tablename__ = "failure_crates_with_a_name_of_some_length"
    __table_args__ = (UniqueConstraint("first_of_several", "second_of_several"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    first_of_several: Mapped[int]
    second_of_several: Mapped[int]
    price: Mapped[Any] = mapped_column(ExactDecimal(4, 2), nullable=True)


SECRET: Final = "walrus-7731"  # what no failure may repeat
# A statement, one with parameters, or something to do between two statements.
Statement = str | tuple[str, dict[str, Any]] | Callable[[], None]
Ask = Callable[..., BaseException]


def box(**values: Any) -> Statement:
    """A statement that inserts a box; what is not said is allowed."""
    row = {"id": 100, "shelf_id": 1, "place": 9, "label": SECRET, "code": "c", "weight": 1}
    row |= values
    names = ", ".join(row)
    marks = ", ".join(f":{name}" for name in row)
    return f"INSERT INTO failure_boxes ({names}) VALUES ({marks})", row  # noqa: S608 - names of ours


def parts(statement: Statement) -> tuple[Any, dict[str, Any]]:
    """A statement as SQLAlchemy takes it, and its parameters."""
    if callable(statement):
        statement()
        statement = "SELECT 1"
    query, parameters = statement if isinstance(statement, tuple) else (statement, {})
    return text(query), parameters


def error_of_sync(url: str, statements: Sequence[Statement], **options: Any) -> BaseException:
    """The error that the last of some statements ends with, in one transaction."""
    engine = create_db_engine(url, settings=DatabaseSettings(url=url), pool_name="f", **options)
    try:
        with engine.connect() as connection:
            for statement in statements[:-1]:
                connection.execute(*parts(statement))
            with pytest.raises(Exception) as caught:  # noqa: PT011 - each kind is looked at
                connection.execute(*parts(statements[-1]))
            return caught.value
    except Exception as error:  # noqa: BLE001 - there was no connection to begin with
        return error
    finally:
        engine.dispose()


def error_of_async(url: str, statements: Sequence[Statement], **options: Any) -> BaseException:
    """The same over the asyncio driver."""

    async def ask() -> BaseException:
        given = DatabaseSettings(url=url)
        engine = create_async_db_engine(settings=given, pool_name="f", **options)
        try:
            async with engine.connect() as connection:
                for statement in statements[:-1]:
                    await connection.execute(*parts(statement))
                with pytest.raises(Exception) as caught:  # noqa: PT011 - as above
                    await connection.execute(*parts(statements[-1]))
                return caught.value
        except Exception as error:  # noqa: BLE001 - as above
            return error
        finally:
            await engine.dispose()
            await no_driver_thread()

    return anyio.run(ask)


async def no_driver_thread() -> None:
    """Return once aiosqlite has none: after a failed attempt one still reports to the loop."""
    with anyio.fail_after(5):
        while any("_connection_worker_thread" in each.name for each in threading.enumerate()):
            await anyio.sleep(0.001)


@pytest.fixture(params=[error_of_sync, error_of_async], ids=["blocking", "asyncio"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Runs statements over one of the drivers; gives the error of the last."""
    asked: Ask = request.param
    return asked


def assert_says(
    error: BaseException,
    kind: type[DatabaseFailure],
    *,
    constraint: str | None = None,
    columns: tuple[str, ...] = (),
) -> None:
    """Check what a failure says, and that it says nothing else."""
    failure = classify(error, OwnBase.metadata)
    assert type(failure) is kind, error
    assert (failure.constraint, failure.columns) == (constraint, columns)
    assert failure_reason(error) == kind.reason
    assert str(failure) == failure.reason == kind.reason
    assert repr(failure) == f"{kind.__name__}('{kind.reason}')"
    assert vars(failure) == {"constraint": constraint, "columns": columns}
    assert failure.__cause__ is failure.__context__ is None


def fill(engine: Engine) -> None:
    """Make the tables, with one row each."""
    with engine.begin() as connection:
        OwnBase.metadata.drop_all(connection)
        OwnBase.metadata.create_all(connection)
        connection.execute(insert(Shelf), {"id": 1})
        row = {"id": 1, "shelf_id": 1, "place": 1, "label": "l", "code": SECRET, "weight": 1}
        connection.execute(insert(Box), row)
        crate = {"id": 1, "first_of_several": 1, "second_of_several": 1}
        connection.execute(insert(Crate), crate)


@pytest.fixture(scope="module")
def server_url(kit_url: str) -> Iterator[str]:
    """A PostgreSQL database with the tables, which no test changes for good."""
    engine = create_db_engine(kit_url, pool_name="f")
    fill(engine)
    yield kit_url
    OwnBase.metadata.drop_all(engine)
    engine.dispose()


@pytest.fixture(scope="module")
def file_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An SQLite file with the tables, which no test changes for good."""
    url = f"sqlite:///{tmp_path_factory.mktemp('failures') / 'failures.db'}"
    engine = create_db_engine(url, pool_name="f")
    fill(engine)
    engine.dispose()
    return url


@pytest.fixture(params=["postgresql", "sqlite"])
def url(request: pytest.FixtureRequest) -> str:
    """A database with the tables; a test that asks for it runs once on each kind."""
    name = "server_url" if request.param == "postgresql" else "file_url"
    found: str = request.getfixturevalue(name)
    return found


# What a statement can do wrong

CRATE_COLUMNS: Final = "(id, first_of_several, second_of_several)"
BROKEN_RULES: Final[dict[str, tuple[Statement, type[DatabaseFailure], str | None, list[str]]]] = {
    "unique": (
        box(code=SECRET),
        failures.UniqueViolation,
        "uq_failure_boxes_code",
        ["code"],
    ),
    "unique of two columns": (
        box(place=1, label="l", shelf_id=None),
        failures.UniqueViolation,
        "uq_failure_boxes_place_label",
        ["place", "label"],
    ),
    "unique with a long name": (
        f"INSERT INTO {Crate.__tablename__} {CRATE_COLUMNS} VALUES (2, 1, 1)",  # noqa: S608
        failures.UniqueViolation,
        "uq_failure_crates_with_a_name_of_some_length_first_of_s_551b",
        ["first_of_several", "second_of_several"],
    ),
    "primary key": (
        box(id=1),
        failures.UniqueViolation,
        "pk_failure_boxes",
        ["id"],
    ),
    "foreign key": (
        box(shelf_id=7731),
        failures.ForeignKeyViolation,
        "fk_failure_boxes_shelf_id_failure_shelves",
        ["shelf_id"],
    ),
    "foreign key from elsewhere": (
        "DELETE FROM failure_shelves",
        failures.ForeignKeyViolation,
        "fk_failure_boxes_shelf_id_failure_shelves",
        ["shelf_id"],
    ),
    "not null": (
        box(label=None),
        failures.NotNullViolation,
        None,
        ["label"],
    ),
    "check": (
        box(weight=0),
        failures.CheckViolation,
        "ck_failure_boxes_weight_is_real",
        [],
    ),
    "no such table": (
        f"SELECT '{SECRET}' FROM failure_shelfs",  # noqa: S608 - text of ours
        failures.SchemaMismatch,
        None,
        [],
    ),
    "no such column": (
        f"SELECT colour, '{SECRET}' FROM failure_shelves",  # noqa: S608 - text of ours
        failures.SchemaMismatch,
        None,
        [],
    ),
    "no such column to write": (
        "INSERT INTO failure_shelves (id, colour) VALUES (9, 'red')",
        failures.SchemaMismatch,
        None,
        [],
    ),
    "no such syntax": ("SELEC 1", DatabaseFailure, None, []),
    "no such function": ("SELECT failure_function(1)", DatabaseFailure, None, []),
}


@pytest.mark.parametrize("case", BROKEN_RULES)
def test_postgresql_names_the_broken_rule(server_url: str, ask: Ask, case: str) -> None:
    statement, kind, constraint, columns = BROKEN_RULES[case]
    error = ask(server_url, [statement])
    assert_says(error, kind, constraint=constraint, columns=(*columns,))


@pytest.fixture(scope="module")
def maria_url(mariadb_kit_url: str) -> Iterator[str]:
    """A MariaDB database with the tables, which no test changes for good."""
    engine = create_db_engine(mariadb_kit_url, pool_name="f")
    fill(engine)
    yield mariadb_kit_url
    OwnBase.metadata.drop_all(engine)
    engine.dispose()


@pytest.mark.mariadb
@pytest.mark.parametrize("case", BROKEN_RULES)
def test_mariadb_names_the_broken_rule(maria_url: str, ask: Ask, case: str) -> None:
    statement, kind, constraint, columns = BROKEN_RULES[case]
    if case == "unique with a long name":
        # One character more than PostgreSQL keeps.
        constraint = "uq_failure_crates_with_a_name_of_some_length_first_of_se_551b"
    error = ask(maria_url, [statement])
    assert_says(error, kind, constraint=constraint, columns=(*columns,))


@pytest.mark.mariadb
@pytest.mark.parametrize(
    "statement",
    [
        box(weight=10_000),
        box(label=SECRET * 3),
        box(place="walrus-7731"),
        ("INSERT INTO failure_shelves (id) VALUES (:number)", {"number": 1 << 70}),
    ],
    ids=["numeric", "length", "integer", "64 bits"],
)
def test_value_that_does_not_fit_mariadb_is_told_as_such(
    maria_url: str, ask: Ask, statement: Statement
) -> None:
    assert_says(ask(maria_url, [statement]), failures.InvalidValue)


@pytest.mark.mariadb
def test_mariadb_statement_that_takes_too_long(maria_url: str, ask: Ask) -> None:
    slow = ["SET max_statement_time = 0.02", "SELECT sleep(5)"]
    assert_says(ask(maria_url, slow), failures.StatementTimeout)


@pytest.mark.mariadb
def test_mariadb_lock_that_another_holds(maria_url: str, ask: Ask) -> None:
    with busy(maria_url, LOCK):
        assert_says(ask(maria_url, [f"{LOCK} NOWAIT"]), failures.LockNotAvailable)


@pytest.mark.mariadb
def test_mariadb_session_that_the_server_ends(maria_url: str, ask: Ask) -> None:
    assert_says(ask(maria_url, ["KILL CONNECTION_ID()"]), failures.ConnectionLost)


@pytest.mark.mariadb
def test_mariadb_that_refuses_a_user_or_has_no_such_database(maria_url: str, ask: Ask) -> None:
    stranger = maria_url.replace("root@", "walrus:wrong@")
    assert_says(ask(stranger, ["SELECT 1"]), failures.AuthenticationFailed)
    assert_says(ask(f"{maria_url}_missing", ["SELECT 1"]), failures.DatabaseMissing)


@pytest.mark.parametrize("case", BROKEN_RULES)
def test_sqlite_names_the_broken_rule(file_url: str, ask: Ask, case: str) -> None:
    statement, kind, constraint, columns = BROKEN_RULES[case]
    error = ask(file_url, [statement])
    # It tells the columns of a key, the name of a rule, and nothing of a reference.
    is_rule = kind is failures.CheckViolation
    is_reference = kind is failures.ForeignKeyViolation
    assert_says(
        error,
        kind,
        constraint=constraint if is_rule else None,
        columns=() if is_reference else (*columns,),
    )


def test_unique_index_of_an_expression_is_named(url: str, ask: Ask) -> None:
    error = ask(url, [box(place=2, label="L")])
    failure = classify(error, OwnBase.metadata)
    assert type(failure) is failures.UniqueViolation
    assert failure.constraint == "uq_failure_boxes_label"


def test_rule_without_a_name_names_no_columns(ask: Ask, tmp_path: Path) -> None:
    made = "CREATE TABLE nameless (a INTEGER CHECK (a > 0.5), UNIQUE (a))"
    error = ask(f"sqlite:///{tmp_path / 'nameless.db'}", [made, "INSERT INTO nameless VALUES (0)"])
    failure = classify(error, OwnBase.metadata)
    assert type(failure) is failures.CheckViolation
    assert failure.columns == ()


@pytest.mark.parametrize("metadata", [None, MetaData()], ids=["none", "another"])
def test_columns_are_not_guessed_without_the_metadata(
    server_url: str, ask: Ask, metadata: MetaData | None
) -> None:
    failure = classify(ask(server_url, [box(code=SECRET)]), metadata)
    assert failure is not None
    assert (failure.constraint, failure.columns) == ("uq_failure_boxes_code", ())


@pytest.mark.parametrize(
    "statement",
    [
        box(weight=10_000),
        box(label=SECRET * 3),
        "SELECT CAST('walrus-7731' AS integer)",
        "SELECT CAST('walrus-7731' AS timestamptz)",
        "SELECT CAST('walrus-7731' AS uuid)",
        "SELECT 1 / (id - id) FROM failure_shelves",
        ("SELECT CAST(:number AS integer)", {"number": 1 << 40}),
        ("INSERT INTO failure_shelves (id) VALUES (:number)", {"number": 1 << 70}),
    ],
    ids=["numeric", "length", "integer", "time", "uuid", "division", "32 bits", "64 bits"],
)
def test_value_that_does_not_fit_is_told_as_such(
    server_url: str, ask: Ask, statement: Statement
) -> None:
    failure = classify(ask(server_url, [statement]), OwnBase.metadata)
    assert type(failure) is failures.InvalidValue
    assert SECRET not in repr(vars(failure))


def test_value_that_sqlite_cannot_take_for_a_key(file_url: str, ask: Ask) -> None:
    error = ask(file_url, [f"INSERT INTO failure_shelves (id) VALUES ('{SECRET}')"])  # noqa: S608
    assert_says(error, failures.InvalidValue)


def test_value_that_a_column_type_refuses_is_told_as_such(url: str) -> None:
    engine = create_db_engine(url, pool_name="f")
    for price in ("0.001", "100", "NaN"):
        values = {"first_of_several": 5, "second_of_several": 5, "price": price}
        with engine.connect() as connection, pytest.raises(Exception) as caught:  # noqa: PT011
            connection.execute(insert(Crate), values)
        assert_says(caught.value, failures.InvalidValue)
    engine.dispose()


@pytest.mark.parametrize(
    "statement", ["SELECT currval('failure_seen')", "DO 'BEGIN RAISE SQLSTATE ''54001''; END'"]
)
def test_answer_without_an_entry_of_its_own_is_no_lost_connection(
    server_url: str, ask: Ask, statement: str
) -> None:
    error = ask(server_url, ["CREATE TEMPORARY SEQUENCE failure_seen", statement])
    assert_says(error, DatabaseFailure)


# What other transactions can do


@contextmanager
def busy(url: str, *statements: str) -> Iterator[Connection]:
    """Another transaction that did something and goes on."""
    engine = create_db_engine(url, pool_name="f")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
        yield connection
    engine.dispose()


LOCK: Final = "SELECT id FROM failure_boxes FOR UPDATE"


@pytest.mark.parametrize(
    "statements",
    [[f"{LOCK} NOWAIT"], ["SET LOCAL lock_timeout = '20ms'", LOCK]],
    ids=["nowait", "lock_timeout"],
)
def test_lock_that_another_holds(server_url: str, ask: Ask, statements: list[str]) -> None:
    with busy(server_url, LOCK):
        assert_says(ask(server_url, statements), failures.LockNotAvailable)


def test_sqlite_file_that_another_writes(file_url: str) -> None:
    with busy(file_url, "DELETE FROM failure_boxes WHERE id = -1"):
        for error_of in (error_of_sync, error_of_async):
            error = error_of(file_url, ["SELECT 1"], connect_args={"timeout": 0.02})
            assert_says(error, failures.LockNotAvailable)


def test_sqlite_row_that_was_changed_since_the_transaction_read(tmp_path: Path) -> None:
    file = tmp_path / "snapshot.db"
    with (
        closing(sqlite3.connect(file, isolation_level=None)) as first,
        closing(sqlite3.connect(file, isolation_level=None)) as second,
    ):
        first.execute("PRAGMA journal_mode=WAL")
        first.execute("CREATE TABLE t (a)")
        first.execute("BEGIN")
        first.execute("SELECT * FROM t").fetchall()
        second.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(sqlite3.OperationalError) as caught:
            first.execute("INSERT INTO t VALUES (2)")
        assert caught.value.sqlite_errorname == "SQLITE_BUSY_SNAPSHOT"
        assert_says(caught.value, failures.LockNotAvailable)


def test_statement_that_takes_too_long(server_url: str, ask: Ask) -> None:
    error = ask(server_url, ["SET LOCAL statement_timeout = '20ms'", "SELECT pg_sleep(5)"])
    assert_says(error, failures.StatementTimeout)


@contextmanager
def changed_behind(url: str) -> Iterator[Callable[[], None]]:
    """Give a function that changes the box for good; it is as before at the end."""
    engine = create_db_engine(url, pool_name="f")

    def change(place: str = "place + 1") -> None:
        with engine.begin() as connection:
            connection.execute(text(f"UPDATE failure_boxes SET place = {place}"))  # noqa: S608

    yield change
    change("1")
    engine.dispose()


TAKE: Final = text("UPDATE failure_boxes SET place = place + 10")


def test_transactions_that_cannot_be_put_in_an_order(server_url: str) -> None:
    engine = create_db_engine(server_url, pool_name="f", isolation_level="REPEATABLE READ")
    with changed_behind(server_url) as change, engine.connect() as connection:
        connection.execute(text("SELECT place FROM failure_boxes"))
        change()
        with pytest.raises(Exception) as caught:  # noqa: PT011 - looked at below
            connection.execute(TAKE)
    assert_says(caught.value, failures.SerializationFailure)
    engine.dispose()


def test_transactions_that_cannot_be_put_in_an_order_over_asyncio(server_url: str) -> None:
    async def overtake(engine: AsyncEngine, change: Callable[[], None]) -> None:
        async with engine.connect() as connection:
            await connection.execute(text("SELECT place FROM failure_boxes"))
            change()
            with pytest.raises(Exception) as caught:  # noqa: PT011 - looked at below
                await connection.execute(TAKE)
        assert_says(caught.value, failures.SerializationFailure)
        await engine.dispose()

    engine = create_async_db_engine(
        settings=DatabaseSettings(url=server_url),
        pool_name="f",
        isolation_level="REPEATABLE READ",
    )
    with changed_behind(server_url) as change:
        anyio.run(overtake, engine, change)


def test_row_that_was_changed_since_it_was_read(url: str) -> None:
    engine = create_db_engine(url, pool_name="f")
    with Session(engine) as session:
        row = Box(id=50, place=50, label="x", code="x", weight=1)
        session.add(row)
        session.flush()
        session.execute(delete(Box).where(Box.id == row.id), execution_options=_UNSEEN)
        row.place = 51
        with pytest.raises(Exception) as caught:  # noqa: PT011 - looked at below
            session.flush()
    assert_says(caught.value, failures.StaleRow)
    engine.dispose()


_UNSEEN: Final = {"synchronize_session": False}


# What the server can do

# Of those the last ones are kept for superusers.
PLACES: Final = 8
KEPT: Final = 3
ROLES: Final = ("walrus_password", "walrus_rejected", "walrus_stranger", "walrus_limited")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of our own, with few places and roles that it treats badly."""
    places = {"max_connections": str(PLACES), "superuser_reserved_connections": str(KEPT)}
    with running(PostgresServer(deadlock_timeout="20ms", **places)) as server:
        for role in ROLES:
            server.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'right'")
        server.execute("ALTER ROLE walrus_limited CONNECTION LIMIT 0")
        server.execute("CREATE ROLE walrus_no_login")
        trusted = ("postgres", "walrus_limited", "walrus_no_login", "walrus_missing")
        rules = [f"host all {role} 127.0.0.1/32 trust" for role in trusted]
        rules += ["host all walrus_password 127.0.0.1/32 scram-sha-256"]
        rules += ["host all walrus_rejected 127.0.0.1/32 reject"]
        (server.data / "pg_hba.conf").write_text("\n".join(rules) + "\n")
        server.execute("SELECT pg_reload_conf()")
        eventually(lambda: refuses(server, "walrus_stranger"))
        yield server


def refuses(server: PostgresServer, role: str) -> bool:
    """Whether a server lets a role not in."""
    try:
        psycopg2.connect(url_of(server, role)).close()
    except psycopg2.OperationalError:
        return True
    return False


def url_of(server: PostgresServer, role: str = "postgres", database: str = "postgres") -> str:
    """A URL of the server for a role."""
    return f"postgresql://{role}@127.0.0.1:{server.port}/{database}"


@pytest.mark.parametrize(
    "role",
    [
        "walrus_password",
        "walrus_password:wrong",
        "walrus_rejected",
        "walrus_stranger",
        "walrus_missing",
        "walrus_no_login",
    ],
)
def test_server_that_does_not_let_the_user_in(server: PostgresServer, ask: Ask, role: str) -> None:
    assert_says(ask(url_of(server, role), ["SELECT 1"]), failures.AuthenticationFailed)


def test_server_without_the_database(server: PostgresServer, ask: Ask) -> None:
    error = ask(url_of(server, database="walrus"), ["SELECT 1"])
    assert_says(error, failures.DatabaseMissing)


def test_server_that_has_no_place_for_this_role(server: PostgresServer, ask: Ask) -> None:
    error = ask(url_of(server, "walrus_limited"), ["SELECT 1"])
    assert_says(error, failures.TooManyConnections)


@contextmanager
def full(server: PostgresServer, role: str, places: int) -> Iterator[None]:
    """Take every connection that a server has for a role, once those before have ended."""
    with ExitStack() as taken:
        for _ in range(places):
            eventually(lambda: takes_place(server, role, taken))
        assert refuses(server, role)
        yield


def takes_place(server: PostgresServer, role: str, taken: ExitStack) -> bool:
    """Try to take one more connection."""
    with suppress(psycopg2.OperationalError):
        taken.enter_context(closing(psycopg2.connect(url_of(server, role))))
        return True
    return False


def test_server_that_has_no_place(server: PostgresServer, ask: Ask) -> None:
    with full(server, "postgres", PLACES):
        assert_says(ask(url_of(server), ["SELECT 1"]), failures.TooManyConnections)


def test_server_that_keeps_its_last_places_for_others(server: PostgresServer, ask: Ask) -> None:
    role = "walrus_password:right"
    with full(server, role, PLACES - KEPT):
        assert_says(ask(url_of(server, role), ["SELECT 1"]), failures.TooManyConnections)


def test_session_that_the_server_ends(server: PostgresServer, ask: Ask) -> None:
    error = ask(url_of(server), ["SELECT pg_terminate_backend(pg_backend_pid())"])
    assert_says(error, failures.ConnectionLost)


def test_session_that_the_server_ended_meanwhile(server: PostgresServer, ask: Ask) -> None:
    def end_sessions() -> None:
        server.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name = 'walrus'"
        )

    named = "SET application_name = 'walrus'"
    error = ask(url_of(server), [named, end_sessions])
    assert_says(error, failures.ConnectionLost)


def test_nobody_listens(ask: Ask) -> None:
    url = f"postgresql://walrus@127.0.0.1:{free_port()}/walrus"
    assert_says(ask(url, ["SELECT 1"]), failures.ConnectionLost)


def test_server_that_does_not_answer(server: PostgresServer, ask: Ask) -> None:
    server.pause()
    try:
        seconds = {"connect_timeout": 2} if ask is error_of_sync else {"timeout": 0.2}
        options: Any = {"connect_args": seconds}
        error = ask(url_of(server), ["SELECT 1"], **options)
    finally:
        server.resume()
    assert_says(error, failures.ConnectionLost)


def test_deadlock(server: PostgresServer) -> None:
    errors: list[BaseException] = []
    both_hold_one = threading.Barrier(2, timeout=10)
    engine = create_db_engine(url_of(server), pool_name="f")
    numbers = "SELECT pg_advisory_xact_lock(:number)"

    def lock(mine: int, other: int) -> None:
        with engine.connect() as connection:
            connection.execute(text(numbers), {"number": mine})
            both_hold_one.wait()
            try:
                connection.execute(text(numbers), {"number": other})
            except Exception as error:  # noqa: BLE001 - looked at below
                errors.append(error)

    threads = [threading.Thread(target=lock, args=pair) for pair in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    engine.dispose()
    [error] = errors
    assert_says(error, failures.DeadlockDetected)


def test_deadlock_over_asyncio(server: PostgresServer) -> None:
    errors: list[BaseException] = []

    async def lock(connection: AsyncConnection, number: int) -> None:
        try:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": number})
        except Exception as error:  # noqa: BLE001 - looked at below
            errors.append(error)
            await connection.rollback()

    async def scenario() -> None:
        engine = create_async_db_engine(
            settings=DatabaseSettings(url=url_of(server)), pool_name="f"
        )
        async with engine.connect() as first, engine.connect() as second:
            await lock(first, 1)
            await lock(second, 2)
            async with anyio.create_task_group() as group:
                group.start_soon(lock, first, 2)
                group.start_soon(lock, second, 1)
        await engine.dispose()

    anyio.run(scenario)
    [error] = errors
    assert_says(error, failures.DeadlockDetected)


# What our own side can do


def test_pool_without_a_free_connection(server_url: str) -> None:
    given = DatabaseSettings(url=server_url, pool_size=1, max_overflow=0, pool_timeout=0.02)
    engine = create_db_engine(settings=given, pool_name="f")
    with engine.connect(), pytest.raises(Exception) as caught:  # noqa: PT011 - looked at below
        engine.connect()
    engine.dispose()
    assert_says(caught.value, failures.PoolTimeout)


def test_pool_without_a_free_connection_over_asyncio(server_url: str) -> None:
    async def scenario() -> BaseException:
        given = DatabaseSettings(url=server_url, pool_size=1, max_overflow=0, pool_timeout=0.02)
        engine = create_async_db_engine(settings=given, pool_name="f")
        async with engine.connect():
            with pytest.raises(Exception) as caught:  # noqa: PT011 - looked at below
                await engine.connect()
        await engine.dispose()
        return caught.value

    assert_says(anyio.run(scenario), failures.PoolTimeout)


def test_file_that_is_no_database(tmp_path: Path) -> None:
    file = tmp_path / "walrus.db"
    file.write_bytes(b"walrus" * 1000)
    assert_says(error_of_sync(f"sqlite:///{file}", ["SELECT 1"]), failures.ConnectionLost)


def test_file_in_a_directory_that_is_missing(tmp_path: Path, ask: Ask) -> None:
    url = f"sqlite:///{tmp_path / 'walrus' / 'walrus.db'}"
    assert_says(ask(url, ["SELECT 1"]), failures.ConnectionLost)


@pytest.mark.parametrize(
    "error", [ValueError("walrus"), KeyError("walrus"), RuntimeError("walrus"), StopIteration()]
)
def test_error_of_something_else_is_no_failure(error: Exception) -> None:
    assert classify(error) is None
    assert failure_reason(error) == "error"


def test_errors_of_the_network_mean_a_lost_connection() -> None:
    for error in (ConnectionRefusedError("walrus"), TimeoutError("walrus"), OSError("walrus")):
        assert_says(error, failures.ConnectionLost)


def test_every_reason_is_a_word_of_its_own() -> None:
    kinds: list[type[DatabaseFailure]] = [DatabaseFailure, *DatabaseFailure.__subclasses__()]
    reasons = [kind.reason for kind in kinds]
    assert len({*reasons}) == len(kinds)
    assert all(reason.replace("_", "").isalpha() and reason.islower() for reason in reasons)

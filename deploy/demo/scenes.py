"""The scenes: what is broken, which alerts have to fire, and what mends it."""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from deploy.demo.load import Load
from deploy.demo.stack import Stack, StackError
from service.migrator.errors import ExitCode
from service.migrator.events import text_sink

# What the client calls itself that holds locks and forgets them.
_CLIENT: Final = "nightly-script"
_LOCK_PRODUCTS: Final = "LOCK TABLE products"
_LOCK_ONE: Final = "SELECT id FROM products WHERE id = 1 FOR UPDATE"
_READ_PRODUCTS: Final = "SELECT count(*) FROM products"


class Stage(NamedTuple):
    """What a scene plays on."""

    stack: Stack
    load: Load


class Series(NamedTuple):
    """A series that is shown while a scene plays."""

    name: str
    query: str


class Output(NamedTuple):
    """What a command printed; a table is cut where it is too wide, and not wrapped."""

    text: str
    is_table: bool = False


class Expected(NamedTuple):
    """An alert that has to fire and to resolve.

    Attributes:
        name: The alert's.
        case: Words by which its runbook tells what to do in this case.
    """

    name: str
    case: str


# Does something, and yields what it does and what that printed.
Act = Callable[[Stage], Iterable[str | Output]]


@dataclass(frozen=True)
class Scene:
    """One thing that breaks.

    Attributes:
        name: For the command line.
        title: For its heading.
        story: What happens, in a sentence or two.
        expected: The alerts.
        series: What is shown meanwhile.
        cause: Breaks it.
        look: What an operator looks at when the alert has fired.
        end: Mends it.
    """

    name: str
    title: str
    story: str
    expected: tuple[Expected, ...]
    series: tuple[Series, ...]
    cause: Act
    look: Act
    end: Act


def _holding(sql: str) -> Act:
    def act(stage: Stage) -> Iterator[str | Output]:
        yield f"psql, as {_CLIENT}: BEGIN; {sql};"
        stage.stack.open_transaction(_CLIENT, sql)

    return act


def _change_what_is_locked(stage: Stage) -> Iterator[str | Output]:
    yield from _holding(_LOCK_ONE)(stage)
    yield "PATCH /products/1"
    stage.load.change("/products/1")


def _end_client(stage: Stage) -> Iterator[str | Output]:
    yield f"pg_terminate_backend(…) of {_CLIENT}"
    stage.stack.end_session(_CLIENT)


def _show_pool(stage: Stage) -> Iterator[str | Output]:
    yield "$ tidegate pool show"
    yield Output(stage.stack.tool("pool", "show"), is_table=True)


def _stop_database(stage: Stage) -> Iterator[str | Output]:
    yield "$ docker compose stop db"
    stage.stack.stop("db")


def _ask_readiness(stage: Stage) -> Iterator[str | Output]:
    yield "$ curl /readyz; curl /livez"
    for path in ("/readyz", "/livez"):
        yield Output(stage.load.get(path))


def _start_database(stage: Stage) -> Iterator[str | Output]:
    yield "$ docker compose start db"
    stage.stack.start("db")


def _migrate_what_is_held(stage: Stage) -> Iterator[str | Output]:
    yield from _holding(_READ_PRODUCTS)(stage)
    yield from _migrate(stage, ExitCode.LOCK_RETRIES)


def _migrate_again(stage: Stage) -> Iterator[str | Output]:
    yield from _end_client(stage)
    yield from _migrate(stage, ExitCode.DONE)
    yield from _ask_readiness(stage)


def _migrate(stage: Stage, expected: ExitCode) -> Iterator[str | Output]:
    yield "$ tidegate migrate up     # of the next release"
    done = stage.stack.migrate_to_next_release()
    told: list[str] = []
    tell = text_sink(told.append)
    for line in done.stderr.splitlines():
        if line.startswith("{"):
            tell(json.loads(line))
    yield Output("\n".join([*told, f"exit code {done.returncode}"]))
    if done.returncode != expected:
        raise StackError(f"tidegate migrate up: exit code {expected} was expected")


_USED: Final = Series("used", 'sum(db_client_connection_count{pool_name="primary",state="used"})')
_MAX: Final = Series("max", 'sum(db_client_connection_max{pool_name="primary"})')
_QUEUED: Final = Series("queued", 'sum(service_admission_requests{state="queued"})')
_LEAKED: Final = Series("leaked", 'sum(db_client_connection_leaked{pool_name="primary"})')
_DATABASE: Final = Series("check database", 'min(service_health_check_status{check="database"})')
_EXIT_CODE: Final = Series("last exit code", "service_migration_last_exit_code")

SCENES: Final = (
    Scene(
        "pool",
        "The pool is exhausted",
        "A script locks the table products, and forgets to commit. Every request waits in the"
        " database and keeps its connection, until there is none left.",
        (
            Expected("TidegatePoolExhausted", "holds a lock"),
            Expected("TidegateRequestsShed", "work became slow"),
        ),
        (_USED, _MAX, _QUEUED),
        _holding(_LOCK_PRODUCTS),
        _show_pool,
        _end_client,
    ),
    Scene(
        "leak",
        "A connection does not come back",
        "The script has locked one row only. One request waits for it, and its connection stays"
        " out; all others are served.",
        (Expected("TidegateConnectionsLeaked", "They come back"),),
        (_USED, _MAX, _LEAKED),
        _change_what_is_locked,
        _show_pool,
        _end_client,
    ),
    Scene(
        "database",
        "The database stops",
        "Nothing can be served. The service says that it is not ready, stays alive, and answers"
        " at once instead of keeping its clients waiting.",
        (
            Expected("TidegateHealthCheckFailing", "A restart does not help"),
            Expected("TidegateConnectFailures", "start the server"),
        ),
        (_DATABASE, _USED, _MAX),
        _stop_database,
        _ask_readiness,
        _start_database,
    ),
    Scene(
        "migration",
        "A migration is blocked",
        "The next release adds a column to products, which the script has read in a transaction"
        " that it forgot. The runner gives up rather than have every request queue behind it, and"
        " says who it was; this release serves on, before and after.",
        (Expected("TidegateMigrationFailed", "end the session"),),
        (_EXIT_CODE,),
        _migrate_what_is_held,
        _ask_readiness,
        _migrate_again,
    ),
)

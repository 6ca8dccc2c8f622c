"""Probes tell the truth, in time, about a real server: stopped, hung, misconfigured, overrun."""

import asyncio
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx2
import psycopg2
import pytest

from tests.database.pools import ServerView
from tests.support.database_server import running
from tests.support.databases import PostgresDatabases, migrate
from tests.support.locks import locked_table
from tests.support.polling import eventually, keeps_time
from tests.support.postgres import PostgresServer
from tests.support.scraping import scraped
from tests.support.server import Service, running_service

TOKEN: Final = "an operator's token"
INTERVAL: Final = 1.0
TIMEOUT: Final = 1.6
# For a machine that has much else to do; less than what one look more would take.
SLACK: Final = 0.7
CAPACITY: Final = 3
Breaks = Callable[[PostgresServer], None]
News = Callable[[], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running(PostgresServer(log_statement="all")) as server:
        yield server


def settings(url: str, **more: str) -> dict[str, str]:
    return {
        "DATABASE_URL": url,
        "ENVIRONMENT": "test",
        "LOG_FORMAT": "json",
        "OPS_TOKEN": TOKEN,
        "HEALTH_INTERVAL": str(INTERVAL),
        "HEALTH_TIMEOUT": str(TIMEOUT),
        "DATABASE_POOL_SIZE": str(CAPACITY),
        "DATABASE_MAX_OVERFLOW": "0",
        **more,
    }


@pytest.fixture(scope="module")
def catalog(server: PostgresServer) -> str:
    url = PostgresDatabases(server.url()).create("catalog")
    migrate(url)
    return url


@pytest.fixture(scope="module")
def _service(catalog: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("service"), settings(catalog)) as running:
        yield running


@pytest.fixture
def service(_service: Service) -> Service:
    """The service, with all as it should be."""
    eventually(lambda: _service.http.get("/readyz").json() == {"status": "pass"})
    return _service


@pytest.fixture
def news(service: Service) -> News:
    """What the service logs from now on, but for requests."""
    seen = len(service.events())
    return lambda: [
        line for line in service.events()[seen:] if line["logger"] == "service.web.health_state"
    ]


def status(service: Service, path: str) -> int:
    """What a probe says; 0 where nobody listens yet."""
    try:
        return service.http.get(path).status_code
    except httpx2.TransportError:
        return 0


def entry(service: Service, check: str) -> dict[str, Any]:
    """What an operator sees of a check."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    body = service.http.get(f"/readyz/{check}?verbose", headers=headers).json()
    return dict(body["checks"][check][0])


def output(service: Service, check: str) -> str:
    return str(entry(service, check).get("output", ""))


def wait_for_looks(service: Service, check: str, looks: int) -> None:
    """Return right after a look, so many looks from now."""
    for _ in range(looks):
        before = time.monotonic() - entry(service, check)["ageSeconds"]
        eventually(lambda: time.monotonic() - entry(service, check)["ageSeconds"] > before + 0.05)  # noqa: B023 - called at once


def alarms(service: Service) -> list[dict[str, Any]]:
    """Every line that is no piece of information; a stack trace is a failure."""
    assert "Traceback" not in service.text()
    return [line for line in service.events() if line["level"] not in ("info", "debug")]


def seconds_until(service: Service, code: int) -> float:
    start = time.monotonic()
    eventually(lambda: status(service, "/readyz") == code, within=20)
    return time.monotonic() - start


def seconds_to_ask(service: Service, path: str) -> float:
    start = time.monotonic()
    assert status(service, path) == 200
    return time.monotonic() - start


@pytest.mark.parametrize(
    "fault",
    [
        (PostgresServer.stop, PostgresServer.start, "connection_lost"),
        (PostgresServer.kill, PostgresServer.start, "connection_lost"),
        (PostgresServer.pause, PostgresServer.resume, "deadline_exceeded"),
    ],
    ids=["stopped", "killed", "hung"],
)
def test_readiness_turns_in_time_and_back(
    service: Service,
    news: News,
    server: PostgresServer,
    fault: tuple[Breaks, Breaks, str],
) -> None:
    breaks, mends, reason = fault

    def lateness() -> float:
        known = len(news())
        # The next one is as far away as it can be.
        wait_for_looks(service, "database", 1)
        breaks(server)
        try:
            until_not = seconds_until(service, 503)
            assert output(service, "database").startswith(reason)
            for path in ("/livez", "/startupz", "/metrics", "/version"):
                keeps_time(partial(seconds_to_ask, service, path), 1)
            # Another look finds the same, which is no news.
            wait_for_looks(service, "database", 1)
        finally:
            mends(server)
        until_ready = seconds_until(service, 200)
        assert status(service, "/products") == 200
        told = [(line["check"], line["status"], line.get("reason", "")) for line in news()[known:]]
        assert told == [("database", "fail", reason), ("database", "pass", "")]
        return max(until_not - (INTERVAL + TIMEOUT), until_ready - 2 * INTERVAL)

    keeps_time(lateness, SLACK)


def test_one_lost_look_turns_nothing(service: Service, news: News, catalog: str) -> None:
    view = ServerView(catalog)
    answers = set()
    looks = 0
    for _ in range(2):
        # The next look finds its connection gone.
        view.end_sessions("tidegate")
        ends = time.monotonic() + INTERVAL + TIMEOUT
        while time.monotonic() < ends or not view.sessions("tidegate"):
            assert time.monotonic() < ends + 20, "it has opened no other"
            answers.add(status(service, "/readyz"))
            time.sleep(0.01)
        looks += len(view.sessions("tidegate"))
    view.close()
    assert looks == 2, "it has opened another each time"
    assert answers == {200}
    assert news() == []
    reasons = "db_client_connection_closed_total"
    assert scraped(service, reasons, pool_name="health") >= 2


def test_public_answers_hold_nothing_of_the_database(
    service: Service, server: PostgresServer
) -> None:
    server.stop()
    try:
        seconds_until(service, 503)
        for path in ("/livez?verbose", "/readyz?verbose", "/startupz?verbose", "/readyz/database",
                     "/version", "/products", "/metrics"):  # fmt: skip
            body = service.http.get(path).text
            for secret in ("127.0.0.1", "postgres:", "not-checked", "refused"):
                assert secret not in body, path
            # Not as a part of some figure.
            assert not re.search(rf"(?<!\d){server.port}(?!\d)", body), path
        assert "127.0.0.1" not in output(service, "database")
    finally:
        server.start()


def test_a_storm_of_probes_costs_nothing(
    service: Service, server: PostgresServer, catalog: str
) -> None:
    log = server.directory / "log"
    view = ServerView(catalog)
    waits = "db_client_connection_wait_time_seconds_count"
    before = scraped(service, waits, pool_name="primary")
    sessions = view.sessions("tidegate")
    size = log.stat().st_size
    start = time.monotonic()
    asked = asyncio.run(_storm(service.port, seconds=4 * INTERVAL))
    seconds = time.monotonic() - start
    with log.open(errors="replace") as text:
        text.seek(size)
        queries = [line for line in text if "statement: " in line]
    assert queries, "the log is that of the server"
    assert len(queries) <= seconds / INTERVAL + 1
    assert asked > 10 * len(queries)
    assert scraped(service, waits, pool_name="primary") == before
    assert view.sessions("tidegate") == sessions
    view.close()


async def _storm(port: int, seconds: float) -> int:
    """Ask probes over 16 connections as fast as they answer; tells how many were 200."""
    ends = time.monotonic() + seconds

    async def ask() -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        asked = 0
        while time.monotonic() < ends:
            path = (b"/livez", b"/readyz?verbose", b"/startupz")[asked % 3]
            writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: test\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head.lower())
            assert length is not None
            await reader.readexactly(int(length[1]))
            assert head.startswith(b"HTTP/1.1 200 ")
            asked += 1
        writer.close()
        return asked

    return sum(await asyncio.gather(*(ask() for _ in range(16))))


def test_a_full_pool_is_no_dead_database(service: Service, catalog: str) -> None:
    url = f"http://127.0.0.1:{service.port}/products"
    with ThreadPoolExecutor(CAPACITY) as clients, locked_table(catalog):
        for _ in range(CAPACITY):
            clients.submit(httpx2.get, url, timeout=30)
        eventually(lambda: output(service, "pool").startswith("saturated"))
        answer = service.http.get("/readyz")
        assert answer.status_code == 200
        assert answer.json() == {"status": "warn", "checks": {"pool": [{"status": "warn"}]}}
        status_of = "service_health_check_status"
        assert scraped(service, status_of, check="pool") == 0.5
        assert scraped(service, status_of, check="database") == 1
    eventually(lambda: service.http.get("/readyz").json() == {"status": "pass"})


def _without_password(server: PostgresServer, url: str) -> str:
    server.ask_for_password("locked")
    server.execute("DROP ROLE IF EXISTS locked")
    server.execute("CREATE ROLE locked LOGIN SUPERUSER PASSWORD 'the-right-one'")
    wrong = url.replace("postgres:not-checked", "locked:the-wrong-one")
    # The server reads its rules anew when it comes to it.
    eventually(lambda: _is_refused(wrong))
    return wrong


def _is_refused(url: str) -> bool:
    try:
        psycopg2.connect(url).close()
    except psycopg2.OperationalError:
        return True
    return False


def _give_password(server: PostgresServer) -> None:
    server.execute("ALTER ROLE locked PASSWORD 'the-wrong-one'")


def _without_database(server: PostgresServer, url: str) -> str:
    server.execute('DROP DATABASE IF EXISTS "absent"')
    return url.replace("/catalog", "/absent")


def _create_database(server: PostgresServer) -> None:
    migrate(PostgresDatabases(server.url()).create("absent"))


def _behind(server: PostgresServer, url: str) -> str:
    del url
    return PostgresDatabases(server.url()).create("empty")


def _migrate(server: PostgresServer) -> None:
    migrate(server.url("empty"))


class Fault(NamedTuple):
    """What is wrong at the start: how it comes about and goes, and what is told of it."""

    prepare: Callable[[PostgresServer, str], str]
    mend: Breaks
    check: str
    reason: str
    advice: str


@pytest.mark.parametrize(
    "fault",
    [
        Fault(
            _without_password, _give_password, "database", "authentication_failed", "password in"
        ),
        Fault(_without_database, _create_database, "database", "database_missing", "create the"),
        Fault(_behind, _migrate, "schema", "behind", "tidegate migrate up"),
    ],
    ids=["password", "database", "schema"],
)
def test_a_start_that_cannot_succeed_is_one_line_and_waits(
    server: PostgresServer, catalog: str, tmp_path: Path, fault: Fault
) -> None:
    check, reason, advice = fault.check, fault.reason, fault.advice
    url = fault.prepare(server, catalog)
    variables = settings(url, HEALTH_INTERVAL="0.2", DATABASE_POOL_MIN_IDLE="2")
    with running_service(tmp_path, variables, ready=False) as service:
        eventually(lambda: status(service, "/livez") == 200, within=30)
        eventually(lambda: output(service, check).startswith(reason), within=30)
        assert advice in output(service, check)
        assert [status(service, path) for path in ("/startupz", "/readyz")] == [503, 503]
        wait_for_looks(service, check, 3)
        (line,) = alarms(service)
        assert (line["check"], line["reason"]) == (check, reason)
        assert advice in line["advice"]
        assert service.process.poll() is None
        fault.mend(server)
        eventually(lambda: status(service, "/readyz") == 200, within=30)
        assert status(service, "/startupz") == 200
        count = "db_client_connection_count"
        # One more where the pool's own upkeep came between.
        eventually(lambda: scraped(service, count, pool_name="primary", state="idle") >= 2)
        assert len(service.workers()) == 1
    assert "the-wrong-one" not in service.text()


def test_a_server_that_comes_later_is_waited_for(
    server: PostgresServer, catalog: str, tmp_path: Path
) -> None:
    def lateness(away: Breaks, back: Breaks) -> float:
        is_back = False
        away(server)
        try:
            with running_service(tmp_path, settings(catalog), ready=False) as service:
                eventually(lambda: status(service, "/livez") == 200, within=30)
                eventually(lambda: len(alarms(service)) == 1)
                assert [status(service, path) for path in ("/startupz", "/readyz")] == [503, 503]
                back(server)
                is_back = True
                seconds = seconds_until(service, 200)
                assert len(alarms(service)) == 1
        finally:
            if not is_back:
                back(server)
        return seconds - 2 * INTERVAL

    keeps_time(partial(lateness, PostgresServer.stop, PostgresServer.start), SLACK)
    keeps_time(partial(lateness, PostgresServer.pause, PostgresServer.resume), SLACK)


def test_a_database_ahead_is_ready_and_one_that_went_back_is_not(
    server: PostgresServer, tmp_path: Path
) -> None:
    url = PostgresDatabases(server.url()).create("moving")
    migrate(url)
    with running_service(tmp_path, settings(url, HEALTH_INTERVAL="0.2")) as service:
        server.execute("UPDATE alembic_version SET version_num = 'later'", "moving")
        wait_for_looks(service, "schema", 3)
        assert status(service, "/readyz") == 200
        server.execute("DELETE FROM alembic_version", "moving")
        eventually(lambda: status(service, "/readyz") == 503)
        assert output(service, "schema").startswith("behind")
        assert status(service, "/startupz") == 200, "it has started once"


def test_a_database_past_a_contract_is_not_ready_and_the_metrics_tell(
    server: PostgresServer, tmp_path: Path
) -> None:
    url = PostgresDatabases(server.url()).create("past")
    migrate(url)

    def apply(revision: str, phase: str) -> None:
        server.execute(
            "INSERT INTO migration_history (revision, phase, checksum, release)"  # noqa: S608 - ours
            f" VALUES ('{revision}', '{phase}', '', '9.9');"
            f" UPDATE alembic_version SET version_num = '{revision}'",
            "past",
        )

    with running_service(tmp_path, settings(url, HEALTH_INTERVAL="0.2")) as service:

        def is_in(state: str) -> bool:
            return scraped(service, "service_schema_state", state=state) == 1

        apply("adds", "expand")
        eventually(lambda: is_in("ahead"))
        assert status(service, "/readyz") == 200
        assert scraped(service, "service_schema_compatible") == 1
        apply("drops", "contract")
        eventually(lambda: status(service, "/readyz") == 503)
        assert output(service, "schema").startswith("ahead_past_contract")
        assert is_in("ahead_past_contract")
        assert scraped(service, "service_schema_compatible") == 0

"""Stopping, reloading and recycling a real gunicorn: what clients get, and how long it takes."""

import math
import signal
import socket
import sqlite3
import time
from contextlib import closing
from datetime import datetime
from functools import partial
from pathlib import Path

import httpx2
import pytest

from service.settings import DatabaseSettings, Settings, SettingsError, load_settings
from tests.load.restarts import load, reloading, rolling
from tests.support.databases import fill
from tests.support.locks import locked_table, waiting_for_locks
from tests.support.polling import eventually, keeps_time
from tests.support.raw_http import END, ask, rest, until_end
from tests.support.scraping import scrape, scraped, total
from tests.support.server import PYTHON, ROOT, Service, running_service
from tests.web.servers import serving

PRODUCTS = 20
# As many as leave the machine time for what is tested; the benchmark has 32.
CLIENTS = 8
PRODUCT = b'{"code": "ROPE", "name": "Rope", "price": "19.90"}'
# None of the clients is turned away because there are many.
PATIENT = {"ADMISSION_QUEUE": "64", "ADMISSION_WAIT": "20"}


@pytest.fixture
def catalog_url(postgres_url: str) -> str:
    """A database with some products, of the ids from 1 on."""
    fill(postgres_url, 1, PRODUCTS, 2000)
    return postgres_url


def begin_create(service: Service) -> socket.socket:
    """Send the head of a request, and wait until the service has taken it."""
    client = socket.create_connection(("127.0.0.1", service.port), timeout=30)
    client.sendall(
        b"POST /products HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(PRODUCT)
    )
    eventually(lambda: scraped(service, "http_server_active_requests") == 2)
    return client


def get(client: socket.socket, path: str) -> bytes:
    """Ask over an open connection; the whole of a short answer, which comes in one piece."""
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    return client.recv(1 << 16)


def is_last(answer: bytes) -> bool:
    """Whether a good answer says that it is the last of its connection."""
    assert answer.startswith(b"HTTP/1.1 20")
    return b"\r\nconnection: close\r\n" in answer.lower()


def status(service: Service, path: str) -> int:
    """Over a connection of its own."""
    return httpx2.get(f"http://127.0.0.1:{service.port}{path}", timeout=10).status_code


def refuses(service: Service) -> bool:
    try:
        socket.create_connection(("127.0.0.1", service.port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def ends_soon(service: Service) -> bool:
    """Whether it ends well, and long before those times are over that nothing should wait for."""
    return service.process.wait(timeout=15) == 0


def test_rolling_restarts_lose_no_request(tmp_path: Path, catalog_url: str) -> None:
    outcome = rolling(partial(serving, tmp_path, catalog_url, DRAIN_SECONDS=1, **PATIENT),
                      2, PRODUCTS, CLIENTS)  # fmt: skip
    assert outcome.failed == {}
    assert outcome.requests > 100


def test_reloads_lose_no_request(tmp_path: Path, catalog_url: str) -> None:
    with serving(tmp_path, catalog_url, WEB_CONCURRENCY=2, **PATIENT) as service:
        outcome = reloading(service, 2, PRODUCTS, CLIENTS)
        starts = partial(scraped, service, "service_worker_starts_total")
        eventually(lambda: starts(reason="reload") == 4)
        assert starts() == 6
    assert outcome.failed == {}
    assert outcome.requests > 100


def test_recycled_workers_lose_no_request_and_are_never_missed(
    tmp_path: Path, catalog_url: str
) -> None:
    with serving(tmp_path, catalog_url, WORKER_MAX_REQUESTS=200, **PATIENT) as service:
        with load(service.port, PRODUCTS, CLIENTS) as running:
            recycled = partial(scraped, service, "service_worker_starts_total", reason="recycled")
            while recycled() < 2:
                assert status(service, "/readyz") == 200
        assert running.outcome is not None
        assert running.outcome.failed == {}
        assert scraped(service, "service_worker_starts_total", reason="died") == 0


@pytest.mark.parametrize("how", ["reload", "recycled"])
def test_successor_takes_over_when_it_is_ready(tmp_path: Path, postgres_url: str, how: str) -> None:
    # Who has looked at the database does not look again meanwhile, and who looks waits that long.
    with serving(
        tmp_path,
        postgres_url,
        HEALTH_INTERVAL=600,
        HEALTH_TIMEOUT=240,
        DATABASE_STATEMENT_TIMEOUT=120,
        DATABASE_QUERY_DEADLINE=130,
    ) as service:
        (worker,) = service.workers()
        with locked_table(postgres_url, "alembic_version"):
            if how == "reload":
                service.process.send_signal(signal.SIGHUP)
            else:
                worker.terminate()
            eventually(lambda: waiting_for_locks(postgres_url) == 1, within=30)
            assert {status(service, "/readyz") for _ in range(20)} == {200}
            assert len(service.workers()) == 2
        eventually(lambda: worker not in service.workers(), within=30)
        assert status(service, "/readyz") == 200


def test_successor_that_does_not_become_ready_takes_over_all_the_same(
    tmp_path: Path, sqlite_url: str
) -> None:
    with serving(tmp_path, sqlite_url, HEALTH_INTERVAL=300, HEALTH_TIMEOUT=1) as service:
        (worker,) = service.workers()
        with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as database:
            database.execute("DELETE FROM alembic_version")
            database.commit()
        service.process.send_signal(signal.SIGHUP)
        eventually(lambda: worker not in service.workers(), within=60)
        assert status(service, "/readyz") == 503
        assert status(service, "/livez") == 200


def test_stop_is_announced_then_serves_then_closes(tmp_path: Path, catalog_url: str) -> None:
    with serving(tmp_path, catalog_url, WEB_CONCURRENCY=2, DRAIN_SECONDS=6) as service:
        with (
            socket.create_connection(("127.0.0.1", service.port), timeout=30) as kept,
            begin_create(service) as creating,
        ):
            assert not is_last(get(kept, "/version"))
            start = time.monotonic()
            service.process.terminate()
            eventually(lambda: status(service, "/readyz") == 503, every=0.01)
            assert status(service, "/products/1") == 200, "requests are served"
            assert status(service, "/livez") == 200
            eventually(lambda: is_last(get(kept, "/version")), every=0.01)
            assert 6 <= time.monotonic() - start < 12
            assert kept.recv(1) == b""
            eventually(lambda: refuses(service))
            creating.sendall(PRODUCT)
            answer = rest(creating)
            assert answer.startswith(b"HTTP/1.1 201 ")
            assert is_last(answer)
        assert ends_soon(service)
        assert not [e for e in service.events() if e["level"] in ("warning", "error", "critical")]


def test_connection_that_was_not_read_yet_is_served(tmp_path: Path, sqlite_url: str) -> None:
    """Also those that wait in the kernel while the only worker turns to its end."""
    with serving(tmp_path, sqlite_url) as service:
        (worker,) = service.workers()
        worker.suspend()
        clients = [ask(service, "GET /version") for _ in range(50)]
        service.process.terminate()
        worker.resume()
        eventually(lambda: refuses(service))
        for client in clients:
            with client:
                assert rest(client).startswith(b"HTTP/1.1 200 ")
        assert ends_soon(service)


def test_idle_connections_hold_up_no_stop(tmp_path: Path, sqlite_url: str) -> None:
    with (
        serving(tmp_path, sqlite_url) as service,
        socket.create_connection(("127.0.0.1", service.port), timeout=30) as idle,
    ):
        get(idle, "/version")
        service.process.terminate()
        assert idle.recv(1) == b""
        assert ends_soon(service)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_hurries(tmp_path: Path, sqlite_url: str, second: signal.Signals) -> None:
    with serving(tmp_path, sqlite_url, DRAIN_SECONDS=60) as service, begin_create(service):
        service.process.terminate()
        eventually(lambda: status(service, "/readyz") == 503)
        service.process.send_signal(second)
        assert ends_soon(service)
        assert "Perhaps out of memory" not in service.text(), "nobody was killed"


def test_request_that_does_not_end_is_broken_off(tmp_path: Path, sqlite_url: str) -> None:
    with serving(tmp_path, sqlite_url, GRACEFUL_TIMEOUT=1) as service:
        with begin_create(service) as client:
            service.process.terminate()
            assert until_end(client) == b""
        assert ends_soon(service)
        (event,) = (e for e in service.events() if e["message"] == "connections are broken off")
        assert event["connections"] == 1


def test_stream_that_does_not_end_is_broken_off(tmp_path: Path, catalog_url: str) -> None:
    fill(catalog_url, PRODUCTS + 1, 9000, 2000)
    with serving(tmp_path, catalog_url, GRACEFUL_TIMEOUT=1, STREAM_STALL=60) as service:
        with ask(service, "GET /products/export", receive_buffer=8192) as reader:
            body = reader.recv(16)
            assert body.startswith(b"HTTP/1.1 200 ")
            service.process.terminate()
            assert ends_soon(service)
            body += until_end(reader)
        assert not body.endswith(END)
        assert body.count(b"\n") < 9000
        assert "Traceback" not in service.text()


def test_reader_that_was_cut_off_holds_up_no_stop(tmp_path: Path, catalog_url: str) -> None:
    """What it was sent and never took waits in the transport, which would wait forever."""
    fill(catalog_url, PRODUCTS + 1, 9000, 2000)
    with (
        serving(tmp_path, catalog_url, STREAM_STALL=0.3) as service,
        ask(service, "GET /products/export", receive_buffer=8192) as reader,
    ):
        eventually(lambda: scraped(service, "service_streams_stalled_total") == 1)
        service.process.terminate()
        assert ends_soon(service)
        assert "broken off" not in service.text()
        assert reader.fileno() >= 0, "it is there all the time"


def test_blocked_loop_is_replaced_and_its_stack_logged(tmp_path: Path, sqlite_url: str) -> None:
    timeout = 2

    def command(_port: int) -> list[str]:
        config = str(ROOT / "deploy" / "gunicorn.conf.py")
        return [PYTHON, "-m", "gunicorn", "--config", config, "--timeout", str(timeout),
                "tests.support.blocking:create_app()"]  # fmt: skip

    variables = {"DATABASE_URL": sqlite_url, "ENVIRONMENT": "test", "LOG_FORMAT": "json",
                 "PYTHONPATH": str(ROOT)}  # fmt: skip
    with running_service(tmp_path, variables, command=command) as service:
        keeps_time(partial(block_and_replace, service), timeout + 1)
        series = scrape(service)
        replaced = total(series, "service_worker_starts_total", reason="blocked")
        assert replaced >= 1
        assert total(series, "service_worker_starts_total") == replaced + 1
        assert service.text().count("event loop blocked") == replaced


def block_and_replace(service: Service) -> float:
    """Block the only worker; returns the seconds from its last heartbeat to its successor."""
    (blocked,) = service.workers()
    seen = len(service.events())
    with ask(service, "GET /block"):
        eventually(lambda: blocked not in service.workers() and service.workers(), within=30)
    service.wait_until_ready()
    events = service.events()[seen:]
    told_of = [e for e in events if e["message"] == "event loop blocked"]
    boots = [e for e in events if e["message"].startswith("Booting worker")]
    event, boot = told_of[0], boots[0]
    assert event["level"] == "critical"
    assert event["worker"] == blocked.pid
    assert [line for line in event["stack"] if line.endswith(" in block")]
    told, booted = (datetime.fromisoformat(one["timestamp"]) for one in (event, boot))
    assert told <= booted
    if len(boots) > 1:
        # The machine stalled so long that a successor was replaced as well.
        return math.inf
    return (booted - told).total_seconds() + float(event["silent_s"])


def test_worker_that_dies_is_counted(tmp_path: Path, sqlite_url: str) -> None:
    with serving(tmp_path, sqlite_url) as service:
        service.workers()[0].kill()
        eventually(lambda: "Perhaps out of memory" in service.text())
        service.wait_until_ready()
        assert scraped(service, "service_worker_starts_total", reason="died") == 1


def test_reload_with_a_wrong_setting_leaves_the_server_as_it_is(
    tmp_path: Path, sqlite_url: str
) -> None:
    with serving(tmp_path, sqlite_url) as service:
        workers = service.workers()
        (tmp_path / ".env").write_text("GRACEFUL_TIMEOUT=soon\n")
        service.process.send_signal(signal.SIGHUP)
        eventually(lambda: "not reloaded" in service.text())
        (event,) = (e for e in service.events() if e["message"].startswith("not reloaded"))
        assert "GRACEFUL_TIMEOUT" in event["reason"]
        assert service.workers() == workers
        (tmp_path / ".env").write_text("GRACEFUL_TIMEOUT=3\n")
        service.process.send_signal(signal.SIGHUP)
        eventually(lambda: set(service.workers()).isdisjoint(workers), within=30)
        assert status(service, "/readyz") == 200


def test_worker_that_is_told_to_end_is_replaced_first(tmp_path: Path, sqlite_url: str) -> None:
    with serving(tmp_path, sqlite_url) as service:
        (worker,) = service.workers()
        worker.terminate()
        most = 0

        def is_replaced() -> bool:
            nonlocal most
            workers = service.workers()
            most = max(most, len(workers))
            assert status(service, "/readyz") == 200
            return worker not in workers

        eventually(is_replaced, within=30)
        assert most == 2
        service.process.send_signal(signal.SIGTTIN)
        eventually(lambda: len(service.workers()) == 2)
        service.process.send_signal(signal.SIGTTOU)
        eventually(lambda: len(service.workers()) == 1, within=30)
        starts = scrape(service)
        for reason, number in {"start": 2, "recycled": 1}.items():
            assert total(starts, "service_worker_starts_total", reason=reason) == number


def test_drain_is_off_where_nobody_balances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://db/tidegate")
    found = {}
    for environment in ("development", "test", "staging", "production"):
        monkeypatch.setenv("ENVIRONMENT", environment)
        found[environment] = load_settings().drain_seconds
    assert found == {"development": 0, "test": 0, "staging": 5, "production": 5}


def test_stop_that_would_be_cut_short_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"DATABASE_URL": "postgresql://db/tidegate", "DRAIN_SECONDS": "5",
                        "GRACEFUL_TIMEOUT": "20"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TERMINATION_GRACE_SECONDS", "31")
    assert load_settings().shutdown_seconds == 30
    monkeypatch.setenv("TERMINATION_GRACE_SECONDS", "30")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert len(str(refused.value).splitlines()) == 1
    for part in ("TERMINATION_GRACE_SECONDS", "DRAIN_SECONDS", "GRACEFUL_TIMEOUT", "30 s"):
        assert part in str(refused.value)


def test_recycling_counts_the_successor_s_connections() -> None:
    database = DatabaseSettings(url="postgresql://db/tidegate")
    demand = [
        Settings(database=database, web_concurrency=2, worker_max_requests=most).connection_demand
        for most in (0, 1000)
    ]
    assert [each.workers for each in demand] == [2, 3]

"""What happens around every request: its id, its log line, its metrics."""

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from fastapi import FastAPI
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from starlette.testclient import TestClient
from starlette.types import Message
from structlog.testing import CapturingLogger

from service.database import DatabaseSettings
from service.settings import Settings
from service.web import metrics
from service.web.client_watch import nobody
from service.web.logging import configure_logging
from service.web.middleware import CLIENT_CLOSED_REQUEST, RequestMiddleware
from tests.support.application import application
from tests.support.polling import eventually

PASSWORD = "hunter2-the-password"
# A request that an ASGI server would hand over.
SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/products",
    "raw_path": b"/products",
    "query_string": b"",
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"50")],
}


@contextmanager
def json_client(sqlite_url: str) -> Iterator[TestClient]:
    """The application, writing JSON to standard output as it is now (so no fixture)."""
    database = DatabaseSettings(
        url=sqlite_url, migrate_url=f"postgresql://someone:{PASSWORD}@127.0.0.1/x"
    )
    with application(database, prepare=add_boom, log_format="json") as client:
        yield client


def add_boom(app: FastAPI) -> None:
    @app.get("/boom")
    def boom() -> None:
        local = "a-local-variable"
        raise RuntimeError(len(local))


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_request_id_is_taken_from_the_caller(client: TestClient) -> None:
    response = client.get("/version", headers={"X-Request-ID": "abc-123"})
    assert response.headers["x-request-id"] == "abc-123"


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, 'quote"', "line%0Abreak\u00e9"])
def test_unfit_request_id_is_replaced(client: TestClient, given: str) -> None:
    response = client.get("/version", headers={b"X-Request-ID": given.encode("latin-1")})
    assert response.headers["x-request-id"] not in ("", given)


def test_each_request_is_one_line_with_its_id(
    sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with json_client(sqlite_url) as client:
        client.get("/products/7", headers={"X-Request-ID": "abc-123"})
    found = [line for line in lines(capsys) if line["message"] == "request"]
    assert len(found) == 1
    assert found[0]["request_id"] == "abc-123"
    assert found[0]["status"] == 404
    assert found[0]["route"] == "/products/{product_id}"
    assert found[0]["path"] == "/products/7"
    assert found[0]["timestamp"]


def test_probes_and_scrapes_write_no_line(
    sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with json_client(sqlite_url) as client:
        for path in ("/livez", "/readyz", "/readyz/database", "/metrics", "/metricsXYZ"):
            client.get(path)
    told = [line["path"] for line in lines(capsys) if line["message"] == "request"]
    assert told == ["/metricsXYZ"]


def test_path_cannot_forge_a_line(sqlite_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with json_client(sqlite_url) as client:
        client.get('/x%0A{"message":"forged"}')
    assert [line["path"] for line in lines(capsys) if line["message"] == "request"] == [
        "/x%0A%7B%22message%22:%22forged%22%7D"
    ]


def test_passwords_never_reach_the_log(sqlite_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with json_client(sqlite_url):
        logger = logging.getLogger("driver")
        logger.warning("failed for %s with %s", "postgresql://u:p4ss@host/db", PASSWORD)
        try:
            raise ConnectionError(f"password={PASSWORD}")
        except ConnectionError:
            logger.exception("lost", extra={"url": f"mysql://u:{PASSWORD}@h/d"})
    written = capsys.readouterr().out
    assert written.count("***") >= 3
    assert PASSWORD not in written
    assert "p4ss" not in written


def test_no_secret_of_the_settings_reaches_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    secrets = [f"{name}-is-a-secret-of-32-characters" for name in ("u", "m", "r", "c", "o")]
    of_url, of_migrations, of_replica, cursor_key, ops_token = secrets
    database = DatabaseSettings(
        url=f"postgresql://one:{of_url}@h/x",
        migrate_url=f"postgresql://one:{of_migrations}@h/x",
        replica_url=f"postgresql://one:{of_replica}@h/x",
        cursor_key=SecretStr(cursor_key),
    )
    configure_logging(
        Settings(
            environment="test", log_format="json", ops_token=SecretStr(ops_token), database=database
        )
    )
    logging.getLogger("driver").warning(" ".join(secrets))
    (line,) = lines(capsys)
    assert line["message"] == "*** *** *** *** ***"


def test_client_that_leaves_before_its_body_is_whole_is_a_499(
    sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    messages: Iterator[Message] = iter(
        [
            {"type": "http.request", "body": b"{", "more_body": True},
            {"type": "http.disconnect"},
        ]
    )

    async def receive() -> Message:
        return next(messages)

    async def send(message: Message) -> None:
        raise AssertionError(message)

    with json_client(sqlite_url) as client:
        assert client.portal is not None
        client.portal.call(client.app, {**SCOPE}, receive, send)
    (line,) = [line for line in lines(capsys) if line["message"] == "request"]
    assert line["status"] == CLIENT_CLOSED_REQUEST


def test_request_that_is_broken_off_is_a_499() -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        middleware = RequestMiddleware(never, max_body_bytes=1, access_log=access_log)
        task = asyncio.create_task(middleware({**SCOPE}, nobody, never))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    access_log = CapturingLogger()
    asyncio.run(scenario())
    (line,) = access_log.calls
    assert line.kwargs["status"] == CLIENT_CLOSED_REQUEST


def test_scrapes_keep_nobody_from_the_threads_of_the_loop(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, let_go = threading.Event(), threading.Event()

    def write(*_: object) -> bytes:
        begun.set()
        let_go.wait(60)
        return b""

    monkeypatch.setattr(metrics._exposition, "write", write)  # noqa: SLF001 - what takes its time
    assert client.portal is not None
    with ThreadPoolExecutor(40) as scrapers:
        scrapes = [scrapers.submit(client.get, "/metrics") for _ in range(40)]
        try:
            assert begun.wait(30)
            eventually(lambda: REGISTRY.get_sample_value("http_server_active_requests") == 40)
            look = client.portal.start_task_soon(asyncio.to_thread, lambda: "looked")
            assert look.result(30) == "looked"
        finally:
            let_go.set()
    assert {scrape.result().status_code for scrape in scrapes} == {200}


def test_unexpected_error_is_logged_once_with_its_trace(
    sqlite_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with json_client(sqlite_url) as client:
        client.get("/boom")
    written = capsys.readouterr().out
    assert written.count("RuntimeError") == 1
    assert "a-local-variable" not in written


def test_routes_are_templates_in_metrics(client: TestClient) -> None:
    for number in range(5):
        client.get(f"/products/{number + 1}")
        client.get(f"/nothing/{number}")
    client.request("BREW", "/products")
    families = {
        family.name: family
        for family in text_string_to_metric_families(client.get("/metrics").text)
    }
    samples = families["http_server_request_duration_seconds"].samples
    routes = {sample.labels["http_route"] for sample in samples}
    assert "/products/{product_id}" in routes
    assert not [route for route in routes if "1" in route or "nothing" in route]
    assert {s.labels["http_request_method"] for s in samples} >= {"GET", "_OTHER"}


def test_metrics_show_the_pool_and_the_build(client: TestClient) -> None:
    client.get("/products")
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    for series in (
        'db_client_connection_count{pool_name="primary",state="idle"} 1.0',
        'db_client_connection_max{pool_name="primary"} 10.0',
        "service_build_info{",
        "http_server_active_requests 1.0",
    ):
        assert series in response.text
    assert "_created" not in response.text


def test_metrics_in_openmetrics_where_asked(client: TestClient) -> None:
    response = client.get("/metrics", headers={"accept": "application/openmetrics-text"})
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert response.text.endswith("# EOF\n")

"""GET /products/export: whole or visibly broken off, in constant memory, and in nobody's way."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path

import psutil
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.testclient import TestClient
from starlette.types import Message
from typer.testing import CliRunner

from service.cli.catalog import app as catalog
from service.database import DatabaseSettings, write_session
from service.product_catalog.repository import ProductRepository
from service.web.client_watch import nobody
from service.web.streaming import BrokenOffError, StreamResponse, StreamSessions
from tests.product_catalog.support import renamed_table
from tests.support.database_server import running
from tests.support.databases import TEMPLATE, PostgresDatabases, fill, migrate, worker_name
from tests.support.polling import eventually
from tests.support.postgres import PostgresServer
from tests.support.raw_http import END, ask, rest, until_end
from tests.support.scraping import scraped
from tests.support.server import Service
from tests.web.servers import both_servers, serving

EXPORT = "/products/export"
# Many times what the kernel's buffers hold, so that a client that does not read is noticed.
PRODUCTS = 30_000
# The least that the kernel lets a client have.
SMALL_BUFFER = 4096
MEBIBYTE = 1024 * 1024


@pytest.fixture(scope="module")
def catalog_url(postgres: PostgresDatabases) -> Iterator[str]:
    """A database with some 18 MiB of products."""
    name = f"tidegate_streams_{worker_name()}"
    url = postgres.create(name, template=TEMPLATE)
    fill(url, 1, PRODUCTS, 500)
    yield url
    postgres.drop(name)


def ask_for_export(service: Service) -> socket.socket:
    """Ask for the products, and read no more than that they come."""
    client = ask(service, f"GET {EXPORT}", receive_buffer=SMALL_BUFFER)
    assert client.recv(16).startswith(b"HTTP/1.1 200 ")
    return client


def used(service: Service) -> float:
    labels = {"pool_name": "streams", "state": "used"}
    return scraped(service, "db_client_connection_count", **labels)


def admitted(service: Service) -> float:
    return scraped(service, "service_admission_requests", gate="streams", state="admitted")


def stalled(service: Service) -> float:
    return scraped(service, "service_streams_stalled_total")


def is_free(service: Service) -> bool:
    return (admitted(service), used(service)) == (0, 0)


def errors(service: Service) -> list[object]:
    return [event for event in service.events() if event["level"] in ("error", "critical")]


def test_export_equals_that_of_the_command_line_for_line(
    client: TestClient, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    awkward = ["café", 'a "quoted" one', "\u2028", "\\n", "ünïcödé 🪢", "one\ntwo"]
    with write_session() as session:
        ProductRepository(session).load(
            {
                "code": f"P{number:05}",
                "name": awkward[number % 5],
                "description": None if number % 7 else awkward[number % 6],
                "price": Decimal(number) / 100,
            }
            for number in range(2500)
        )
    answer = client.get(EXPORT)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/x-ndjson"
    monkeypatch.setenv("DATABASE_URL", database_url)
    command = CliRunner().invoke(catalog, ["export", "--format", "ndjson"])
    assert answer.content.split(b"\n") == command.stdout_bytes.split(b"\n")
    assert len(answer.content.splitlines()) == 2500


def test_empty_catalog_is_an_empty_body(client: TestClient) -> None:
    answer = client.get(EXPORT)
    assert (answer.status_code, answer.content) == (200, b"")


def test_missing_table_is_a_503_and_no_broken_200(client: TestClient) -> None:
    with renamed_table():
        answer = client.get(EXPORT)
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) > 0
    assert client.get(EXPORT).status_code == 200


def test_memory_does_not_grow_with_the_number_of_products(
    postgres_url: str, tmp_path: Path
) -> None:
    with serving(tmp_path, postgres_url) as service:
        [worker] = service.workers()
        before = worker.memory_info().rss
        fill(postgres_url, 1, 20_000, 20)
        of_few = export_peak(service, worker, 20_000)
        fill(postgres_url, 20_001, 200_000, 20)
        of_many = export_peak(service, worker, 200_000)
    assert of_many - before < 30 * MEBIBYTE
    assert of_many - of_few < 5 * MEBIBYTE


def export_peak(service: Service, worker: psutil.Process, products: int) -> int:
    """Export; returns the most bytes that the worker had resident meanwhile."""
    highest = lines = 0
    with service.http.stream("GET", EXPORT) as answer:
        for piece in answer.iter_bytes(1 << 18):
            lines += piece.count(b"\n")
            highest = max(highest, worker.memory_info().rss)
    assert lines == products
    return highest


@both_servers
def test_more_than_may_stream_are_refused_while_others_are_served(
    catalog_url: str, tmp_path: Path, environment: str
) -> None:
    with serving(
        tmp_path, catalog_url, environment, STREAM_LIMIT=2, STREAM_STALL=60, ADMISSION_LIMIT=1
    ) as service:
        with ask_for_export(service), ask_for_export(service):
            refused = service.http.get(EXPORT)
            assert refused.status_code == 503
            assert refused.headers["content-type"] == "application/problem+json"
            assert int(refused.headers["retry-after"]) > 0
            assert service.http.get("/products").status_code == 200
            eventually(lambda: (admitted(service), used(service)) == (2, 2))
        # Whoever goes away makes room, long before it would be taken for stalled.
        eventually(lambda: is_free(service))
        assert service.http.get(EXPORT).text.count("\n") == PRODUCTS
        assert stalled(service) == 0
        assert scraped(service, "service_unexpected_errors_total") == 0
        assert errors(service) == []


@both_servers
def test_reader_that_takes_nothing_is_cut_off(
    catalog_url: str, tmp_path: Path, environment: str
) -> None:
    with serving(tmp_path, catalog_url, environment, STREAM_LIMIT=1, STREAM_STALL=3) as service:
        with ask_for_export(service) as reader:
            eventually(lambda: stalled(service) == 1, within=30)
            eventually(lambda: is_free(service))
            assert service.http.get(EXPORT).text.count("\n") == PRODUCTS
            body = until_end(reader)
        assert not body.endswith(END)
        assert body.count(b"\n") < PRODUCTS
        assert scraped(service, "service_unexpected_errors_total") == 0
        assert "Traceback" not in service.text()


def test_reader_that_does_not_take_the_end_is_cut_off(database_url: str) -> None:
    """Uvicorn waits before it writes: the end waits for the room that the last block took."""
    app = FastAPI()

    async def chunks(session: AsyncSession) -> AsyncIterator[bytes]:
        await session.execute(text("SELECT 1"))
        yield b"all there is"

    async def send(message: Message) -> None:
        if not message.get("more_body", True):
            await nobody()

    async def scenario() -> None:
        settings = DatabaseSettings.model_validate({"url": database_url})
        app.state.stream_sessions = StreamSessions(settings, limit=1, stall=0.05)
        scope = {"type": "http", "app": app}
        for _ in range(2):
            with pytest.raises(BrokenOffError):
                await StreamResponse(chunks, "text/plain")(scope, nobody, send)
        await app.state.stream_sessions.close()

    asyncio.run(scenario())


def test_slow_reader_that_takes_something_now_and_then_is_not_cut_off(
    postgres_url: str, tmp_path: Path
) -> None:
    # 15 MiB that the database gives at once.
    fill(postgres_url, 1, 1000, 4000, letter="🪢")
    with (
        serving(tmp_path, postgres_url, "development", STREAM_STALL=3) as service,
        ask_for_export(service) as reader,
    ):
        body = b""
        for _ in range(8):
            # A reader cannot be slow without taking its time: together, longer than it may stall.
            time.sleep(0.45)
            body += take(reader, 512 * 1024)
        assert stalled(service) == 0
        body += rest(reader)
        assert body.endswith(END)
        assert body.count(b'"code"') == 1000


def take(client: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        parts += client.recv(size - len(parts))
    return parts


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of these tests' own with the same products, which they may stop."""
    with running(PostgresServer()) as server:
        migrate(server.url())
        fill(server.url(), 1, PRODUCTS, 500)
        yield server


def test_server_that_dies_breaks_the_answer_off(server: PostgresServer, tmp_path: Path) -> None:
    with serving(tmp_path, server.url(), "development", STREAM_STALL=60) as service:
        with ask_for_export(service) as reader:
            server.kill()
            body = until_end(reader)
        server.start()
        assert not body.endswith(END)
        assert body.count(b'"code"') < PRODUCTS
        eventually(lambda: is_free(service))
        assert scraped(service, "service_unexpected_errors_total") == 0
        eventually(lambda: service.http.get("/readyz").status_code == 200)
        exported = service.http.get(EXPORT).text.splitlines()
        assert len(exported) == PRODUCTS
        assert json.loads(exported[-1])["code"] == f"P{PRODUCTS:09}"

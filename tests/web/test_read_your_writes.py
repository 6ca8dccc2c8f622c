"""The cookie that sends a client's reads to the primary after it wrote."""

import time
from collections.abc import Iterator
from http.cookies import SimpleCookie

import pytest
from prometheus_client import REGISTRY
from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient

from service.database import DatabaseSettings, process
from service.web.read_your_writes import COOKIE, MARGIN_SECONDS, has_just_written, remember_write
from tests.support.application import application
from tests.support.database_server import running
from tests.support.databases import migrate
from tests.support.polling import eventually
from tests.support.postgres import PostgresServer, ReplicaServer

MAX_LAG = 3.0


@pytest.fixture
def _replica() -> Iterator[None]:
    """Nobody answers there: the cookie depends on no server."""
    settings = DatabaseSettings(
        url="postgresql://nobody@127.0.0.1:1/none",
        replica_url="postgresql://nobody@127.0.0.1:1/none",
        replica_max_lag=MAX_LAG,
    )
    process.configure(settings)
    yield
    process.configure(None)


def request_with(cookie: str | None) -> Request:
    headers = [] if cookie is None else [(b"cookie", cookie.encode("latin-1"))]
    return Request({"type": "http", "method": "GET", "path": "/", "headers": headers})


def written(seconds_ago: float) -> Request:
    return request_with(f"{COOKIE}={round((time.time() - seconds_ago) * 1000)}")


def counted() -> float:
    labels = {"pool_name": "replica", "reason": "recent_write"}
    return REGISTRY.get_sample_value("db_client_replica_fallbacks_total", labels) or 0.0


@pytest.mark.usefixtures("_replica")
def test_response_to_a_write_makes_the_next_requests_recent() -> None:
    response = Response()
    remember_write(response)
    [morsel] = SimpleCookie(response.headers["set-cookie"]).values()
    before = counted()
    assert has_just_written(request_with(f"theme=dark; {morsel.key}={morsel.value}; a=b"))
    assert counted() == before + 1
    attributes = {name: value for name, value in morsel.items() if value}
    assert attributes == {"max-age": "5", "path": "/", "httponly": True, "samesite": "lax"}


@pytest.mark.usefixtures("_replica")
def test_write_is_recent_for_as_long_as_the_replica_may_lag_and_clocks_may_differ() -> None:
    window = MAX_LAG + MARGIN_SECONDS
    before = counted()
    assert has_just_written(written(seconds_ago=0))
    assert has_just_written(written(seconds_ago=window - 1))
    assert not has_just_written(written(seconds_ago=window + 0.1))
    assert counted() == before + 2


@pytest.mark.usefixtures("_replica")
def test_client_without_the_cookie_has_not_just_written() -> None:
    assert not has_just_written(request_with(None))
    assert not has_just_written(request_with("theme=dark"))


@pytest.mark.parametrize("value", ["", "yesterday", "-1", "1e9", "0x10", "٣", "9" * 15, "9" * 5000])
@pytest.mark.usefixtures("_replica")
def test_forged_or_malformed_value_costs_a_read_of_the_primary_and_no_more(value: str) -> None:
    assert has_just_written(request_with(f"{COOKIE}={value}".encode().decode("latin-1")))


def test_without_a_replica_there_is_no_cookie_and_nothing_is_recent() -> None:
    process.configure(DatabaseSettings(url="postgresql://nobody@127.0.0.1:1/none"))
    response = Response()
    remember_write(response)
    assert "set-cookie" not in response.headers
    assert not has_just_written(written(seconds_ago=0))
    process.configure(None)


@pytest.fixture
def pair() -> Iterator[tuple[PostgresServer, ReplicaServer]]:
    """A primary that is migrated, and its replica."""
    with running(PostgresServer()) as primary:
        migrate(primary.url())
        with running(ReplicaServer(primary, wal_retrieve_retry_interval="100ms")) as replica:
            yield primary, replica


def reads_of(source: str) -> float:
    """How often a connection of a pool was taken."""
    name = "db_client_connection_wait_time_seconds_count"
    return REGISTRY.get_sample_value(name, {"pool_name": source}) or 0.0


def test_client_reads_what_it_wrote_though_the_replica_has_it_not(
    pair: tuple[PostgresServer, ReplicaServer],
) -> None:
    primary, replica = pair
    database = DatabaseSettings.model_validate(
        {"url": primary.url(), "replica_url": replica.url(), "replica_max_lag": 60}
    )
    with application(database) as client:

        def is_read_from_replica() -> bool:
            before = reads_of("replica")
            client.get("/products/1")
            return reads_of("replica") > before

        eventually(is_read_from_replica)
        replica.pause_replay()
        created = client.post("/products", json={"code": "A", "name": "Rope", "price": "1"})
        path = created.headers["location"]
        assert COOKIE in created.cookies
        mine = client.get(path)
        assert (mine.status_code, mine.json()["code"]) == (200, "A")
        assert "set-cookie" not in mine.headers
        assert COOKIE in client.patch(path, json={"price": "2"}).cookies
        assert client.get(path).json()["price"] == "2.00"
        client.cookies.clear()
        others = client.get(path)
        assert others.status_code == 404, "the replica has it not yet"
        assert "set-cookie" not in others.headers
        replica.resume_replay()
        eventually(lambda: client.get(path).status_code == 200)
        assert is_read_from_replica()
        assert COOKIE in client.delete(path).cookies


def test_without_a_replica_no_answer_sets_a_cookie(client: TestClient) -> None:
    created = client.post("/products", json={"code": "A", "name": "Rope", "price": "1"})
    assert created.status_code == 201
    for answer in (created, client.get("/products/1"), client.delete("/products/1")):
        assert "set-cookie" not in answer.headers

"""What a request does with the database: tried again, cut off, given up, and never half done."""

import asyncio
import concurrent.futures
import gc
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text
from sqlalchemy.orm import Session
from starlette.testclient import TestClient
from starlette.types import Message

from service.database import process
from service.product_catalog.models import Product
from service.web.client_watch import nobody
from service.web.endpoints import reads, writes
from tests.support.application import application
from tests.support.collector import without_collector
from tests.support.database_server import running
from tests.support.databases import migrate
from tests.support.locks import waiting_for_locks
from tests.support.polling import eventually
from tests.support.postgres import PostgresServer
from tests.support.raw_http import ask, rest
from tests.support.scraping import scraped
from tests.support.server import Service
from tests.web.servers import both_servers, serving

RETRIES = 3
# What waits for a lock does so until the test lets it go.
PATIENT = {"DATABASE_STATEMENT_TIMEOUT": 60, "DATABASE_QUERY_DEADLINE": 70}


@pytest.fixture
def app_client(postgres_url: str) -> Iterator[TestClient]:
    """The application with two products; tests add routes of their own."""
    with application(postgres_url) as client:
        client.post("/products", json={"code": "ROPE", "name": "Rope", "price": "1.00"})
        client.post("/products", json={"code": "SAIL", "name": "Sail", "price": "1.00"})
        yield client


class Route:
    """A route of a test's own, which counts how often its work is run.

    Args:
        client: Of the application that it becomes a part of.
        work: Given the session and the number of the run, from 0.
        retries: As `writes` takes them.
    """

    def __init__(
        self, client: TestClient, work: Callable[[Session, int], None], *, retries: int
    ) -> None:
        self._client = client
        self._numbers = itertools.count()
        self._path = f"/work-{id(self)}"

        def handler(session: Session) -> None:
            work(session, next(self._numbers))

        client.app.post(self._path)(writes(retries=retries)(handler))  # type: ignore[attr-defined] # FastAPI's

    def ask(self, clients: int = 1) -> list[Any]:
        """Ask by so many clients at once; returns the answers."""
        with concurrent.futures.ThreadPoolExecutor(clients) as threads:
            return [*threads.map(lambda _: self._client.post(self._path), range(clients))]

    @property
    def runs(self) -> int:
        """How often it was run."""
        return next(self._numbers)

    def retried(self, reason: str) -> float:
        """How many retries the metric has."""
        labels = {"http_route": self._path, "reason": reason}
        return REGISTRY.get_sample_value("service_transaction_retries_total", labels) or 0.0


def serializable(session: Session) -> None:
    session.connection(execution_options={"isolation_level": "SERIALIZABLE"})


def price_of(session: Session, product_id: int = 1) -> int:
    query = text("SELECT price FROM products WHERE id = :id")
    return int(session.execute(query, {"id": product_id}).scalar_one())


def raise_price(session: Session, product_id: int = 1) -> None:
    change = text("UPDATE products SET price = price + 1 WHERE id = :id")
    session.execute(change, {"id": product_id})


def rivals() -> Callable[[Session, int], None]:
    """Work of which the first two runs both read before either writes."""
    barrier = threading.Barrier(2)

    def work(session: Session, number: int) -> None:
        serializable(session)
        price = price_of(session)
        if number < barrier.parties:
            barrier.wait(timeout=10)
        change = text("UPDATE products SET price = :price WHERE id = 1")
        session.execute(change, {"price": price + 1})

    return work


def crossing() -> Callable[[Session, int], None]:
    """Work of which the first two runs lock two rows in opposite order."""
    barrier = threading.Barrier(2)

    def work(session: Session, number: int) -> None:
        first, second = (1, 2) if number % 2 else (2, 1)
        raise_price(session, first)
        if number < barrier.parties:
            barrier.wait(timeout=10)
        raise_price(session, second)

    return work


def prices(client: TestClient) -> list[str]:
    return [client.get(f"/products/{number}").json()["price"] for number in (1, 2)]


def test_without_room_a_request_is_turned_away_before_anything_of_it_is_read(
    postgres_url: str,
) -> None:
    with application(postgres_url, admission_limit=1, admission_queue=0) as client:
        is_held, let_go = threading.Event(), threading.Event()

        def work(session: Session, number: int) -> None:
            del session, number
            is_held.set()
            let_go.wait(30)

        route = Route(client, work, retries=0)
        with concurrent.futures.ThreadPoolExecutor(1) as clients:
            holder = clients.submit(route.ask)
            try:
                assert is_held.wait(10)
                shed = client.post("/products", content="{", headers={"X-Request-Id": "mine"})
                others = [client.put("/products/1"), client.get("/livez")]
            finally:
                let_go.set()
        assert [answer.status_code for answer in holder.result()] == [200]
    assert shed.status_code == 503
    assert shed.headers["content-type"] == "application/problem+json"
    assert int(shed.headers["retry-after"]) > 0
    assert shed.headers["x-request-id"] == "mine"
    assert shed.json()["instance"] == "/products"
    assert [answer.status_code for answer in others] == [405, 200], "these need no place"


def test_requests_leave_nothing_to_the_garbage_collector(app_client: TestClient) -> None:
    """Served, queued or turned away: it looks seldom (`service.web.garbage`)."""
    statuses: Counter[int] = Counter()

    async def send(message: Message) -> None:
        statuses[message.get("status", 0)] += 1

    async def request() -> None:
        messages: Iterator[Message] = iter([{"type": "http.request"}])
        scope = {"type": "http", "method": "GET", "path": "/products", "raw_path": b"/products"}
        scope |= {"query_string": b"", "headers": []}

        async def receive() -> Message:
            return next(messages, None) or await nobody()

        await app_client.app(scope, receive, send)

    async def burst() -> None:
        places = app_client.app.state.unit_of_work.admission.snapshot()  # type: ignore[attr-defined]
        await asyncio.gather(*(request() for _ in range(places.limit + places.queue + 5)))

    assert app_client.portal is not None
    app_client.portal.call(burst)
    statuses.clear()
    with without_collector():
        for _ in range(5):
            app_client.portal.call(burst)
        found = gc.collect()
    assert statuses[200] > 50
    assert statuses[503] > 20
    # The calls into the loop leave some themselves.
    assert found < statuses[200]


def test_serialization_failure_is_tried_again_and_its_effect_is_there_once(
    app_client: TestClient,
) -> None:
    route = Route(app_client, rivals(), retries=RETRIES)
    assert [answer.status_code for answer in route.ask(clients=2)] == [200, 200]
    assert prices(app_client)[0] == "3.00"
    assert route.retried("serialization_failure") == 1
    assert route.runs == 3


def test_deadlock_is_tried_again_and_its_effect_is_there_once(app_client: TestClient) -> None:
    route = Route(app_client, crossing(), retries=RETRIES)
    assert [answer.status_code for answer in route.ask(clients=2)] == [200, 200]
    assert prices(app_client) == ["3.00", "3.00"]
    assert route.retried("deadlock_detected") == 1
    assert route.runs == 3


@pytest.mark.parametrize("work", [rivals, crossing])
def test_without_retries_it_is_run_once_and_answered_with_503(
    app_client: TestClient, work: Callable[[], Callable[[Session, int], None]]
) -> None:
    route = Route(app_client, work(), retries=0)
    answers = sorted(route.ask(clients=2), key=lambda answer: answer.status_code)
    assert [answer.status_code for answer in answers] == [200, 503]
    assert int(answers[1].headers["retry-after"]) > 0
    assert prices(app_client)[0] == "2.00"
    assert route.runs == 2


def test_retries_have_a_bound(app_client: TestClient) -> None:
    def always_late(session: Session, number: int) -> None:
        del number
        serializable(session)
        price_of(session)
        with process.engine.begin() as rival:
            rival.execute(text("UPDATE products SET price = price + 1 WHERE id = 1"))
        raise_price(session)

    route = Route(app_client, always_late, retries=RETRIES)
    [answer] = route.ask()
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert route.retried("serialization_failure") == RETRIES
    assert prices(app_client)[0] == "5.00", "what the rivals did, and no more"
    assert route.runs == 1 + RETRIES


def test_commit_that_cannot_be_put_in_an_order_is_not_a_200(app_client: TestClient) -> None:
    """Each has written when either commits, so that it is a COMMIT which fails."""
    barrier = threading.Barrier(2)
    ended = itertools.count()

    def work(session: Session, number: int) -> None:
        serializable(session)
        price_of(session, 1), price_of(session, 2)
        raise_price(session, 1 + number)
        barrier.wait(timeout=10)
        next(ended)

    route = Route(app_client, work, retries=0)
    assert sorted(answer.status_code for answer in route.ask(clients=2)) == [200, 503]
    assert next(ended) == 2, "no handler failed"
    assert sorted(prices(app_client)) == ["1.00", "2.00"]


def test_commit_over_a_lost_connection_is_not_a_200(app_client: TestClient) -> None:
    def work(session: Session, number: int) -> None:
        del number
        raise_price(session)
        pid = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with process.engine.begin() as other:
            other.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})

    route = Route(app_client, work, retries=RETRIES)
    [answer] = route.ask()
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert prices(app_client)[0] == "1.00"
    assert route.runs == 1, "nobody knows whether it was committed: it is not run again"


def test_isolation_level_of_one_request_is_not_that_of_the_next(app_client: TestClient) -> None:
    levels = []

    def note(session: Session, number: int) -> None:
        if number == 0:
            serializable(session)
        levels.append(session.execute(text("SHOW transaction_isolation")).scalar_one())

    route = Route(app_client, note, retries=0)
    route.ask()
    route.ask()
    assert levels == ["serializable", "read committed"]


def test_handler_that_reads_cannot_write(app_client: TestClient) -> None:
    def write(session: Session) -> None:
        session.add(Product(code="SMUGGLED", name="Rope", price=1))
        session.flush()

    app_client.app.post("/smuggle")(reads(write))  # type: ignore[attr-defined] # FastAPI's
    assert app_client.post("/smuggle").status_code == 500
    codes = {item["code"] for item in app_client.get("/products").json()["items"]}
    assert codes == {"ROPE", "SAIL"}


async def coroutine(session: Session) -> None:
    """Would hold a session while others run."""


def generator(session: Session) -> Iterator[int]:
    """Would begin after its session is closed."""
    yield price_of(session)


def without_session(product_id: int) -> None:
    """Gets a number where the session should be."""


def without_anything() -> None:
    """Takes nothing."""


@pytest.mark.parametrize("decorator", [reads, writes()])
@pytest.mark.parametrize("handler", [coroutine, generator, without_session, without_anything])
def test_handler_that_is_no_plain_function_of_a_session_is_refused(
    decorator: Callable[[Any], Any], handler: Any
) -> None:
    with pytest.raises(TypeError, match=handler.__name__):
        decorator(handler)


@contextmanager
def locked_product(url: str) -> Iterator[None]:
    """Another session has locked the only product there is."""
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM products FOR UPDATE")
        yield
    finally:
        connection.close()


@contextmanager
def selling(directory: Path, url: str, environment: str, **settings: object) -> Iterator[Service]:
    """Run the service with one product."""
    with serving(directory, url, environment, **settings) as service:
        rope = {"code": "ROPE", "name": "Rope", "price": "1.00"}
        assert service.http.post("/products", json=rope).status_code == 201
        yield service


def gate(service: Service, state: str) -> float:
    return scraped(service, "service_admission_requests", gate="requests", state=state)


@both_servers
def test_client_that_leaves_frees_its_place_and_ends_its_query(
    postgres_url: str, tmp_path: Path, environment: str
) -> None:
    with (
        selling(
            tmp_path, postgres_url, environment, ADMISSION_LIMIT=1, ADMISSION_WAIT=60, **PATIENT
        ) as service,
        locked_product(postgres_url),
    ):
        working = ask(service, "PATCH /products/1", {"price": "2"})
        eventually(lambda: waiting_for_locks(postgres_url) == 1)
        queued = ask(service, "GET /products/1")
        eventually(lambda: gate(service, "queued") == 1)
        queued.close()
        eventually(lambda: gate(service, "queued") == 0)
        assert gate(service, "admitted") == 1
        working.close()
        left = time.monotonic()
        assert service.http.get("/products/1").json()["price"] == "1.00"
        assert time.monotonic() - left < 20, "a third of what its query might take"
        eventually(lambda: waiting_for_locks(postgres_url) == 0)
        assert scraped(service, "service_unexpected_errors_total") == 0
        assert scraped(service, "service_admission_shed_total", reason="disconnected") == 1
        logged = service.events()
    statuses = [event["status"] for event in logged if event["message"] == "request"]
    assert statuses == [201, 499, 499, 200]
    assert [event for event in logged if event["level"] in ("error", "critical")] == []


@both_servers
def test_requests_that_wait_cost_no_thread_and_keep_nobody_from_what_needs_no_database(
    postgres_url: str, tmp_path: Path, environment: str
) -> None:
    with selling(
        tmp_path,
        postgres_url,
        environment,
        ADMISSION_LIMIT=1,
        ADMISSION_QUEUE=100,
        ADMISSION_WAIT=60,
        **PATIENT,
    ) as service:
        free = ("/livez", "/readyz", "/metrics", "/version", "/docs", "/openapi.json")
        for path in free:
            service.http.get(path)
        with locked_product(postgres_url):
            working = ask(service, "PATCH /products/1", {"price": "2"})
            eventually(lambda: waiting_for_locks(postgres_url) == 1)
            before = threads_of(service)
            queued = [ask(service, "GET /products/1") for _ in range(50)]
            eventually(lambda: gate(service, "queued") == 50)
            assert threads_of(service) <= before
            for path in free:
                start = time.perf_counter()
                assert service.http.get(path).status_code == 200
                assert time.perf_counter() - start < 10, "a sixth of what one in the queue waits"
        for client in (working, *queued):
            with client:
                assert rest(client).startswith(b"HTTP/1.1 200 ")


def threads_of(service: Service) -> int:
    main = psutil.Process(service.process.pid)
    return sum(each.num_threads() for each in (main, *main.children(recursive=True)))


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of these tests' own, which they may stop."""
    with running(PostgresServer()) as server:
        migrate(server.url())
        yield server


def test_server_that_hangs_costs_each_request_no_more_than_its_deadline(
    server: PostgresServer, tmp_path: Path
) -> None:
    settings = {
        "DATABASE_POOL_SIZE": 5,
        "DATABASE_MAX_OVERFLOW": 0,
        "DATABASE_STATEMENT_TIMEOUT": 3.6,
        "DATABASE_QUERY_DEADLINE": 4,
        "ADMISSION_WAIT": 30,
    }
    with selling(tmp_path, server.url(), "test", **settings) as service:
        create = {"code": "SAIL", "name": "Sail", "price": "1"}
        requests = [("GET /products", None), ("POST /products", create)] * 10
        with server.paused():
            start = time.monotonic()
            clients = [ask(service, request, body) for request, body in requests]
            for path in ("/livez", "/readyz", "/metrics") * 3:
                asked = time.monotonic()
                assert service.http.get(path).status_code in (200, 503)
                assert time.monotonic() - asked < 2
            for client in clients:
                with client:
                    answer = rest(client)
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert b"retry-after: " in answer.lower()
            assert time.monotonic() - start <= 8
        resumed = time.monotonic()
        eventually(lambda: service.http.get("/products").status_code == 200)
        assert time.monotonic() - resumed <= 8
        eventually(lambda: gate(service, "admitted") == 0)
        used = {"pool_name": "primary", "state": "used"}
        eventually(lambda: scraped(service, "db_client_connection_count", **used) == 0)
        assert scraped(service, "service_unexpected_errors_total") == 0
        # A thread that still hung could not do its part of this.
        with locked_product(server.url()):
            working = [ask(service, "PATCH /products/1", {"price": "2"}) for _ in range(5)]
            eventually(lambda: waiting_for_locks(server.url()) == 5)
            for client in working:
                client.close()

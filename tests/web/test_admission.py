"""Admission: bounded places, a bounded queue, a bounded wait; and what that is for."""

import asyncio
import concurrent.futures
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client import REGISTRY
from starlette.types import Message

from service.errors import OverloadedError
from service.web.admission import Admission
from service.web.client_watch import ClientWatch, DisconnectedError, nobody
from tests.support.polling import until
from tests.support.server import running_service

WAITS = "service_admission_queue_time_seconds_count"


def test_places_are_bounded_and_given_back() -> None:
    async def scenario() -> int:
        admission = Admission("test", limit=3, queue=100, wait=60)
        inside = highest = 0

        async def visit() -> None:
            nonlocal inside, highest
            async with admission.place(ClientWatch(nobody)):
                inside += 1
                highest = max(highest, inside)
                await asyncio.sleep(0.001)
                inside -= 1

        await asyncio.gather(*(visit() for _ in range(30)))
        return highest

    assert asyncio.run(scenario()) == 3


def test_whoever_waits_longest_is_admitted_first() -> None:
    async def scenario() -> list[int]:
        admission = Admission("test", limit=1, queue=10, wait=60)
        order: list[int] = []

        async def visit(number: int) -> None:
            async with admission.place(ClientWatch(nobody)):
                order.append(number)
                await asyncio.sleep(0)

        await asyncio.gather(*(visit(number) for number in range(10)))
        return order

    assert asyncio.run(scenario()) == [*range(10)]


def test_full_queue_refuses_at_once() -> None:
    async def scenario() -> None:
        admission = Admission("test", limit=1, queue=1, wait=60)
        async with admission.place(ClientWatch(nobody)), _queued(admission):
            async with asyncio.timeout(20):
                with pytest.raises(OverloadedError) as refused:
                    await _visit(admission)
                refusal = admission.turn_away()
            assert refusal is not None
            assert refused.value.retry_after == refusal.retry_after == 60

    before, waited = _shed("queue_full"), _sample(WAITS)
    asyncio.run(scenario())
    assert _shed("queue_full") == before + 2
    assert _sample(WAITS) == waited + 2, "who was turned away did not wait"


def test_wait_is_bounded() -> None:
    async def scenario() -> None:
        admission = Admission("test", limit=1, queue=10, wait=0.01)
        async with admission.place(ClientWatch(nobody)), asyncio.timeout(20):
            with pytest.raises(OverloadedError):
                await _visit(admission)

    before = _shed("timeout")
    asyncio.run(scenario())
    assert _shed("timeout") == before + 1


def test_client_that_goes_away_while_it_is_queued_leaves_the_queue() -> None:
    async def scenario() -> None:
        admission = Admission("test", limit=1, queue=1, wait=60)
        gone = asyncio.Event()

        async def receive() -> Message:
            await gone.wait()
            return {"type": "http.disconnect"}

        async with admission.place(ClientWatch(nobody)):
            visit = asyncio.create_task(_visit(admission, ClientWatch(receive)))
            await until(lambda: _requests("queued") == 1)
            gone.set()
            with pytest.raises(DisconnectedError):
                await visit
            assert _requests("queued") == 0

    before = _shed("disconnected")
    asyncio.run(scenario())
    assert _shed("disconnected") == before + 1


def test_cancelled_visitor_leaves_its_place_to_the_next() -> None:
    async def scenario() -> None:
        admission = Admission("test", limit=1, queue=10, wait=60)
        async with _inside(admission):
            pass
        async with asyncio.timeout(20):
            await _visit(admission)

    asyncio.run(scenario())


def test_visitor_that_is_cancelled_as_it_is_admitted_passes_the_place_on() -> None:
    async def scenario() -> None:
        admission = Admission("test", limit=1, queue=10, wait=60)
        async with admission.place(ClientWatch(nobody)):
            first = asyncio.create_task(_visit(admission))
            second = asyncio.create_task(_visit(admission))
            await until(lambda: _requests("queued") == 2)
        # Admitted, but it has not run yet.
        first.cancel()
        async with asyncio.timeout(20):
            await second
        assert _requests("admitted") == 0

    asyncio.run(scenario())


def test_visitor_that_is_cancelled_as_its_client_leaves_gives_back_no_place() -> None:
    class Leaving(ClientWatch):
        leave: Callable[[], object]

        def expect(self, on_gone: Callable[[], object]) -> None:
            self.leave = on_gone

    async def scenario() -> None:
        admission = Admission("test", limit=1, queue=10, wait=60)
        client = Leaving(nobody)
        async with admission.place(ClientWatch(nobody)):
            visit = asyncio.create_task(_visit(admission, client))
            await until(lambda: _requests("queued") == 1)
            # Its wait has ended, but it has not run yet.
            client.leave()
            visit.cancel()
            await asyncio.wait([visit])
            assert (_requests("admitted"), _requests("queued")) == (1, 0)

    asyncio.run(scenario())


def test_metrics_tell_who_is_in_and_who_waits() -> None:
    async def scenario() -> None:
        admission = Admission("test", limit=1, queue=10, wait=60)
        async with admission.place(ClientWatch(nobody)), _queued(admission):
            assert (_requests("admitted"), _requests("queued")) == (1, 1)
        assert (_requests("admitted"), _requests("queued")) == (0, 0)
        assert _sample("service_admission_limit", state="admitted") == 1
        assert _sample("service_admission_limit", state="queued") == 10

    before = _sample(WAITS)
    asyncio.run(scenario())
    assert _sample(WAITS) == before + 2


def test_hundred_clients_on_a_pool_of_five_are_all_served(
    postgres_url: str, tmp_path: Path
) -> None:
    """What the textbook pattern deadlocks at: it serves none of these requests."""
    settings = {
        "DATABASE_URL": postgres_url,
        "ENVIRONMENT": "test",
        "DATABASE_POOL_SIZE": "5",
        "DATABASE_MAX_OVERFLOW": "0",
        "ADMISSION_QUEUE": "100",
        "ADMISSION_WAIT": "60",
    }
    with running_service(tmp_path, settings) as service:
        limits = httpx2.Limits(max_connections=100)
        url = str(service.http.base_url)
        with httpx2.Client(base_url=url, limits=limits, timeout=60) as http:

            def ask(number: int) -> int:
                body = {"code": f"C{number}", "name": "Rope", "price": "1"}
                created = http.post("/products", json=body)
                read = http.get(created.headers["location"])
                return max(created.status_code, read.status_code)

            with concurrent.futures.ThreadPoolExecutor(100) as clients:
                statuses = [*clients.map(ask, range(300))]
        assert set(statuses) == {201}
        metrics = service.http.get("/metrics").text
        assert 'db_client_connection_timeouts_total{pool_name="primary"} 0.0' in metrics


def test_overload_is_a_503_with_retry_after(postgres_url: str, tmp_path: Path) -> None:
    settings = {
        "DATABASE_URL": postgres_url,
        "ENVIRONMENT": "test",
        "ADMISSION_LIMIT": "1",
        "ADMISSION_QUEUE": "0",
    }
    with running_service(tmp_path, settings) as service:
        url = str(service.http.base_url)
        with (
            httpx2.Client(base_url=url, timeout=60) as http,
            concurrent.futures.ThreadPoolExecutor(20) as clients,
        ):
            answers = [*clients.map(lambda _: http.get("/products"), range(200))]
        shed = [answer for answer in answers if answer.status_code == 503]
        assert {answer.status_code for answer in answers} == {200, 503}
        assert all(int(answer.headers["retry-after"]) > 0 for answer in shed)
        assert json.loads(shed[0].text)["title"] == "Service Unavailable"
        assert service.http.get("/livez").status_code == 200


async def _visit(admission: Admission, client: ClientWatch | None = None) -> None:
    async with admission.place(client or ClientWatch(nobody)):
        pass


@asynccontextmanager
async def _inside(admission: Admission) -> AsyncIterator[None]:
    """Somebody has a place, and is cancelled at the end."""

    async def stay() -> None:
        async with admission.place(ClientWatch(nobody)):
            await asyncio.Event().wait()

    async with _running(stay()):
        await until(lambda: _requests("admitted") == 1)
        yield


@asynccontextmanager
async def _queued(admission: Admission) -> AsyncIterator[None]:
    """Somebody waits, and is cancelled at the end."""
    async with _running(_visit(admission)):
        await until(lambda: _requests("queued") == 1)
        yield


@asynccontextmanager
async def _running(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def _requests(state: str) -> float:
    return _sample("service_admission_requests", state=state)


def _shed(reason: str) -> float:
    return _sample("service_admission_shed_total", reason=reason)


def _sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {"gate": "test", **labels}) or 0.0

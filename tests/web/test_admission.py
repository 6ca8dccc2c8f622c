"""Admission: bounded places, a bounded queue, a bounded wait; and what that is for."""

import concurrent.futures
import json
from pathlib import Path

import anyio
import httpx2
import pytest

from service.errors import OverloadedError
from service.web.admission import Admission
from tests.support.server import running_service


def test_places_are_bounded_and_given_back() -> None:
    async def scenario() -> int:
        admission = Admission(limit=3, queue=100, wait=10)
        inside = highest = 0

        async def visit() -> None:
            nonlocal inside, highest
            async with admission.place():
                inside += 1
                highest = max(highest, inside)
                await anyio.sleep(0.001)
                inside -= 1

        async with anyio.create_task_group() as group:
            for _ in range(30):
                group.start_soon(visit)
        return highest

    assert anyio.run(scenario) == 3


def test_full_queue_refuses_at_once() -> None:
    async def scenario() -> None:
        admission = Admission(limit=1, queue=1, wait=60)
        async with admission.place(), anyio.create_task_group() as group:
            group.start_soon(_enter, admission)
            await anyio.wait_all_tasks_blocked()
            with anyio.fail_after(1), pytest.raises(OverloadedError) as refused:
                await _enter(admission)
            assert refused.value.retry_after == 60
            group.cancel_scope.cancel()

    anyio.run(scenario)


def test_wait_is_bounded() -> None:
    async def scenario() -> None:
        admission = Admission(limit=1, queue=10, wait=0.01)
        async with admission.place():
            with anyio.fail_after(5), pytest.raises(OverloadedError):
                await _enter(admission)

    anyio.run(scenario)


def test_cancelled_visitor_leaves_its_place_to_the_next() -> None:
    async def scenario() -> None:
        admission = Admission(limit=1, queue=10, wait=5)
        async with anyio.create_task_group() as group:
            group.start_soon(_stay, admission)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        with anyio.fail_after(1):
            await _enter(admission)

    anyio.run(scenario)


def test_hundred_clients_on_a_pool_of_five_are_all_served(
    postgres_url: str, tmp_path: Path
) -> None:
    """What the textbook pattern deadlocks at: it serves none of these requests."""
    settings = {
        "DATABASE_URL": postgres_url,
        "ENVIRONMENT": "test",
        "DATABASE_POOL_SIZE": "5",
        "DATABASE_MAX_OVERFLOW": "0",
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


async def _enter(admission: Admission) -> None:
    async with admission.place():
        pass


async def _stay(admission: Admission) -> None:
    async with admission.place():
        await anyio.sleep_forever()

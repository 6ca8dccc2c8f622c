"""What the ops page is told of all workers, and what that costs."""

import asyncio
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import httpx2
import pytest

from tests.support.databases import PostgresDatabases
from tests.support.locks import locked_table
from tests.support.polling import eventually, keeps_time
from tests.support.scraping import scrape, total
from tests.support.server import Service, running_service

TOKEN: Final = "a token of an operator"
BEARER: Final = {"Authorization": f"Bearer {TOKEN}"}
CAPACITY: Final = 2
WORKERS: Final = 2


@pytest.fixture(scope="module")
def catalog(postgres: PostgresDatabases) -> Iterator[str]:
    with postgres.migrated("ops_data") as url:
        yield url


@pytest.fixture(scope="module")
def two_workers(catalog: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    variables = {
        "ENVIRONMENT": "test",
        "DATABASE_URL": catalog,
        "DATABASE_POOL_SIZE": str(CAPACITY),
        "DATABASE_MAX_OVERFLOW": "0",
        # Long enough for the data not to come by whoever waits for something giving up.
        "ADMISSION_WAIT": "60",
        "DATABASE_STATEMENT_TIMEOUT": "60",
        "DATABASE_QUERY_DEADLINE": "70",
        "OPS_TOKEN": TOKEN,
        "WEB_CONCURRENCY": str(WORKERS),
    }
    with running_service(tmp_path_factory.mktemp("ops"), variables) as service:
        whole(service)
        yield service


def are_looked_at(workers: list[Any]) -> bool:
    """Whether both workers answer, and both have looked at their database."""
    return len(workers) == WORKERS and all(worker.get("schema") for worker in workers)


def data(service: Service) -> Any:
    answer = httpx2.get(
        f"http://127.0.0.1:{service.port}/ops/data", headers=BEARER, timeout=30
    ).raise_for_status()
    return answer.json()


def whole(service: Service) -> Any:
    """As `data`, once both workers have answered in time."""
    told: list[Any] = []

    def is_whole() -> bool:
        told.append(data(service))
        return are_looked_at(told[-1]["workers"])

    eventually(is_whole, within=60)
    return told[-1]


def holders(told: Any) -> list[Any]:
    return [
        holder
        for worker in told["workers"]
        for pool in worker["pools"]
        if pool["pool_name"] == "primary"
        for holder in pool["holders"]
    ]


def test_every_worker_is_told_of_whichever_answers(two_workers: Service) -> None:
    pids = {worker.pid for worker in two_workers.workers()}
    for _ in range(4):
        told = whole(two_workers)
        assert {worker["pid"] for worker in told["workers"]} == pids
        assert [worker["slot"] for worker in told["workers"]] == [0, 1]
    for worker in told["workers"]:
        pools = {pool["pool_name"]: pool for pool in worker["pools"]}
        assert pools["primary"]["max"] == CAPACITY
        assert {*pools["primary"]["history"]} == {"used", "idle", "pending"}
        assert worker["schema"]["current"] == worker["schema"]["head"]
        assert {check["check"] for check in worker["checks"]} >= {"database", "schema", "pool"}
        assert {gate["gate"] for gate in worker["admission"]} == {"requests", "streams"}


def test_a_session_of_one_worker_holds_for_all(two_workers: Service) -> None:
    base = f"http://127.0.0.1:{two_workers.port}"
    answer = httpx2.post(f"{base}/ops/login", data={"token": TOKEN})
    cookie = {"Cookie": answer.headers["set-cookie"].partition(";")[0]}
    answers = [httpx2.get(f"{base}/ops/data", headers=cookie).status_code for _ in range(12)]
    assert answers == [200] * 12


def test_the_data_cost_no_connection_and_no_place(two_workers: Service) -> None:
    def counted() -> tuple[float, float]:
        series = scrape(two_workers)
        waits = "db_client_connection_wait_time_seconds_count"
        checkouts = total(series, waits, pool_name="primary")
        return checkouts, total(series, "service_admission_queue_time_seconds_count")

    before = counted()
    for _ in range(10):
        data(two_workers)
    assert counted() == before


def test_the_data_come_while_every_connection_and_place_is_taken(
    two_workers: Service, catalog: str
) -> None:
    url = f"http://127.0.0.1:{two_workers.port}/products"
    answers: list[dict[str, Any]] = []

    def is_told() -> bool:
        answers.append(data(two_workers))
        return bool(answers[-1]["status"] != "pass" and holders(answers[-1]))

    with ThreadPoolExecutor(2 * CAPACITY * WORKERS) as clients, locked_table(catalog):
        for _ in range(2 * CAPACITY * WORKERS):
            clients.submit(httpx2.get, url, timeout=120)
        # Who gets how many is the kernel's choice, and each worker keeps its answer a while.
        eventually(is_told, within=30)
        start = time.monotonic()
        data(two_workers)
        seconds = time.monotonic() - start
    assert seconds < 10, "a sixth of what those who wait may wait"
    told = answers[-1]
    assert told["status"] in ("warn", "fail")
    for holder in holders(told):
        assert holder["route"] == "/products"
        assert any("product_catalog" in line for line in holder["stack"])


def test_a_worker_that_is_stopped_is_named_within_the_deadline(two_workers: Service) -> None:
    pids = {worker["pid"]: worker["slot"] for worker in data(two_workers)["workers"]}
    victim = two_workers.workers()[0]

    def stop_and_look() -> float:
        victim.suspend()
        try:
            start = time.monotonic()
            eventually(lambda: any(each["problem"] for each in data(two_workers)["workers"]))
            seconds = time.monotonic() - start
            told = data(two_workers)
        finally:
            victim.resume()
        silent = [worker["slot"] for worker in told["workers"] if worker["problem"]]
        assert pids[victim.pid] in silent
        assert told["status"] == "fail"
        assert "does not answer" in told["findings"][0]["what"]
        eventually(lambda: data(two_workers)["status"] == "pass", within=30)
        return seconds if len(silent) == 1 else math.inf

    # Half a second that an answer is kept for, one to wait, one of slack.
    keeps_time(stop_and_look, 2.5)


def test_many_who_look_ask_the_workers_once(two_workers: Service) -> None:
    async def look() -> list[float]:
        base = f"http://127.0.0.1:{two_workers.port}"
        async with httpx2.AsyncClient(base_url=base, headers=BEARER, timeout=30) as client:
            answers = await asyncio.gather(*(client.get("/ops/data") for _ in range(20)))
        return [answer.json()["time"] for answer in answers]

    # One look or two of each worker, unless the machine stalls meanwhile.
    keeps_time(lambda: len({*asyncio.run(look())}), 2 * WORKERS + 1)

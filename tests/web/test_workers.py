"""Several workers under a real gunicorn: one set of metrics, whatever becomes of a worker."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx2
import psutil
import pytest
from prometheus_client import REGISTRY, Gauge
from prometheus_client.multiprocess import MultiProcessCollector

from service.web import worker_slots
from tests.support.polling import eventually
from tests.support.ports import free_port
from tests.support.scraping import Series, scrape, scraped, total
from tests.support.server import PYTHON, ROOT, Service, environment, running_service

CAPACITY: Final = 5


@contextmanager
def serving(
    directory: Path, url: str, workers: int, variables: dict[str, str] | None = None
) -> Iterator[Service]:
    """Run the service with so many workers, all of them ready."""
    settings = {
        "ENVIRONMENT": "test",
        "DATABASE_URL": url,
        "DATABASE_POOL_SIZE": str(CAPACITY),
        "DATABASE_MAX_OVERFLOW": "0",
        "WEB_CONCURRENCY": str(workers),
    }
    with running_service(directory, settings | (variables or {})) as service:
        eventually(lambda: shows_workers(service, workers), within=30)
        yield service


def shows_workers(service: Service, number: int) -> bool:
    """Whether the gauges are those of so many workers, and so many run."""
    try:
        capacity = total(scrape(service), "db_client_connection_max", pool_name="primary")
    except httpx2.TransportError:
        return False
    return capacity == CAPACITY * number and len(service.workers()) == number


def ask(service: Service, number: int) -> None:
    """Ask for the products, each time over a new connection."""
    for _ in range(number):
        httpx2.get(f"http://127.0.0.1:{service.port}/products", timeout=10).raise_for_status()


def directory_of(service: Service) -> Path:
    """Where the values lie: the directory that the server holds locked."""
    links = (link.readlink() for link in Path(f"/proc/{service.process.pid}/fd").iterdir())
    return next(link for link in links if "metrics" in link.name)


def served_by(directory: Path, slot: int) -> float:
    """How many requests for products the workers of a slot have answered."""
    file = directory / f"histogram_{slot}.db"
    return sum(
        sample.value
        for metric in MultiProcessCollector.merge([str(file)])  # type: ignore[no-untyped-call] # as the library has it
        for sample in metric.samples
        if sample.name == "http_server_request_duration_seconds_count"
        and sample.labels["http_route"] == "/products"
    )


def kill(service: Service, worker: psutil.Process, workers: int) -> None:
    """Kill a worker and wait for another in its place."""
    worker.kill()
    worker.wait(timeout=10)
    eventually(lambda: shows_workers(service, workers), within=30)


def reload(service: Service, workers: int) -> None:
    """Reload the server and wait until no old worker is left."""
    old = {worker.pid for worker in service.workers()}
    service.process.send_signal(signal.SIGHUP)
    eventually(lambda: old.isdisjoint(w.pid for w in service.workers()), within=30)
    eventually(lambda: shows_workers(service, workers), within=30)


def fallen(before: Series, after: Series) -> list[str]:
    """The counters, and those of histograms, that are lower than before."""
    ends = ("_total", "_count", "_sum", "_bucket")
    return [
        name
        for (name, labels), value in before.items()
        if name.endswith(ends)
        and name != "db_client_connection_count"
        and after.get((name, labels), 0.0) < value
    ]


def test_a_scrape_adds_up_all_workers(tmp_path: Path, database_url: str) -> None:
    with serving(tmp_path, database_url, 2) as service:
        directory = directory_of(service)
        asked = 0

        def both_served() -> bool:
            nonlocal asked
            ask(service, 5)
            asked += 5
            return all(served_by(directory, slot) for slot in (0, 1))

        eventually(both_served, within=30)
        # Each worker looks at its database, and at itself, by its own clock.
        eventually(lambda: scraped(service, "service_health_check_status", check="database") == 1)
        # The scrape itself: an answer that has come is counted for a moment yet.
        eventually(lambda: scraped(service, "http_server_active_requests") == 1)
        workers = [worker.memory_info().rss for worker in service.workers()]
        memory = "process_resident_memory_bytes"
        eventually(lambda: scraped(service, memory) > 0.7 * sum(workers))
        series = scrape(service)
        name = "http_server_request_duration_seconds_count"
        assert total(series, name, http_route="/products") == asked
        assert total(series, "service_build_info") == 1
        assert total(series, "process_cpu_seconds_total") > 0
        assert not [labels for _, labels in series if "pid" in dict(labels)]
        assert "one worker only" not in service.text()


def test_a_killed_worker_leaves_no_gauge_and_takes_no_count(
    tmp_path: Path, database_url: str
) -> None:
    with serving(tmp_path, database_url, 2) as service:
        ask(service, 20)
        with socket.create_connection(("127.0.0.1", service.port)) as stalled:
            stalled.sendall(b"POST /products HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{")
            eventually(lambda: total(scrape(service), "http_server_active_requests") == 2)
            before = scrape(service)
            port = stalled.getsockname()[1]
            (victim,) = (
                worker
                for worker in service.workers()
                if (port,) in {c.raddr[1:2] for c in worker.net_connections("tcp")}
            )
            victim.kill()
            victim.wait(timeout=10)
            # Before another can take its place, its gauges are gone.
            eventually(lambda: total(scrape(service), "http_server_active_requests") == 1)
        eventually(lambda: shows_workers(service, 2), within=30)
        after = scrape(service)
        assert fallen(before, after) == []
        assert total(after, "db_client_connection_count", pool_name="primary") <= 2 * CAPACITY
        assert victim.pid not in {worker.pid for worker in service.workers()}


def test_restarts_leave_no_files(tmp_path: Path, sqlite_url: str) -> None:
    with serving(tmp_path, sqlite_url, 2) as service:
        directory = directory_of(service)
        ask(service, 10)
        files = {file.name for file in directory.iterdir()}
        before = scrape(service)
        for _ in range(3):
            for worker in service.workers():
                kill(service, worker, 2)
        after = scrape(service)
        assert {file.name for file in directory.iterdir()} == files
        assert {file.rpartition("_")[2] for file in files} == {"0.db", "1.db"}
        assert fallen(before, after) == []


def test_one_worker_goes_on_where_the_one_before_left(tmp_path: Path, sqlite_url: str) -> None:
    with serving(tmp_path, sqlite_url, 1) as service:
        ask(service, 3)
        before = scrape(service)
        kill(service, service.workers()[0], 1)
        after = scrape(service)
        name = "http_server_request_duration_seconds_count"
        assert total(after, name, http_route="/products") == 3
        assert fallen(before, after) == []


def test_reloads_reuse_the_slots(tmp_path: Path, sqlite_url: str) -> None:
    with serving(tmp_path, sqlite_url, 2) as service:
        directory = directory_of(service)
        ask(service, 10)
        before = scrape(service)
        for _ in range(3):
            reload(service, 2)
            assert directory_of(service) == directory
        assert fallen(before, scrape(service)) == []
        slots = {file.stem.rpartition("_")[2] for file in directory.iterdir()}
        assert slots <= {"0", "1", "2", "3"}, "the old and the new of one reload"
        live = {file.name for file in directory.glob("gauge_live*")}
        assert len({name.rpartition("_")[2] for name in live}) == 2


def test_the_directory_goes_with_the_server(tmp_path: Path, sqlite_url: str) -> None:
    with serving(tmp_path, sqlite_url, 1) as service:
        directory = directory_of(service)
        assert directory.is_dir()
    assert not directory.exists()


def test_what_a_killed_server_left_is_removed_by_the_next(tmp_path: Path, sqlite_url: str) -> None:
    with serving(tmp_path, sqlite_url, 1) as service:
        abandoned = directory_of(service)
        (worker,) = service.workers()
        service.process.kill()
        worker.wait(timeout=30)
    # It may be gone by now: the servers of tests beside this one clean up as well.
    with serving(tmp_path, sqlite_url, 1) as service:
        assert not abandoned.exists()
        assert directory_of(service).is_dir()


def test_a_directory_that_goes_while_it_is_looked_at_stops_no_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "tidegate-metrics-of-a-server-that-ends"
    monkeypatch.setattr(worker_slots, "memory_directory", lambda: tmp_path)
    monkeypatch.setattr(Path, "glob", lambda *_: iter([gone]))
    slots = worker_slots._temporary()  # noqa: SLF001 - the public way would move this process's own
    assert slots.directory.parent == tmp_path
    slots.remove()


def test_a_directory_of_ones_own_is_used_and_stays(tmp_path: Path, sqlite_url: str) -> None:
    own = tmp_path / "own-metrics"
    own.mkdir()
    (own / "counter_4711.db").write_bytes(b"what an earlier run left")
    (own / "notes.txt").write_text("mine")
    (own / "other.db").write_text("mine")
    with serving(tmp_path, sqlite_url, 1, {"PROMETHEUS_MULTIPROC_DIR": str(own)}) as service:
        assert directory_of(service) == own
        assert (own / "counter_0.db").exists()
        assert not (own / "counter_4711.db").exists()
        ask(service, 1)
    assert {file.name for file in own.iterdir()} == {"notes.txt", "other.db"}


def test_a_directory_in_use_is_not_shared(tmp_path: Path, sqlite_url: str) -> None:
    own = tmp_path / "own-metrics"
    own.mkdir()
    (own / "counter_0.db").write_bytes(b"of a server that runs")
    lock = os.open(own, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        with serving(tmp_path, sqlite_url, 1, {"PROMETHEUS_MULTIPROC_DIR": str(own)}) as service:
            assert directory_of(service) != own
    finally:
        os.close(lock)
    assert (own / "counter_0.db").read_bytes() == b"of a server that runs"


def test_a_directory_that_cannot_be_used_stops_the_start(tmp_path: Path, sqlite_url: str) -> None:
    file = tmp_path / "file"
    file.write_text("no directory")
    done = subprocess.run(
        [PYTHON, "-m", "gunicorn", "--config", str(ROOT / "deploy" / "gunicorn.conf.py")],
        env=environment({"DATABASE_URL": sqlite_url, "PROMETHEUS_MULTIPROC_DIR": str(file)}),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.strip().startswith("PROMETHEUS_MULTIPROC_DIR: ")
    assert len(done.stderr.strip().splitlines()) == 1


def test_development_needs_no_directory(tmp_path: Path, sqlite_url: str) -> None:
    variables = {"ENVIRONMENT": "development", "DATABASE_URL": sqlite_url}
    with running_service(tmp_path, variables) as service:
        ask(service, 2)
        series = scrape(service)
        name = "http_server_request_duration_seconds_count"
        assert total(series, name, http_route="/products") == 2
        assert total(series, "db_client_connection_max", pool_name="primary") > 0
        assert total(series, "process_resident_memory_bytes") > 0


def test_several_workers_of_uvicorn_are_warned_of(tmp_path: Path, sqlite_url: str) -> None:
    port = free_port()
    variables = {"ENVIRONMENT": "test", "DATABASE_URL": sqlite_url, "WEB_CONCURRENCY": "2"}
    log = tmp_path / "uvicorn.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "service.app:create_app", "--factory",
             "--port", str(port)],
            env=environment(variables), cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        eventually(lambda: "one worker only" in log.read_text(), within=30)
    finally:
        process.terminate()
        process.wait(timeout=30)


def test_every_gauge_says_how_workers_are_put_together() -> None:
    """Any other mode shows one series for each worker, or the values of the dead."""
    modes = {
        name: collector._multiprocess_mode  # noqa: SLF001 - nothing public tells it
        for name, collector in REGISTRY._names_to_collectors.items()  # noqa: SLF001 - as above
        if isinstance(collector, Gauge)
    }
    assert len(modes) >= 10
    assert set(modes.values()) <= {"livesum", "livemin", "livemax"}, modes

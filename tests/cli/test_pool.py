"""`tidegate pool` beside a running service with two workers."""

import json
import os
import pty
import select
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tests.cli.test_commands import tidegate as run_tidegate
from tests.support.polling import eventually
from tests.support.server import PYTHON, Service, environment
from tests.web.test_control import ask, pids, restored
from tests.web.test_workers import serving


@pytest.fixture(scope="module")
def _service(tmp_path_factory: pytest.TempPathFactory, _postgres_url: str) -> Iterator[Service]:
    """A service with two workers."""
    # So that a query is still there when the commands have been asked about it.
    patience = {"DATABASE_STATEMENT_TIMEOUT": "100", "DATABASE_QUERY_DEADLINE": "120"}
    with serving(tmp_path_factory.mktemp("pool"), _postgres_url, 2, patience) as service:
        eventually(lambda: len(pids(service)) == 2, within=30)
        yield service


@pytest.fixture
def service(_service: Service) -> Iterator[Service]:
    """The service with two workers, and its pools as they were at start."""
    yield _service
    eventually(lambda: restored(_service), within=60)


def tidegate(service: Service, command: str, *arguments: str, status: int = 0) -> str:
    """What a command printed, on whichever stream."""
    # A worker of a busy machine takes its time; a test that gives less says so itself.
    patience = () if command == "top" or "--timeout" in arguments else ("--timeout", "30")
    result = subprocess.run(
        [PYTHON, "-m", "service", "pool", command, *arguments, *patience],
        env=environment({"PORT": str(service.port)}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout + result.stderr


def workers(
    service: Service, command: str, *arguments: str, status: int = 0
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        tidegate(service, command, *arguments, "--json", status=status)
    )["workers"]
    return found


def primary(worker: dict[str, Any]) -> dict[str, Any]:
    return next(pool for pool in worker["pools"] if pool["pool_name"] == "primary")


def test_show_tells_who_has_the_connections_and_from_where(
    service: Service, postgres_url: str
) -> None:
    locker = psycopg2.connect(postgres_url)
    locker.cursor().execute("LOCK TABLE products IN ACCESS EXCLUSIVE MODE")
    blocked = threading.Thread(target=lambda: service.http.get("/products", timeout=100))
    blocked.start()

    def holds() -> bool:
        answers = [dict(one.answer) for one in ask(service, "show") if not one.problem]
        return any(primary(answer)["holders"] for answer in answers)

    try:
        eventually(holds, within=60)
        told = workers(service, "show")
        shown = tidegate(service, "show")
        with_stacks = tidegate(service, "show", "--stacks")
    finally:
        locker.close()
        blocked.join()
    (holder,) = (one for worker in told for one in primary(worker)["holders"])
    assert holder["route"] == "/products"
    assert holder["age"] > 0
    assert "service/product_catalog/repository.py:" in shown
    assert "routes.py" not in shown
    assert "service/product_catalog/routes.py:" in with_stacks
    # By what the code is called, and nothing of what it had in its hands.
    assert "postgresql://" not in with_stacks


def test_operations_reach_every_worker_and_one_where_one_is_meant(service: Service) -> None:
    resized = workers(service, "resize", "primary", "--size", "3")
    assert [primary(one)["max"] for one in resized] == [3, 3]
    suspended = workers(service, "suspend", "primary", "--worker", "1")
    assert [(one["slot"], primary(one)["is_suspended"]) for one in suspended] == [(1, True)]
    shown = tidegate(service, "show")
    assert shown.count("suspended") == 1
    assert "suspended" not in tidegate(service, "resume", "primary")
    tidegate(service, "evict", "primary")


def test_refusals_and_silent_workers_are_said_and_exit_with_1(service: Service) -> None:
    refused = tidegate(service, "suspend", "nope", status=1)
    assert "worker 0" in refused
    assert "nope: there is no such pool; take one of health, primary, streams" in refused
    stopped = service.workers()[0]
    stopped.suspend()
    try:
        told = workers(service, "show", "--timeout", "5", status=1)
    finally:
        stopped.resume()
    assert [one.get("problem", "") for one in told if one["pid"] == stopped.pid] == [
        "no answer within 5 s"
    ]
    assert len([one for one in told if "pools" in one]) == 1


def test_nobody_to_ask_is_one_line_and_exits_with_2(service: Service) -> None:
    assert tidegate(service, "show", "--port", "1", status=2).startswith(
        "tidegate: no worker of a service on port 1 runs here; set PORT"
    )
    assert "no worker 7" in tidegate(service, "show", "--worker", "7", status=2)
    assert "--size" in tidegate(service, "resize", "primary", status=2)


def test_top_without_a_terminal_prints_as_often_as_it_is_told(service: Service) -> None:
    printed = tidegate(service, "top", "--count", "2", "--interval", "0.1", "--sort", "route")
    assert printed.count("tidegate pool top") == 2
    assert printed.count("holders by route") == 2
    assert "take one of age, route" in tidegate(service, "top", "--sort", "size", status=2)


@pytest.mark.parametrize("key", [b"q", b"\x03"])
def test_top_on_a_terminal_shows_itself_sorts_and_ends(service: Service, key: bytes) -> None:
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        [PYTHON, "-m", "service", "pool", "top", "--interval", "0.2"],
        env=environment({"PORT": str(service.port), "TERM": "xterm", "COLUMNS": "160"}),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        # The terminal has to be its own, for Ctrl-C to reach it.
        preexec_fn=lambda: os.login_tty(terminal),  # noqa: PLW1509 - the child does nothing else
    )
    os.close(terminal)
    try:
        read_until(controller, "holders by age")
        # An arrow is no Escape, and keys that come at once all count.
        os.write(controller, b"\x1b[Bss")
        read_until(controller, "holders by pool")
        os.write(controller, key)
        read_until(controller, "")
        assert process.wait(30) == (0 if key == b"q" else 130)
    finally:
        process.kill()
        process.wait()
        os.close(controller)


def read_until(descriptor: int, text: str, within: float = 60.0) -> None:
    """Read what a terminal shows until something stands there; an empty text is its end."""
    shown = b""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if text and text.encode() in shown:
            return
        if not select.select([descriptor], [], [], 0.1)[0]:
            continue
        try:
            shown += os.read(descriptor, 65_536)
        except OSError:
            # Nobody has the other end any more.
            assert not text, shown
            return
    raise AssertionError(f"no {text!r} within {within} s: {shown!r}")


def test_workers_are_found_without_the_settings(service: Service, tmp_path: Path) -> None:
    # A setting that is wrong must not keep an operator out.
    result = subprocess.run(
        [PYTHON, "-m", "service", "pool", "show", "--timeout", "30", "--json"],
        cwd=tmp_path,
        env=environment({"PORT": str(service.port), "DATABASE_URL": "nonsense"}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)["workers"]) == 2


def test_doctor_tells_how_the_workers_are(service: Service, postgres_url: str) -> None:
    variables = {"PORT": str(service.port), "DATABASE_URL": postgres_url, "WEB_CONCURRENCY": "2"}

    def findings() -> dict[str, str]:
        result = run_tidegate("doctor", "--json", **variables)
        told = json.loads(result.stdout)["findings"]
        return {one["told"]: one["verdict"] for one in told if one["group"] == "workers"}

    well = {"2 of 2 run": "pass", "answers, and all of its checks pass": "pass"}
    eventually(lambda: findings() == well, within=60)
    tidegate(service, "suspend", "primary", "--worker", "0")
    eventually(lambda: findings().get("pool primary is suspended") == "warn", within=60)
    tidegate(service, "resume", "primary")
    stopped = service.workers()[0]
    stopped.suspend()
    try:
        assert findings()["no answer within 5 s"] == "fail"
    finally:
        stopped.resume()

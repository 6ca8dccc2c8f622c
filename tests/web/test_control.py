"""The control channel under a real gunicorn: every worker is asked, whatever state it is in."""

import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from service.database import DatabaseSettings, process
from service.web import control_directory
from service.web.control import control_channel
from service.web.control_client import WorkerReply, ask_workers
from service.web.control_directory import ControlError, known_addresses, own_address
from service.web.memory_directory import memory_directory
from tests.support.application import application
from tests.support.polling import eventually, keeps_time
from tests.support.ports import free_port
from tests.support.scraping import scrape, total
from tests.support.server import PYTHON, ROOT, Service
from tests.web.test_workers import CAPACITY, serving

SHOW: Final = {"command": "show", "stacks": True}
# For an answer that takes milliseconds on a machine that has nothing else to do.
PATIENCE: Final = 20.0


@pytest.fixture(scope="module")
def _service(tmp_path_factory: pytest.TempPathFactory, _postgres_url: str) -> Iterator[Service]:
    variables = {
        "DATABASE_CONNECTION_BUDGET": "40",
        "DATABASE_POOL_TIMEOUT": "10",
        "OPS_TOKEN": "a token for the tests",
    }
    with serving(tmp_path_factory.mktemp("control"), _postgres_url, 2, variables) as service:
        eventually(lambda: len(pids(service)) == 2, within=30)
        yield service


@pytest.fixture
def service(_service: Service) -> Iterator[Service]:
    """The service with two workers, and its pools as they were at start."""
    yield _service
    eventually(lambda: restored(_service), within=60)


def restored(service: Service) -> bool:
    """Put the pools back; tells whether every worker said that it has."""
    replies = [*ask(service, "resume"), *ask(service, "resize", size=CAPACITY, max_overflow=0)]
    return not any(reply.problem for reply in replies)


def ask(service: Service, command: str, pool: str = "primary", **more: int) -> list[WorkerReply]:
    request = {"command": command, "pool": pool, **more}
    return ask_workers(request, port=service.port, timeout=PATIENCE)


def show(port: int, slot: int | None = None) -> list[WorkerReply]:
    return ask_workers(SHOW, port=port, slot=slot, timeout=PATIENCE)


def pids(service: Service) -> set[int]:
    """The workers that answer, and whose checks all pass."""
    with suppress(ControlError):
        replies = show(service.port)
        return {one.pid for one in replies if {*statuses(one)} == {"pass"}}
    return set()


def statuses(reply: WorkerReply) -> list[str]:
    return [check["status"] for check in reply.answer.get("checks", ())]


def pools(replies: list[WorkerReply], name: str = "primary") -> list[dict[str, Any]]:
    return [pool for one in replies for pool in one.answer["pools"] if pool["pool_name"] == name]


def loop_delays(replies: list[WorkerReply]) -> list[float | None]:
    return [one.answer["loop_delay"] for one in replies]


def gates(replies: list[WorkerReply]) -> list[tuple[int, int]]:
    """The limit and the queue of each worker's requests."""
    found = (one.answer["admission"][0] for one in replies)
    return [(gate["limit"], gate["queue"]) for gate in found]


def test_every_worker_reports(service: Service) -> None:
    replies: list[WorkerReply] = []

    def is_nobody_blocked() -> bool:
        replies[:] = show(service.port)
        return None not in loop_delays(replies)

    # A loop that has much to do counts as blocked for a while.
    eventually(is_nobody_blocked)
    assert [(reply.slot, reply.problem) for reply in replies] == [(0, ""), (1, "")]
    assert {reply.pid for reply in replies} == {worker.pid for worker in service.workers()}
    for report in (reply.answer for reply in replies):
        assert {pool["pool_name"] for pool in report["pools"]} == {"health", "primary", "streams"}
        checks = {check["check"]: check["status"] for check in report["checks"]}
        assert checks == dict.fromkeys(("database", "schema", "pool", "startup", "drain"), "pass")
        assert report["schema"]["current"] == report["schema"]["head"]
        assert 0 <= report["loop_delay"] < 0.25
        assert report["started_at"].endswith("+00:00")
    (one,) = show(service.port, slot=1)
    assert one.slot == 1


def test_resize_changes_admission_and_the_metrics_with_the_pool(service: Service) -> None:
    replies = ask(service, "resize", size=2, max_overflow=1)
    assert [(pool["max"], pool["idle_max"]) for pool in pools(replies)] == [(3, 2), (3, 2)]
    assert gates(replies) == [(3, 3), (3, 3)]
    series = scrape(service)
    assert total(series, "db_client_connection_max", pool_name="primary") == 6
    assert total(series, "service_admission_limit", gate="requests", state="admitted") == 6
    # A number that is left out stays.
    replies = ask(service, "resize", size=8)
    assert [(pool["max"], pool["idle_max"]) for pool in pools(replies)] == [(9, 8), (9, 8)]
    assert gates(replies) == [(9, 9), (9, 9)]


def test_resize_above_the_connection_budget_is_refused(service: Service) -> None:
    for reply in ask(service, "resize", size=17):
        assert reply.problem.startswith("not resized: DATABASE_CONNECTION_BUDGET: 40 are too few")
        assert "2 workers x (17 of the pool" in reply.problem
    assert [pool["max"] for pool in pools(show(service.port))] == [5, 5]
    # 2 x (16 + 1 + 2) + 2 = 40 is as much as there is; and the streams' pool counts, too.
    assert gates(ask(service, "resize", size=16)) == [(16, 16), (16, 16)]
    assert "too few" in ask(service, "resize", "streams", size=3)[0].problem


def test_requests_wait_for_a_suspended_pool_and_are_served_when_it_is_resumed(
    service: Service,
) -> None:
    ask(service, "suspend")
    codes: list[int] = []

    def get() -> None:
        codes.append(service.http.get("/products").status_code)

    threads = [threading.Thread(target=get) for _ in range(3)]
    for thread in threads:
        thread.start()

    def waiters() -> list[dict[str, Any]]:
        found = pools(show(service.port))
        return [waiter for pool in found for waiter in pool["waiters"]]

    eventually(lambda: len(waiters()) == 3)
    assert {waiter["route"] for waiter in waiters()} == {"/products"}
    assert total(scrape(service), "db_client_connection_suspended", pool_name="primary") == 2
    assert all(pool["is_suspended"] for pool in pools(show(service.port)))
    ask(service, "resume")
    for thread in threads:
        thread.join()
    assert codes == [200, 200, 200]
    assert total(scrape(service), "db_client_connection_suspended", pool_name="primary") == 0


def test_suspended_pool_refuses_after_its_timeout(service: Service) -> None:
    ask(service, "suspend")
    response = service.http.get("/products")
    assert (response.status_code, response.headers["retry-after"] != "") == (503, True)
    # The health checks have a pool of their own.
    assert service.http.get("/readyz").status_code == 200


def test_evict_replaces_idle_connections(service: Service) -> None:
    for _ in range(10):
        service.http.get("/products")
    closed = "db_client_connection_closed_total"
    before = total(scrape(service), closed, pool_name="primary", reason="evicted")
    idle = sum(pool["idle"] for pool in pools(show(service.port)))
    assert idle > 0
    ask(service, "evict")

    def evicted() -> float:
        return total(scrape(service), closed, pool_name="primary", reason="evicted") - before

    eventually(lambda: evicted() == idle)


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        ({"command": "suspend", "pool": "health"}, "by this pool the worker asks whether"),
        ({"command": "resize", "pool": "health", "size": 2}, "by this pool the worker asks"),
        ({"command": "suspend", "pool": "nope"}, "one of health, primary, streams"),
        ({"command": "suspend"}, "give the name of one"),
        ({"command": "resize", "pool": "primary", "size": 0}, "size is from 1 to 1000"),
        ({"command": "resize", "pool": "primary", "size": "9"}, "give a whole number"),
        ({"command": "resize", "pool": "primary", "max_overflow": -1}, "overflow from 0 to 1000"),
        ({"command": "drop"}, "there is no such command"),
    ],
)
def test_what_cannot_be_done_is_said(
    service: Service, request_: dict[str, Any], problem: str
) -> None:
    for reply in ask_workers(request_, port=service.port, timeout=PATIENCE):
        assert problem in reply.problem
        assert reply.answer == {}


@pytest.mark.parametrize("line", [b"show\n", b"[1]\n", b'{"command":\n', b"x" * 100_000])
def test_malformed_request_harms_nobody(service: Service, line: bytes) -> None:
    address = next(one for one in known_addresses() if one.port == service.port)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(address.path))
        answer = b""
        # The worker hangs up on a line that is too long before all of it is sent.
        with suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(line)
            answer = client.makefile("rb").readline()
    assert not answer or "error" in json.loads(answer)
    assert all(not reply.problem for reply in show(service.port))


def test_client_that_says_nothing_keeps_others_waiting_for_a_second(service: Service) -> None:
    address = next(one for one in known_addresses() if one.port == service.port)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(address.path))
        replies = show(service.port)
    assert [reply.problem for reply in replies] == ["", ""]


def test_worker_that_does_not_answer_holds_up_nobody(service: Service) -> None:
    stopped, _ = service.workers()
    stopped.suspend()

    def other_answers() -> bool:
        replies = ask_workers(SHOW, port=service.port, timeout=0.5)
        problems = {reply.pid: reply.problem for reply in replies}
        assert problems.pop(stopped.pid) == "no answer within 0.5 s"
        return [*problems.values()] == [""]

    try:
        eventually(other_answers)
    finally:
        stopped.resume()


def test_killed_worker_is_not_asked_and_its_socket_is_removed(
    tmp_path: Path, postgres_url: str
) -> None:
    with serving(tmp_path, postgres_url, 2) as service:
        eventually(lambda: len(pids(service)) == 2, within=30)
        old = {one.path for one in known_addresses() if one.port == service.port}
        worker, other = service.workers()
        worker.kill()

        worker.wait(10)
        eventually(lambda: len(pids(service)) == 2, within=30)
        assert worker.pid not in pids(service)
        assert other.pid in pids(service)
        new = {one.path for one in known_addresses() if one.port == service.port}
        assert len(new) == 2
        assert len(new - old) == 1
        service.process.send_signal(signal.SIGTERM)
        service.process.wait(30)
        assert not [path for path in new if path.exists()]
    with pytest.raises(ControlError, match=f"no worker of a service on port {service.port} runs"):
        show(service.port)


def as_another_user(code: str) -> str:
    """What Python says to something that nobody in particular runs."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    script = f"""
import os, socket
from service.web.control_client import ask_workers
os.setuid(65534)
{code}
"""
    child = subprocess.run(
        [PYTHON, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return child.stdout + child.stderr


def test_another_user_is_told_whose_the_service_is(service: Service) -> None:
    said = as_another_user(f"ask_workers({{'command': 'show'}}, port={service.port})")
    assert "ControlError: no worker of this user runs, but there are such of user 0" in said


def test_another_user_is_not_answered_even_where_the_directory_stands_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A directory that others may enter; pytest's own are closed.
    directory = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setattr(control_directory, "memory_directory", lambda: directory)
    with channel() as port:
        (address,) = known_addresses()
        for path, mode in ((directory, 0o755), (address.path.parent, 0o755), (address.path, 0o666)):
            path.chmod(mode)
        said = as_another_user(
            "client = socket.socket(socket.AF_UNIX)\n"
            f"client.connect({str(address.path)!r})\n"
            "client.sendall(b'{}\\n')\n"
            "print('answer:', client.recv(100))"
        )
        assert show(port)[0].problem == ""
    shutil.rmtree(directory)
    refusals = ("answer: b''", "ConnectionResetError", "BrokenPipeError")
    assert any(refusal in said for refusal in refusals)


@contextmanager
def channel(answer: Callable[[Any], Any] = dict) -> Iterator[int]:
    port = free_port()
    with control_channel(answer, port=port, slot=0):
        yield port


@pytest.mark.parametrize("error", [RuntimeError, ValueError])
def test_answer_that_raises_is_an_error_and_not_the_end(error: type[Exception]) -> None:
    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if request["command"] == "fail":
            raise error("secret")
        return {}

    with channel(answer) as port:
        (failed,) = ask_workers({"command": "fail"}, port=port, timeout=PATIENCE)
        (well,) = show(port)
    assert failed.problem == "it failed: see the service's log"
    assert well.problem == ""


def test_channel_outlives_a_time_without_room_for_a_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = threading.Event()
    accept = socket.socket.accept

    def accept_later(self: socket.socket) -> tuple[socket.socket, Any]:
        if not refused.is_set():
            refused.set()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", accept_later)
    with channel() as port:
        assert refused.wait(PATIENCE)
        assert show(port)[0].problem == ""


def test_socket_has_no_name_before_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until then it refuses, and another worker that starts would take it for abandoned."""
    named: list[bool] = []
    listen = socket.socket.listen

    def look_and_listen(self: socket.socket, *backlog: int) -> None:
        named.append(any(one.port == port for one in known_addresses()))
        listen(self, *backlog)

    port = free_port()
    monkeypatch.setattr(socket.socket, "listen", look_and_listen)
    with control_channel(dict, port=port, slot=0):
        assert named == [False]
        assert [one.port for one in known_addresses() if one.port == port] == [port]


def test_directory_that_is_not_private_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_directory, "memory_directory", lambda: tmp_path)
    directory = tmp_path / f"tidegate-control-{os.geteuid()}"
    directory.mkdir()
    directory.chmod(0o755)
    with pytest.raises(ControlError, match="not a private directory of this user"):
        own_address(8000, 0)
    with channel() as port, pytest.raises(ControlError, match="no worker"):
        show(port)
    directory.rmdir()
    directory.symlink_to(tmp_path)
    with pytest.raises(ControlError, match="not a private directory"):
        own_address(8000, 0)


def test_socket_is_for_its_user_alone() -> None:
    with channel() as port:
        (address,) = [one for one in known_addresses() if one.port == port]
        assert address.path.stat().st_mode & 0o777 == 0o600
        assert address.path.parent.stat().st_mode & 0o777 == 0o700
        assert address.path.parent.parent == memory_directory()


def test_worker_whose_event_loop_is_blocked_answers_all_the_same(sqlite_url: str) -> None:
    port = free_port()
    begun, released = threading.Event(), threading.Event()

    async def block() -> None:
        begun.set()
        released.wait(4 * PATIENCE)

    with application(sqlite_url, port=port) as client:
        assert client.portal is not None
        blocked = client.portal.start_task_soon(block)
        try:
            assert begun.wait(PATIENCE)
            (shown,) = show(port)
            resize = {"command": "resize", "pool": "primary", "size": 2, "max_overflow": 0}
            (resized,) = ask_workers(resize, port=port, timeout=PATIENCE)
        finally:
            released.set()
        blocked.result(10)
        assert shown.answer["loop_delay"] is None
        assert pools([resized])[0]["max"] == 2
        # Admission is the loop's: it follows when that goes on.
        assert gates([resized]) == [(10, 10)]
        eventually(lambda: gates(show(port)) == [(2, 2)])
        eventually(lambda: None not in loop_delays(show(port)))


def test_holder_is_known_again_while_the_event_loop_is_blocked(sqlite_url: str) -> None:
    port = free_port()

    def taken_at() -> float:
        """When the only holder took its connection, as the ops page reckons it."""
        replies = show(port)
        (pool,) = pools(replies)
        (holder,) = pool["holders"]
        return float(replies[0].answer["uptime"] - holder["age"])

    begun, released = threading.Event(), threading.Event()

    async def block() -> None:
        begun.set()
        released.wait(4 * PATIENCE)

    with application(sqlite_url, port=port) as client, process.engine.connect():
        assert client.portal is not None
        before = taken_at()
        blocked = client.portal.start_task_soon(block)
        try:
            assert begun.wait(PATIENCE)
            keeps_time(lambda: abs(taken_at() - before), 0.05)
        finally:
            released.set()
        blocked.result(10)


def test_admission_stays_at_its_own_limit_where_the_pool_grows(sqlite_url: str) -> None:
    database = DatabaseSettings(url=sqlite_url, pool_size=4, max_overflow=0)
    port = free_port()
    with application(database, port=port, admission_limit=3, admission_queue=7):
        for size, limit in ((8, 3), (2, 2), (4, 3)):
            resize = {"command": "resize", "pool": "primary", "size": size}
            replies = ask_workers(resize, port=port, timeout=PATIENCE)
            assert pools(replies)[0]["max"] == size
            assert gates(replies) == [(limit, 7)]

"""`docker compose up`, for real: what a developer gets from a fresh clone."""

import csv
import json
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from service.settings import CLOSING_SECONDS, Settings
from tests.deploy.conftest import Measured
from tests.deploy.engine import inspect, require_engine
from tests.deploy.support import run
from tests.support.polling import eventually
from tests.support.ports import free_port
from tests.support.server import ROOT

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

SERVICES = ("db", "api", "prometheus")
DEMO = ROOT / "service" / "product_catalog" / "demo.csv"
PASSWORD = (ROOT / "deploy" / "compose" / "postgres_password").read_text().strip()
RESIDENT_LIMIT = 110 * 10**6
TOKEN = "a token for the tests"


@dataclass(frozen=True)
class Stack:
    """One run of the Compose file, under a name and ports of its own."""

    project: str = field(default_factory=lambda: f"tidegate-test-{uuid.uuid4().hex[:8]}")
    api_port: int = field(default_factory=free_port)
    prometheus_port: int = field(default_factory=free_port)
    token_file: Path | None = None

    @property
    def image(self) -> str:
        return f"tidegate:{self.project}"

    def compose(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        env = {
            "TIDEGATE_IMAGE": self.image,
            "API_PORT": str(self.api_port),
            "PROMETHEUS_PORT": str(self.prometheus_port),
            "OPS_TOKEN_FILE": str(self.token_file or ""),
        }
        command = ("docker", "compose", "--project-name", self.project, *arguments)
        return run(*command, stdin=stdin, env=env, check=check).stdout

    def up(self) -> None:
        """Start everything; a failure shows what the containers wrote."""
        try:
            self.compose("up", "--wait", "--wait-timeout", "300")
        except pytest.fail.Exception as error:
            logs = self.compose("logs", "--no-color", "--tail", "100", check=False)
            pytest.fail(f"{error}\n{self.compose('ps', '--all', check=False)}\n{logs}")

    def down(self) -> None:
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "10")
        run("docker", "image", "rm", self.image, check=False)

    def containers(self) -> dict[str, dict[str, Any]]:
        """`docker compose ps` by service."""
        lines = self.compose("ps", "--all", "--format", "json").splitlines()
        return {item["Service"]: item for item in map(json.loads, lines)}

    def inspected(self, service: str) -> dict[str, Any]:
        return inspect("container", self.containers()[service]["Name"])

    def get(self, path: str, headers: dict[str, str] | None = None) -> httpx2.Response:
        url = f"http://127.0.0.1:{self.api_port}{path}"
        # Beyond DATABASE_QUERY_DEADLINE: whatever the service answers is to be seen.
        return httpx2.get(url, headers=headers, timeout=30)

    def status(self, path: str) -> int:
        return self.get(path).status_code

    def answers(self, status: int, *paths: str) -> bool:
        """Whether all of these are answered with a status; a server that is away answers not."""
        try:
            return all(self.status(path) == status for path in paths)
        except httpx2.TransportError:
            return False

    def prometheus(self, query: str) -> list[dict[str, Any]]:
        """The series that an instant query finds."""
        url = f"http://127.0.0.1:{self.prometheus_port}/api/v1/query"
        answer = httpx2.get(url, params={"query": query}, timeout=30).raise_for_status().json()
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result


@pytest.fixture(scope="module")
def stack(measured: Measured) -> Iterator[Stack]:
    require_engine()
    running = Stack()
    start = time.monotonic()
    try:
        running.up()
        measured(f"docker compose up --wait: {time.monotonic() - start:.1f} s")
        yield running
    finally:
        running.down()


def test_everything_is_healthy(stack: Stack, measured: Measured) -> None:
    measured(
        stack.compose("ps", "--all", "--format", "table {{.Service}}\t{{.Status}}\t{{.Ports}}")
    )
    containers = stack.containers()
    assert {name: containers[name]["Health"] for name in SERVICES} == dict.fromkeys(
        SERVICES, "healthy"
    )
    for once in ("migrate", "demo"):
        assert (containers[once]["State"], containers[once]["ExitCode"]) == ("exited", 0)


def test_a_second_up_changes_nothing(stack: Stack) -> None:
    before = {name: stack.inspected(name)["Id"] for name in SERVICES}
    stack.up()
    assert {name: stack.inspected(name)["Id"] for name in SERVICES} == before
    assert stack.containers()["migrate"]["ExitCode"] == 0


def test_the_service_is_ready(stack: Stack) -> None:
    paths = ("/readyz", "/livez", "/version", "/docs", "/products")
    assert {path: stack.status(path) for path in paths} == dict.fromkeys(paths, 200)


def products(stack: Stack) -> list[dict[str, Any]]:
    """The whole catalog, page after page, over HTTP."""
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = stack.get("/products?limit=100" + (f"&cursor={cursor}" if cursor else "")).json()
        found += page["items"]
        cursor = page["next_cursor"]
        if not cursor:
            return found


def test_products_are_served_at_once(stack: Stack) -> None:
    assert len(products(stack)) == len(DEMO.read_text(encoding="utf-8").splitlines()) - 1


def test_an_import_through_the_container_is_served(stack: Stack) -> None:
    added = "ROPE-NEW,A rope that the demo does not have,,12.50\n"
    text = DEMO.read_text(encoding="utf-8") + added
    stack.compose(
        *("exec", "-T", "api", "tidegate", "catalog", "import", "-", "--format", "csv"), stdin=text
    )
    expected = {row["code"] for row in csv.DictReader(text.splitlines())}
    assert {product["code"] for product in products(stack)} == expected


def test_prometheus_scrapes_the_service(stack: Stack) -> None:
    def up() -> bool:
        return [series["value"][1] for series in stack.prometheus('up{job="tidegate"}')] == ["1"]

    eventually(up, within=30, every=0.5)
    used_and_idle = stack.prometheus("db_client_connection_count")
    assert {series["metric"]["state"] for series in used_and_idle} == {"used", "idle"}
    assert all(series["metric"]["pool_name"] for series in used_and_idle)
    assert stack.prometheus("db_client_connection_max")
    assert stack.prometheus("service_build_info")


def test_prometheus_evaluates_the_rules(stack: Stack) -> None:
    recorded = "instance_pool:db_client_connection_saturation:ratio"
    eventually(lambda: stack.prometheus(recorded), within=60, every=1)


@pytest.mark.parametrize("service", ["db", "migrate", "demo", "api", "prometheus"])
def test_containers_are_locked_down(stack: Stack, service: str) -> None:
    inspected = stack.inspected(service)
    host = inspected["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert host["Privileged"] is False
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert host["Memory"] > 0
    assert host["PidsLimit"] > 0
    assert host["LogConfig"]["Config"]["max-size"]
    published = [p for ports in inspected["NetworkSettings"]["Ports"].values() for p in ports or ()]
    assert {port["HostIp"] for port in published} <= {"127.0.0.1"}


@pytest.mark.parametrize("service", SERVICES)
def test_processes_have_no_rights(stack: Stack, service: str) -> None:
    status = stack.compose("exec", "-T", service, "cat", "/proc/1/status")
    facts = dict(line.split(":\t", 1) for line in status.splitlines())
    assert facts["Uid"].split()[0] != "0"
    assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0
    assert facts["NoNewPrivs"] == "1"
    refused = stack.compose(
        *("exec", "-T", service, "sh", "-c", "touch /written 2>&1 || true"), check=False
    )
    assert "Read-only file system" in refused


def test_the_database_is_out_of_reach(stack: Stack) -> None:
    networks = {
        name: set(stack.inspected(name)["NetworkSettings"]["Networks"]) for name in SERVICES
    }
    assert networks["db"].isdisjoint(networks["prometheus"])
    (network,) = networks["db"]
    assert inspect("network", network)["Internal"] is True


def test_no_secret_is_to_be_read_from_outside(stack: Stack, tmp_path: Path) -> None:
    path = "/readyz?verbose"
    assert "ageSeconds" not in stack.get(path).text
    assert stack.get("/ops/data").status_code == 404, "there is no token"
    file = tmp_path / "token"
    file.write_text(TOKEN)
    tmp_path.chmod(0o755)
    guarded = replace(stack, token_file=file)
    guarded.up()
    try:
        header = {"Authorization": f"Bearer {TOKEN}"}
        assert "ageSeconds" in stack.get(path, header).text
        for service in ("db", "migrate", "demo", "api", "prometheus"):
            inspected = json.dumps(stack.inspected(service))
            assert PASSWORD not in inspected
            assert TOKEN not in inspected
        logs = stack.compose("logs", "--no-color")
        assert PASSWORD not in logs
        assert TOKEN not in logs
        mounted = guarded.compose("exec", "-T", "api", "ls", "/run/secrets").split()
        assert mounted == ["database_url", "ops_token"]
        for once in ("migrate", "demo"):
            targets = {mount["Destination"] for mount in stack.inspected(once)["Mounts"]}
            assert "/run/secrets/ops_token" not in targets
    finally:
        stack.up()


def test_the_log_is_one_json_object_a_line(stack: Stack) -> None:
    log = run("docker", "logs", stack.containers()["api"]["Name"])
    entries = [json.loads(line) for line in log.stdout.splitlines()]
    assert "gunicorn.error" in {entry["logger"] for entry in entries}
    assert all(entry["level"] and entry["message"] for entry in entries)
    assert log.stderr == ""


def test_the_worker_stays_small(stack: Stack, measured: Measured) -> None:
    # A health check may end between the listing and the reading.
    script = "cat /proc/[0-9]*/status 2>/dev/null || true"
    resident = sorted(
        int(kilobytes) * 1024
        for name, kilobytes in re.findall(
            # Within one process: one that has just ended has a name, and no memory.
            r"^Name:\t(\S+)$(?:\n(?!Name:).*)*?\nVmRSS:\s+(\d+) kB$",
            stack.compose("exec", "-T", "api", "sh", "-c", script),
            re.MULTILINE,
        )
        if name.startswith(("gunicorn", "python"))
    )
    measured("resident: " + ", ".join(f"{size / 1e6:.0f} MB" for size in resident))
    assert len(resident) == 2
    assert resident[-1] < RESIDENT_LIMIT


def test_a_restart_of_the_service_is_measured(stack: Stack, measured: Measured) -> None:
    stack.compose("restart", "api")
    eventually(lambda: stack.answers(200, "/readyz"), within=60)
    ready = datetime.now(UTC)
    started = stack.inspected("api")["State"]["StartedAt"]
    seconds = (ready - datetime.fromisoformat(started)).total_seconds()
    measured(f"from the start of the process to the first 200 of /readyz: {seconds:.1f} s")


def test_the_service_survives_a_restart_of_the_database(stack: Stack, measured: Measured) -> None:
    count = len(products(stack))
    start = time.monotonic()
    stack.compose("restart", "db")
    eventually(lambda: stack.answers(200, "/readyz", "/products"), within=60)
    measured(f"serving again after `docker compose restart db`: {time.monotonic() - start:.1f} s")
    assert len(products(stack)) == count


def test_readiness_tells_of_a_stopped_database(stack: Stack) -> None:
    stack.compose("stop", "db")
    try:
        eventually(lambda: stack.answers(503, "/readyz"), within=60)
        assert stack.status("/livez") == 200, "a restart of the service helps nobody"
        assert stack.status("/products") == 503
    finally:
        stack.compose("start", "db")
    eventually(lambda: stack.answers(200, "/readyz", "/products"), within=60)
    assert stack.inspected("api")["RestartCount"] == 0


def test_compose_waits_for_the_whole_shutdown(stack: Stack) -> None:
    container = stack.inspected("api")["Config"]
    variables = dict(variable.split("=", 1) for variable in container["Env"])
    drain, graceful = variables["DRAIN_SECONDS"], Settings.model_fields["graceful_timeout"].default
    assert "GRACEFUL_TIMEOUT" not in variables
    assert container["StopTimeout"] > float(drain) + graceful + CLOSING_SECONDS


def test_a_stop_is_graceful(stack: Stack, measured: Measured) -> None:
    """Last: a client that keeps its connection open must not hold the server up."""
    with httpx2.Client(base_url=f"http://127.0.0.1:{stack.api_port}") as client:
        assert client.get("/livez").status_code == 200
        start = time.monotonic()
        stack.compose("stop", "api")
    seconds = time.monotonic() - start
    measured(f"docker compose stop api, with an idle connection open: {seconds:.1f} s")
    state = stack.inspected("api")["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
    assert "broken off" not in stack.compose("logs", "--no-color", "api")

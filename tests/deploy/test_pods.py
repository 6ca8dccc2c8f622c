"""The pods of the Kubernetes manifests, run on a Docker Engine as they are described."""

import contextlib
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx2
import pytest

from tests.deploy.conftest import Measured
from tests.deploy.engine import built_image, require_engine
from tests.deploy.kubelet import Container, RunningPod, running_pod
from tests.deploy.manifests import (
    Manifest,
    config,
    container,
    pgbouncer_files,
    pods,
    rendered,
)
from tests.deploy.support import run
from tests.support.missing import missing
from tests.support.polling import eventually

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

POSTGRES = "postgres:17-trixie"
PASSWORD = "not-a-secret-of-anybody"
HOSTS = ("tidegate-db-rw", "tidegate-db-ro", "postgresql.databases.svc")


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    with built_image() as name:
        yield name


@pytest.fixture(scope="module")
def network() -> Iterator[str]:
    require_engine()
    name = f"tidegate-pods-{uuid.uuid4().hex[:8]}"
    run("docker", "network", "create", name)
    yield name
    run("docker", "network", "rm", name)


@pytest.fixture(scope="module")
def server(network: str) -> Iterator[str]:
    """A PostgreSQL container, under every name that the manifests give the database."""
    name = f"{network}-db"
    run(
        *("docker", "run", "--detach", "--name", name, "--network", network),
        *(word for host in HOSTS for word in ("--network-alias", host)),
        *("--env", f"POSTGRES_PASSWORD={PASSWORD}", POSTGRES),
    )
    try:
        ready = ("docker", "exec", name, "pg_isready", "--quiet", "--host=127.0.0.1")
        eventually(lambda: not run(*ready, check=False).returncode, within=60, every=0.5)
        yield name
    finally:
        run("docker", "rm", "--force", "--volumes", name, check=False)


@pytest.fixture
def database(server: str) -> str:
    """A database of its own for each test, with the roles of `cloudnative-pg/`; its container."""
    (cluster,) = rendered("cloudnative-pg")
    initdb = cluster["spec"]["bootstrap"]["initdb"]
    execute(server, "DROP DATABASE IF EXISTS tidegate WITH (FORCE)")
    for role in (initdb["owner"], "tidegate"):
        with contextlib.suppress(pytest.fail.Exception):
            execute(server, f"DROP ROLE {role}")
    execute(server, f"CREATE ROLE {initdb['owner']} LOGIN PASSWORD '{PASSWORD}'")
    execute(server, f"CREATE DATABASE tidegate OWNER {initdb['owner']}")
    for statement in initdb["postInitApplicationSQL"]:
        execute(server, statement, "tidegate")
    execute(server, f"ALTER ROLE tidegate LOGIN PASSWORD '{PASSWORD}'")
    return server


def execute(server: str, statement: str, database: str = "postgres") -> str:
    command = ("psql", "-U", "postgres", "-d", database, "-Atqc", statement)
    return run("docker", "exec", server, *command).stdout.strip()


def secrets(serving: str, direct: str) -> dict[str, dict[str, str]]:
    """Those that README.md asks for, with these hosts."""

    def url(role: str, host: str) -> str:
        return f"postgresql://{role}:{PASSWORD}@{host}:5432/tidegate\n"

    return {
        "tidegate-database": {
            "database-url": url("tidegate", serving),
            "migrate-database-url": url("tidegate_owner", direct),
            "database-replica-url": url("tidegate", "tidegate-db-ro"),
            "ops-token": "0123456789abcdef\n",
        },
        "tidegate-pgbouncer": {"userlist.txt": f'"tidegate" "{PASSWORD}"\n'},
    }


PodStarter = Callable[..., RunningPod]


@pytest.fixture
def start_pod(image: str, network: str) -> Iterator[PodStarter]:
    """Makes the sandbox of a pod by its controller's name."""
    with ExitStack() as stack:

        def start(manifests: list[Manifest], name: str, serving: str, direct: str) -> RunningPod:
            (description,) = (pod for pod in pods(manifests) if pod.name == name)
            return stack.enter_context(
                running_pod(
                    RunningPod(
                        description,
                        manifests,
                        lambda wanted: image if "pgbouncer" not in wanted else wanted,
                        secrets(serving, direct),
                        network,
                    )
                )
            )

        yield start


def run_to_end(pod: RunningPod, name: str) -> Container:
    """Run a container that ends by itself, as init containers and Jobs do."""
    started = pod.start(container(pod.description, name))
    code = started.wait()
    assert code == 0, started.logs()
    assert not started.state()["OOMKilled"]
    return started


def serve(pod: RunningPod, measured: Measured, told: str) -> Container:
    """Start what serves, and probe it as the kubelet does until it is ready."""
    api = pod.start(container(pod.description, "api"))
    startup = api.wait_for_probe("startup")
    readiness = api.wait_for_probe("readiness")
    assert api.probe("liveness")
    measured(f"{told}: started within {startup:.1f} s, ready {readiness:.1f} s later")
    return api


def use(pod: RunningPod) -> None:
    """Write and read through the service."""
    product = {"code": "ROPE-1", "name": "Rope", "price": "12.50"}
    url = f"http://127.0.0.1:{pod.port}/products"
    assert httpx2.post(url, json=product, timeout=10).status_code == 201
    assert [one["code"] for one in pod.get("/products").json()["items"]] == ["ROPE-1"]
    for _ in range(20):
        assert "ROPE-1" in pod.get("/products/export").text


def stop(api: Container, measured: Measured, told: str) -> None:
    """End it as the kubelet does: it serves through the drain, and exits with 0 in time."""
    grace = api.pod.description.spec["terminationGracePeriodSeconds"]
    drain = float(config(api.pod.manifests)["DRAIN_SECONDS"])
    start = time.monotonic()
    api.terminate()
    eventually(lambda: not api.probe("readiness"), within=5)
    assert api.pod.get("/products").status_code == 200
    assert api.probe("liveness")
    seconds = ended(api, start, grace)
    assert seconds >= drain
    measured(f"{told}: ended {seconds:.1f} s after SIGTERM, of {grace} s")


def ended(container: Container, start: float, grace: float) -> float:
    """Assert that a container ends well within its grace period; returns the seconds it took."""
    left = grace - (time.monotonic() - start)
    eventually(lambda: not container.state()["Running"], within=left, every=0.1)
    seconds = time.monotonic() - start
    state = container.state()
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False), container.logs()
    return seconds


def test_base(database: str, start_pod: PodStarter, measured: Measured) -> None:
    manifests = rendered("base")
    pod = start_pod(manifests, "tidegate", "tidegate-db-rw", "tidegate-db-rw")
    for each in pod.description.spec["initContainers"]:
        run_to_end(pod, each["name"])
    assert execute(database, "SELECT count(*) FROM alembic_version", "tidegate") == "1"
    api = serve(pod, measured, "base")
    use(pod)
    assert_locked_down(api)
    stop(api, measured, "base")


def assert_locked_down(api: Container) -> None:
    """Seen from inside: user, capabilities, file system and secrets."""
    status = api.execute("cat", "/proc/1/status").stdout
    for line in (r"Uid:\s+10001\s", r"CapEff:\s+0+$", r"NoNewPrivs:\s+1", r"Seccomp:\s+2"):
        assert re.search(f"^{line}", status, re.MULTILINE), line
    for path in ("/app/x", "/etc/x", "/var/run/tidegate/x"):
        assert api.execute("touch", path).returncode != 0
    assert api.execute("touch", "/tmp/x").returncode == 0  # noqa: S108 - the pod's own volume
    listing = api.execute("ls", "-ln", "/var/run/tidegate").stdout
    assert re.findall(r"^(\S+) \d+ (\d+) (\d+) .* (\S+)$", listing, re.MULTILINE) == [
        ("-r--r-----", "0", "10001", "database-url")
    ]
    environ = api.execute("cat", "/proc/1/environ").stdout
    assert PASSWORD not in environ


@pytest.mark.usefixtures("database")
def test_production(start_pod: PodStarter, measured: Measured) -> None:
    """The hook migrates alone; the replica of here is none, and so the primary serves."""
    manifests = rendered("overlays/prod")
    job = start_pod(manifests, "tidegate-migrate", "tidegate-db-rw", "tidegate-db-rw")
    pod = start_pod(manifests, "tidegate", "tidegate-db-rw", "tidegate-db-rw")
    waiting = pod.start(container(pod.description, "wait"))
    eventually(lambda: "schema_wait" in waiting.logs(), within=30, every=0.2)
    assert waiting.state()["Running"]
    run_to_end(job, "migrate")
    assert waiting.wait() == 0, waiting.logs()
    api = serve(pod, measured, "prod")
    use(pod)
    eventually(lambda: "not_a_replica" in reason_of(pod, "replica"), within=30, every=0.5)
    stop(api, measured, "prod")


def reason_of(pod: RunningPod, check: str) -> str:
    """What an operator reads in `/readyz`, with the token of the Secret."""
    answer = httpx2.get(
        f"http://127.0.0.1:{pod.port}/readyz?verbose",
        headers={"Authorization": "Bearer 0123456789abcdef"},
        timeout=10,
    )
    reason: str = answer.json()["checks"][check][0].get("output", "")
    return reason


def test_staging(database: str, start_pod: PodStarter, measured: Measured) -> None:
    """Through the PgBouncer that the manifests describe, which migrations go past."""
    manifests = rendered("overlays/staging")
    direct = "postgresql.databases.svc"
    pooler = start_pod(manifests, "tidegate-pgbouncer", "", "")
    require_image(container(pooler.description, "pgbouncer")["image"])
    run_to_end(start_pod(manifests, "tidegate-migrate", "", direct), "migrate")
    pgbouncer = pooler.start(container(pooler.description, "pgbouncer"))
    pgbouncer.wait_for_probe("readiness")
    pod = start_pod(manifests, "tidegate", "tidegate-pgbouncer", direct)
    run_to_end(pod, "wait")
    api = serve(pod, measured, "staging")
    use(pod)
    clients = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'tidegate'"
    limit = named_setting(manifests, "max_db_connections")
    assert 1 <= int(execute(database, clients)) <= limit
    stop(api, measured, "staging")
    start = time.monotonic()
    pgbouncer.terminate()
    grace = pooler.description.spec["terminationGracePeriodSeconds"]
    seconds = ended(pgbouncer, start, grace)
    measured(f"staging: PgBouncer ended {seconds:.1f} s after its hook began, of {grace} s")


def require_image(name: str) -> None:
    """Skip, or fail in CI, without an image that is not ours."""
    if run("docker", "image", "inspect", name, check=False).returncode:
        pulled = run("docker", "pull", "--quiet", name, check=False)
        if pulled.returncode:
            missing(f"needs the image {name}, which cannot be pulled")


def named_setting(manifests: list[Manifest], name: str) -> int:
    """A number of PgBouncer's configuration."""
    ini = pgbouncer_files(manifests)["pgbouncer.ini"]
    (value,) = re.findall(rf"^{name} = (\d+)$", ini, re.MULTILINE)
    return int(value)

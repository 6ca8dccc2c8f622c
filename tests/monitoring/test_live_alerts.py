"""Each alert of the pool, caused for real, from its cause to its end in a real Prometheus."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import httpx2
import pytest

from tests.monitoring.conftest import ROW
from tests.monitoring.installed import program
from tests.monitoring.prometheus import running_prometheus
from tests.monitoring.stage import POOL_SIZE, Crowd, Stage, Timing, crowd, serving
from tests.support.database_server import running
from tests.support.databases import migrate
from tests.support.polling import eventually
from tests.support.postgres import PostgresServer

pytestmark = [pytest.mark.monitoring, pytest.mark.timeout(240)]

Record = Callable[[str, list[Timing]], None]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    program("prometheus")
    directory = tmp_path_factory.mktemp("stage")
    with running(PostgresServer()) as database:
        url = database.url()
        migrate(url)
        with serving(directory, url) as service, running_prometheus(directory) as prometheus:
            prometheus.scrape([service.port])
            eventually(lambda: prometheus.value('up{job="tidegate"}') == 1, within=20, every=0.1)
            yield Stage(directory, database, url, service, prometheus)


@pytest.fixture
def record(record_property: Callable[[str, object], None]) -> Record:
    def rows(cause: str, timings: list[Timing]) -> None:
        for timing in timings:
            times = f"{timing.fired:.1f} | {timing.resolved:.1f}"
            record_property(ROW, f"| {cause} | `{timing.alert}` | {times} |")

    return rows


def ask(stage: Stage, path: str) -> None:
    httpx2.get(f"http://127.0.0.1:{stage.service.port}{path}", timeout=10)


def test_pool_is_exhausted(stage: Stage, record: Record) -> None:
    takers, users = Crowd(stage.service, "/hold", POOL_SIZE + 3), Crowd(stage.service, "/products")

    def take_all() -> None:
        takers.start()
        eventually(lambda: stage.taken() == POOL_SIZE, within=20)
        users.start()

    def give_back() -> None:
        stage.give_back(takers)
        users.stop()

    alerts = ["TidegatePoolSaturated", "TidegatePoolExhausted", "TidegatePoolWaiters",
              "TidegatePoolWaitSlow", "TidegatePoolTimeouts", "TidegateHealthCheckWarning",
              "TidegateRequestsQueued", "TidegateRequestsShed"]  # fmt: skip
    # Its windows are long: to wait for its end would take longer than all the rest.
    burning = ["TidegateAvailabilityBurnsFast"]
    timings = stage.times_of(alerts, take_all, give_back, unended=burning)
    record("all connections are taken, under load", timings)


def test_connection_is_leaked(stage: Stage, record: Record) -> None:
    taker = Crowd(stage.service, "/hold", 1)

    record(
        "a connection is not given back",
        stage.times_of(["TidegateConnectionsLeaked"], taker.start, lambda: stage.give_back(taker)),
    )


def test_server_is_killed(stage: Stage, record: Record) -> None:
    stage.open_all()
    with crowd(stage.service, "/products"):
        alerts = ["TidegateConnectFailures", "TidegateConnectionsLost",
                  "TidegateHealthCheckFailing"]  # fmt: skip
        record(
            "PostgreSQL is killed, and started again",
            stage.times_of(alerts, stage.database.kill, stage.database.start),
        )


def test_server_hangs(stage: Stage, record: Record) -> None:
    stage.open_all()
    with crowd(stage.service, "/products"):
        alerts = ["TidegateConnectFailures", "TidegateConnectionsLost", "TidegatePoolWaiters",
                  "TidegatePoolWaitSlow", "TidegateHealthCheckFailing"]  # fmt: skip
        record(
            "PostgreSQL hangs (SIGSTOP)",
            stage.times_of(alerts, stage.database.pause, stage.database.resume),
        )


def test_server_ends_sessions(stage: Stage, record: Record) -> None:
    def end_all() -> None:
        stage.database.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'tidegate'"
        )

    stage.open_all()
    with crowd(stage.service, "/products", clients=2):
        record(
            "the server ends all sessions",
            stage.times_of(["TidegateConnectionsLost"], end_all, lambda: None),
        )


def test_instances_exceed_the_budget_and_one_goes(stage: Stage, record: Record) -> None:
    with stage.another_service() as other:
        budget = stage.times_of(
            ["TidegateConnectionBudgetExceeded"], lambda: None, stage.forget_others
        )
        stage.prometheus.scrape([stage.service.port, other.port])
    gone = stage.times_of(["TidegateScrapeFailing"], lambda: None, stage.forget_others)
    record("a second instance, beyond the budget", budget)
    record("an instance stops, and is still looked for", gone)


def test_service_answers_nobody(stage: Stage, record: Record) -> None:
    processes = [stage.service.process.pid, *(worker.pid for worker in stage.service.workers())]

    def send(signum: signal.Signals) -> None:
        for process in processes:
            os.kill(process, signum)

    timings = stage.times_of(
        ["TidegateAbsent", "TidegateScrapeFailing"],
        lambda: send(signal.SIGSTOP),
        lambda: send(signal.SIGCONT),
    )
    record("all of the service hangs (SIGSTOP)", timings)


def test_worker_is_killed(stage: Stage, record: Record) -> None:
    def kill() -> None:
        # While one takes the place of another there are two, or none.
        eventually(lambda: len(stage.service.workers()) == 1, within=20)
        (worker,) = stage.service.workers()
        worker.kill()

    record("a worker is killed", stage.times_of(["TidegateWorkerRestarts"], kill, lambda: None))


def test_event_loop_is_blocked(stage: Stage, record: Record) -> None:
    def block() -> None:
        with contextlib.suppress(httpx2.TransportError):
            ask(stage, "/block")

    record(
        "the event loop is blocked",
        stage.times_of(["TidegateWorkerRestarts"], block, lambda: None),
    )


def test_schema_is_behind(stage: Stage, record: Record) -> None:
    stage.database.execute("CREATE TABLE head AS SELECT version_num FROM alembic_version")
    record(
        "the database lacks revisions",
        stage.times_of(
            ["TidegateSchemaBehind"],
            lambda: stage.database.execute(
                "UPDATE alembic_version SET version_num = '7c1f0a52d3e8'"
            ),
            lambda: stage.database.execute(
                "UPDATE alembic_version SET version_num = (SELECT version_num FROM head)"
            ),
        ),
    )

"""Each command: its table, its JSON, its exit code."""

import io
import os
import pty
import re
import subprocess
import threading
from base64 import b64encode
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Final

import psycopg2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from sqlalchemy import Engine, inspect, text

from service.cli.migrate_progress import LiveEvents
from service.database import DatabaseSettings
from service.migrator.errors import ExitCode
from service.migrator.events import text_sink
from service.migrator.lock import runner_lock
from service.migrator.revisions import Revisions
from service.migrator.runner import make_runner
from tests.migrator.histories import ADD, CREATE, History, finish, named, read_until
from tests.support.databases import migrate
from tests.support.polling import eventually
from tests.support.ports import free_port
from tests.support.server import PYTHON, environment

_DROP: Final = 'op.drop_table("things")'


def test_up_tells_plan_each_revision_and_a_summary(history: History, empty_url: str) -> None:
    history.add("a1", CREATE)
    history.add("a2", ADD, phase="contract", more="lock_timeout = 3")
    result = history.invoke(empty_url, "up", "--json")
    assert result.code == 0
    assert [one["revision"] for one in result.json["revisions"]] == ["a1", "a2"]
    assert result.json["before"]["pending"] == ["a1", "a2"]
    (plan,) = named(result.events, "plan")
    assert [(one["phase"], one["lock_timeout"]) for one in plan["revisions"]] == [
        ("expand", 1.0),
        ("contract", 3.0),
    ]
    kinds = [event["event"] for event in result.events]
    assert [kind for kind in kinds if kind.startswith("revision")] == [
        "revision_start",
        "revision_end",
    ] * 2
    assert kinds[-1] == "summary"
    assert result.events[-1]["revisions"] == ["a1", "a2"]
    table = history.invoke(empty_url, "up")
    assert table.output == "nothing to do: at a2\n"


def test_people_are_told_in_lines(history: History, empty_url: str, engine: Engine) -> None:
    history.add("a1", CREATE)
    lines: list[str] = []
    runner = history.runner(empty_url)
    runner.events.add(text_sink(lines.append))
    with runner_lock(engine, wait=0):
        thread = threading.Thread(target=runner.up)
        thread.start()
        eventually(lambda: lines, within=60)
    thread.join()
    first, last = lines
    assert first.startswith("another runner is migrating: ")
    assert re.fullmatch(r"applied a1 Revision a1\. \(\d+\.\d\d s\)", last)


def test_terminal_shows_the_present_revision_and_keeps_the_lines(
    history: History, empty_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a dumb one nothing is drawn.
    monkeypatch.setenv("TERM", "xterm")
    history.add("a1", CREATE)
    history.add("a2", "time.sleep(0.3)")
    screen = io.StringIO()
    runner = history.runner(empty_postgres_url)
    runner.events.add(LiveEvents(Console(file=screen, force_terminal=True, width=100)))
    runner.up()
    shown = screen.getvalue()
    assert re.search(r"[^\n]a2 Revision a2\.[^\n]*0:0\d:\d\d", shown)
    assert len(re.findall(r"applied a[12] Revision a[12]\. \(", shown)) == 2


def test_pool_of_the_service_is_not_that_of_the_runner(history: History, empty_url: str) -> None:
    history.add("a1", CREATE)
    small = {"DATABASE_POOL_SIZE": "1", "DATABASE_MAX_OVERFLOW": "0", "DATABASE_POOL_TIMEOUT": "1"}
    assert history.invoke(empty_url, "up", **small).code == 0


def test_two_heads_are_31(history: History, empty_url: str) -> None:
    history.add("a1", CREATE)
    history.add("a2")
    history.add("b2", down="a1")
    for command in (["up"], ["status"], ["wait"], ["plan"], ["new", "--empty", "More"]):
        result = history.invoke(empty_url, *command, "--json")
        assert (result.code, result.json["exit_code"]) == (31, 31), command
        assert "a2" in result.json["error"]
        assert "b2" in result.json["error"]
        assert "have one follow the other" in result.json["error"]


def test_release_without_a_revision_is_31(history: History, empty_url: str) -> None:
    result = history.invoke(empty_url, "up", "--json")
    assert result.code == 31
    assert result.json["error"] == f"there is no revision in {history.directory}"


def test_status_and_wait_of_a_database_behind_are_20(history: History, empty_url: str) -> None:
    history.add("a1", CREATE)
    status = history.invoke(empty_url, "status", "--json")
    assert (status.code, status.json["pending"]) == (20, ["a1"])
    wait = history.invoke(empty_url, "wait", "--timeout", "0", "--json")
    assert wait.code == 20
    assert "a1" in wait.json["error"]
    table = history.invoke(empty_url, "status")
    assert "pending" in table.output
    history.runner(empty_url).up()
    assert history.invoke(empty_url, "status").code == 0
    assert history.invoke(empty_url, "wait", "--json").json["state"] == "current"


def test_wait_ends_when_somebody_has_migrated(history: History, empty_url: str) -> None:
    history.add("a1", CREATE)
    waiting = history.start(empty_url, "wait", "--timeout", "60")
    read_until(waiting, "schema_wait")
    history.runner(empty_url).up()
    waited = finish(waiting)
    assert waited.code == 0, waited.errors
    assert waited.output == "current: at a1\n"


def test_busy_runner_is_10(history: History, empty_url: str, engine: Engine) -> None:
    history.add("a1", CREATE)
    with runner_lock(engine, wait=0):
        result = history.invoke(empty_url, "up", "--wait", "3", "--json")
    assert result.code == 10
    assert len(named(result.events, "lock_wait")) >= 1


def test_plan_shows_the_sql_and_changes_nothing(
    history: History, empty_url: str, engine: Engine, tmp_path: Path
) -> None:
    history.add("a1", CREATE)
    history.runner(empty_url).up()
    history.add("a2", ADD)
    file = tmp_path / "plan.sql"
    result = history.invoke(empty_url, "plan", "--json", "--output", str(file))
    (planned,) = result.json["revisions"]
    assert planned["revision"] == "a2"
    assert "ADD COLUMN size" in planned["sql"]
    assert file.read_text() == planned["sql"]
    assert history.invoke(empty_url, "plan", "--sql").output == planned["sql"]
    assert "a2" in history.invoke(empty_url, "plan").output
    assert len(inspect(engine).get_columns("things")) == 1


def test_plan_without_a_database(history: History) -> None:
    history.add("a1", CREATE)
    history.add("a2", ADD)
    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    for dialect in ("postgresql", "mariadb", "sqlite"):
        words = ("plan", "--dialect", dialect, "--from", "a1", "--json")
        (planned,) = history.invoke(nowhere, *words).json["revisions"]
        assert "ADD COLUMN size" in planned["sql"]
    for options, complaint in (
        ("--dialect oracle", "--dialect"),
        ("--from a1", "--from needs --dialect"),
        ("--since HEAD", "--since needs --dialect"),
        ("--dialect sqlite --since HEAD --from a1", "--since and --from"),
    ):
        refused = history.invoke(nowhere, "plan", *options.split(), "--json")
        assert refused.code == ExitCode.USAGE
        assert complaint in refused.json["error"]


def test_down_takes_back_and_refuses_what_cannot_be(
    history: History, empty_url: str, engine: Engine
) -> None:
    history.add("a1", CREATE, downgrade=_DROP)
    history.add("a2", more='irreversible = "the sizes are gone"')
    history.runner(empty_url).up()
    refused = history.invoke(empty_url, "down", "base", "--yes", "--json")
    assert refused.code == 40
    assert "the sizes are gone" in refused.json["error"]
    assert inspect(engine).has_table("things")
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'a1'"))
    done = history.invoke(empty_url, "down", "--yes", "--json", "--", "-1")
    assert [one["revision"] for one in done.json["revisions"]] == ["a1"]
    assert not inspect(engine).has_table("things")
    assert history.invoke(empty_url, "down", "--yes", "base").output == "nothing to do\n"


def test_down_asks_before(history: History, empty_postgres_url: str) -> None:
    history.add("a1", CREATE)
    assert history.invoke(empty_postgres_url, "down", "base").code == 1


def test_locks_show_who_holds_and_who_waits(history: History, empty_postgres_url: str) -> None:
    history.add("a1", CREATE)
    history.runner(empty_postgres_url).up()
    reader = psycopg2.connect(empty_postgres_url, application_name="nightly-report")
    writer = psycopg2.connect(empty_postgres_url, application_name="alterer")

    def alter() -> None:
        with writer.cursor() as cursor:
            cursor.execute("ALTER TABLE things ADD COLUMN size int")

    with reader.cursor() as cursor:
        cursor.execute("SELECT * FROM things")
    thread = threading.Thread(target=alter)
    thread.start()
    try:
        eventually(lambda: history.invoke(empty_postgres_url, "locks", "--json").json["waiting"])
        (waits,) = history.invoke(empty_postgres_url, "locks", "--json").json["waiting"]
        assert waits["application_name"] == "alterer"
        assert [one["application_name"] for one in waits["blockers"]] == ["nightly-report"]
        assert "nightly-report" in history.invoke(empty_postgres_url, "locks").output
    finally:
        reader.close()
        thread.join()
        writer.close()


def test_lock_of_sqlite_is_a_file_that_nobody_can_ask_about(
    history: History, tmp_path: Path
) -> None:
    history.add("a1", CREATE)
    url = f"sqlite:///file:{tmp_path / 'a%20b.db'}?uri=true"
    shown = history.invoke(url, "locks")
    assert (shown.code, "not known to SQLite" in shown.output) == (0, True)
    assert not history.invoke(url, "locks", "--json").json["is_known"]
    assert history.invoke(url, "up").code == 0
    lock = tmp_path / "a b.db.lock"
    lock.unlink()
    lock.mkdir()
    history.add("a2", ADD)
    refused = history.invoke(url, "up", "--json")
    assert refused.code == ExitCode.USAGE
    assert refused.json["error"].startswith(f"{lock} cannot be opened: Is a directory")


def test_new_writes_a_revision_that_passes(history: History, empty_postgres_url: str) -> None:
    history.add("a1", CREATE)
    behind = history.invoke(empty_postgres_url, "new", "Add all")
    assert behind.code == 20
    empty = history.invoke(
        empty_postgres_url, "new", "--empty", "--phase", "contract", "Drop it", "--json"
    )
    path = Path(empty.json["path"])
    assert path.parent == history.directory
    assert path.name.endswith("_drop_it.py")
    source = path.read_text()
    assert '"""Drop it."""' in source
    assert 'phase = "contract"' in source
    assert "lock_timeout" in source
    assert history.invoke(empty_postgres_url, "new", "--phase", "both", "x").code == 2


def test_new_compares_the_models_with_a_current_database(
    history: History, empty_postgres_url: str
) -> None:
    history.add("a1", CREATE)
    history.runner(empty_postgres_url).up()
    written = history.invoke(empty_postgres_url, "new", "Make the catalog", "--json")
    source = Path(written.json["path"]).read_text()
    assert "migration_history" not in source
    # What it wrote can be applied, and leaves nothing to be written.
    history.runner(empty_postgres_url).up()
    again = history.invoke(empty_postgres_url, "new", "Make nothing", "--json")
    assert "op." not in Path(again.json["path"]).read_text().partition("def upgrade")[2]


class Gateway(HTTPServer):
    """What a Pushgateway takes: remembers method, path, body and authorization of each push."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Push)
        self.pushes: list[tuple[str, str, str, str | None]] = []


class _Push(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        server: Any = self.server
        server.pushes.append((self.command, self.path, body, self.headers["Authorization"]))
        self.send_response(202)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Be quiet."""


def values(body: str) -> dict[str, float]:
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
    }


def test_metrics_are_written_and_the_last_success_stays(
    history: History, empty_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "tidegate.prom"
    history.add("a1", CREATE)
    assert history.invoke(empty_url, "up", MIGRATE_METRICS_FILE=str(file)).code == 0
    first = values(file.read_text())
    assert first["service_migration_last_exit_code"] == 0
    assert first["service_migration_revisions"] == 1
    assert first["service_migration_revision_duration_seconds"] > 0
    history.add("a2", CREATE)
    assert history.invoke(empty_url, "up", MIGRATE_METRICS_FILE=str(file)).code == 40
    second = values(file.read_text())
    assert second["service_migration_last_exit_code"] == 40
    name = "service_migration_last_success_timestamp_seconds"
    assert second[name] == first[name]
    name = "service_migration_last_run_timestamp_seconds"
    assert second[name] > first[name]
    assert [path.name for path in tmp_path.glob("*.prom*")] == ["tidegate.prom"]


@pytest.mark.parametrize(("userinfo", "sent"), [("", None), ("me:t%40ger@", b"me:t@ger")])
def test_metrics_are_pushed(
    history: History, empty_postgres_url: str, userinfo: str, sent: bytes | None
) -> None:
    history.add("a1", CREATE)
    gateway = Gateway()
    thread = threading.Thread(target=gateway.serve_forever)
    thread.start()
    address = f"http://{userinfo}127.0.0.1:{gateway.server_port}"
    try:
        pushed = history.invoke(empty_postgres_url, "up", MIGRATE_PUSHGATEWAY_URL=address)
    finally:
        gateway.shutdown()
        thread.join()
        gateway.server_close()
    assert pushed.code == 0
    ((method, path, body, authorization),) = gateway.pushes
    # POST leaves what it does not name: after a failure, the time of the last success.
    assert (method, path) == ("POST", "/metrics/job/tidegate_migrate")
    assert authorization == (f"Basic {b64encode(sent).decode()}" if sent else None)
    assert values(body)["service_migration_revisions"] == 1
    assert "service_migration_last_success_timestamp_seconds" in body


def test_metrics_that_cannot_be_delivered_fail_nothing(
    history: History, empty_postgres_url: str
) -> None:
    history.add("a1", CREATE)
    result = history.invoke(
        empty_postgres_url,
        "up",
        MIGRATE_PUSHGATEWAY_URL=f"http://user:secret-word@127.0.0.1:{free_port()}",
        MIGRATE_METRICS_FILE="/nowhere/tidegate.prom",
    )
    assert result.code == 0
    assert {event["way"] for event in named(result.events, "metrics_failed")} == {"file", "push"}
    assert "secret-word" not in result.errors + result.output


def test_history_of_the_catalog_can_be_taken_back_and_applied_again(
    empty_url: str, engine: Engine
) -> None:
    migrate(empty_url)
    runner = make_runner(DatabaseSettings(url=empty_url))
    assert runner.down("base") == [*runner.revisions.known][::-1]
    assert "products" not in inspect(engine).get_table_names()
    runner.up()
    assert inspect(engine).has_table("products")


def test_terminal_is_told_of_each_revision_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'database.db'}"
    screen, terminal = pty.openpty()
    with os.fdopen(screen, "rb", buffering=0) as shown, os.fdopen(terminal, "wb") as drawn:
        subprocess.run(
            [PYTHON, "-m", "service", "migrate", "up"],
            env=environment({"DATABASE_URL": url, "TERM": "dumb"}),
            stdin=drawn,
            stdout=drawn,
            stderr=drawn,
            check=True,
            timeout=60,
        )
        told = shown.read(64 * 1024).decode()
    known = Revisions().known
    assert {revision: told.count(f"applied {revision} ") for revision in known} == dict.fromkeys(
        known, 1
    )
    assert "outcome" not in told

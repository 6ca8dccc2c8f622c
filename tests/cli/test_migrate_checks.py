"""The commands that prove revisions, as they are typed: what they print, and their exit codes."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.database import create_db_engine, init_db
from tests.migrator.histories import CREATE, History, finish
from tests.support.databases import worker_name
from tests.support.polling import eventually
from tests.support.postgres import fetch, temporary_role
from tests.support.revision_project import git
from tests.support.server import PYTHON

ROLE = f"checks_{worker_name()}"


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "versions")


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'database.db'}"


def test_two_heads_exit_31(history: History, url: str) -> None:
    history.add("first")
    history.add("second")
    history.add("third", down="first")
    done = history.command(url, "verify")
    assert done.code == 31
    assert "2 heads (second, third)" in done.output
    for command in ("check", "roundtrip", "baseline"):
        done = history.command(url, command, "--json")
        assert (done.code, done.json["exit_code"]) == (31, 31)
        assert "2 heads" in done.json["error"]


def test_findings_of_lint_exit_30_in_each_format(history: History, url: str) -> None:
    path = history.add("first", "op.drop_table('things')")
    line = path.read_text().splitlines().index("    op.drop_table('things')") + 1
    done = history.command(url, "lint")
    assert done.code == 30
    assert done.output.startswith(f"{path.name}:{line}: contract-drop-table: ")
    done = history.command(url, "lint", "--format", "github")
    assert done.code == 30
    assert done.output.startswith(f"::error file={path.name},line={line},title=contract-drop-table")
    done = history.command(url, "lint", "--format", "gitlab", "--output", "report.json")
    report = json.loads((history.directory / "report.json").read_text())
    assert json.loads(done.output) == report
    assert report[0]["check_name"] == "contract-drop-table"
    done = history.command(url, "lint", "--json")
    assert (done.code, done.json["exit_code"]) == (30, 30)
    assert done.json["findings"][0]["line"] == line
    # On what is released it says nothing.
    for words in (["init"], ["add", "."], ["commit", "-m", "released"]):
        git(history.directory, *words)
    assert history.command(url, "lint", "--since", "HEAD").code == 0
    planned = history.command(url, "plan", "--dialect", "postgresql", "--since", "HEAD", "--json")
    assert planned.json["revisions"] == []
    path.write_text(path.read_text() + "# more\n")
    assert history.command(url, "verify", "--since", "HEAD").code == 34


def test_drift_exits_32_with_a_line_for_each_difference(history: History, url: str) -> None:
    history.add("first", CREATE, downgrade="op.drop_table('things')")
    done = history.command(url, "check", "--json")
    assert (done.code, done.json["exit_code"]) == (32, 32)
    assert done.json["differences"] == [
        "table idempotency_keys: only in the models",
        "table products: only in the models",
        "table things: only in the revisions",
    ]
    assert history.command(url, "check").code == 32


def test_database_that_somebody_changed_exits_32(history: History, url: str) -> None:
    history.add("first", CREATE)
    assert history.command(url, "up").code == 0
    assert history.command(url, "check", "--database").code == 0
    engine = create_db_engine(url, pool_name="test")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE INDEX by_hand ON things (id)")
    engine.dispose()
    done = history.command(url, "check", "--database")
    assert done.code == 32
    assert "by_hand" in done.output


def test_round_trip_that_loses_something_exits_33(history: History, url: str) -> None:
    history.add("first", CREATE, downgrade="op.drop_table('things')")
    history.add("second", "op.create_index('i', 'things', ['id'])")
    done = history.command(url, "roundtrip", "--json")
    assert (done.code, done.json["exit_code"]) == (33, 33)
    first, second = done.json["revisions"]
    assert (first["outcome"], first["problems"]) == ("returned", [])
    assert second["outcome"] == "failed"
    assert "index things.i: only in the schema after up and down" in second["problems"][0]
    assert [event["revision"] for event in done.events] == ["first", "second"]
    assert history.command(url, "roundtrip").code == 33


def test_baseline_exits_32_while_the_database_differs(history: History, url: str) -> None:
    engine = create_db_engine(url, pool_name="test")
    init_db(engine)
    engine.dispose()
    history.add("first", CREATE)
    done = history.command(url, "baseline")
    assert done.code == 32
    assert "products" in done.output
    assert history.command(url, "status").code == 20


def test_scratch_url_that_is_none_exits_2_and_is_not_shown(history: History, url: str) -> None:
    history.add("first")
    for words, variables in (
        (["--scratch-url", "oracle://scott:tiger@h/x"], {}),
        ([], {"MIGRATE_SCRATCH_URL": "oracle://scott:tiger@h/x"}),
    ):
        done = history.command(url, "check", *words, **variables)
        assert done.code == 2
        assert "MIGRATE_SCRATCH_URL" in done.errors
        assert "tiger" not in done.output + done.errors


@pytest.fixture
def own_role_url(postgres_url: str) -> Iterator[str]:
    """The URL of a role that makes databases, so that they can be told from all others."""
    with temporary_role(postgres_url, ROLE, "CREATEDB") as url:
        yield url


def test_sigterm_drops_the_scratch_database(
    history: History, postgres_url: str, own_role_url: str
) -> None:
    # It is not done before the signal comes, on a machine that is busy either.
    for number in range(6):
        history.add(f"r{number}", "op.execute('SELECT pg_sleep(1)')")
    owned = (
        "SELECT count(*) FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba"  # noqa: S608 - nobody's input
        f" WHERE r.rolname = '{ROLE}'"
    )
    process = history.start(own_role_url, "roundtrip")
    eventually(lambda: fetch(postgres_url, owned) == [(1,)], within=60)
    process.terminate()
    done = finish(process)
    assert done.code == 143
    assert fetch(postgres_url, owned) == [(0,)]


def test_who_serves_and_who_probes_load_nothing_of_it() -> None:
    program = """
import sys, service.cli.main
assert not {"alembic", "sqlalchemy"} & {*sys.modules}, "the command line"
import service.app
parts = {"catalog", "check", "rows", "roundtrip", "scratch", "baseline", "verify", "lint.linter"}
loaded = parts & {name.removeprefix("service.migrator.") for name in sys.modules}
assert not loaded, loaded
"""
    subprocess.run([PYTHON, "-c", program], check=True)

"""What a database remembers: edited files, older releases, databases without a history."""

from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import Engine, inspect, text

from service.database import create_db_engine, metadata
from service.migrator.errors import AheadError, ChecksumError, MigrationError
from service.migrator.events import Event
from service.migrator.history import BOOKKEEPING_TABLES, HISTORY_TABLE, read_history
from service.migrator.phases import Phase
from service.migrator.revisions import Revisions
from service.migrator.schema_status import SchemaState
from service.migrator.waiting import wait_until_compatible
from tests.migrator.histories import ADD, CREATE, History, named
from tests.support.databases import migrate, worker_name
from tests.support.polling import eventually
from tests.support.postgres import execute, temporary_role
from tests.support.scraping import scraped
from tests.support.server import running_service


def remembered(engine: Engine) -> dict[str, Any]:
    with engine.connect() as connection:
        return read_history(connection) or {}


def test_history_keeps_revision_checksum_phase_and_duration(
    history: History, empty_url: str, engine: Engine
) -> None:
    history.add("a1", CREATE)
    history.add("a2", "time.sleep(0.1)", phase="contract")
    history.runner(empty_url).up()
    found = remembered(engine)
    assert [*found] == ["a1", "a2"]
    assert (found["a1"].phase, found["a2"].phase) == (Phase.EXPAND, Phase.CONTRACT)
    assert found["a1"].checksum != found["a2"].checksum
    assert len(found["a1"].checksum) == 64
    assert 0.1 < found["a2"].duration_seconds < 10
    assert found["a1"].applied_at <= found["a2"].applied_at
    assert HISTORY_TABLE not in metadata.tables


def test_revision_that_fails_is_not_remembered(
    history: History, empty_url: str, engine: Engine
) -> None:
    history.add("a1", CREATE)
    history.add("a2", f'{ADD}\nop.drop_table("not_there")')
    with pytest.raises(MigrationError, match="not_there") as failed:
        history.runner(empty_url).up()
    assert int(failed.value.exit_code) == 40
    assert [*remembered(engine)] == ["a1"]
    columns = [column["name"] for column in inspect(engine).get_columns("things")]
    # MariaDB commits at each DDL statement; then the error has to say so.
    is_kept = engine.dialect.name == "mariadb"
    assert ("size" in columns) is is_kept
    assert ("undo that by hand" in str(failed.value)) is is_kept


def test_revision_that_is_wrong_in_any_way_is_40(
    history: History, empty_url: str, engine: Engine
) -> None:
    history.add("a1", CREATE, downgrade="raise NotImplementedError")
    path = history.add("a2", f'{ADD}\n{{}}["secret"]')
    result = history.invoke(empty_url, "up", "--json")
    assert (result.code, result.json["exit_code"]) == (40, 40)
    assert result.json["error"].startswith("a2 failed: KeyError: 'secret'")
    assert [*remembered(engine)] == ["a1"]
    columns = [column["name"] for column in inspect(engine).get_columns("things")]
    assert ("size" in columns) is (engine.dialect.name == "mariadb")
    # Of its own, and not of the connection, which would be 11, and tried again by a Job.
    path.write_text(path.read_text().replace(ADD, "").replace('{}["secret"]', 'open("/nowhere")'))
    result = history.invoke(empty_url, "up", "--json")
    assert result.code == 40
    assert result.json["error"].startswith("a2 failed: FileNotFoundError")
    path.write_text(path.read_text().replace('open("/nowhere")', "pass"))
    assert history.invoke(empty_url, "up").code == 0
    down = history.invoke(empty_url, "down", "--yes", "--json", "base")
    assert down.code == 40
    assert down.json["error"].startswith("a1 failed: NotImplementedError")


def test_edited_file_of_an_applied_revision_is_34(history: History, empty_url: str) -> None:
    history.add("a1", CREATE)
    path = history.add("a2", ADD)
    history.runner(empty_url).up()
    # What a checkout does to the ends of lines is no edit.
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert history.runner(empty_url).up().state is SchemaState.CURRENT
    path.write_text(path.read_text().replace("sa.Integer", "sa.String(9)"))
    history.add("a3")
    result = history.invoke(empty_url, "up", "--json")
    assert result.code == 34
    assert path.name in result.json["error"]
    assert result.json["exit_code"] == 34
    with pytest.raises(ChecksumError):
        history.runner(empty_url).up()
    # Nobody's mistake may lock everybody out for good.
    history.runner(empty_url).up(accepted=["a2"])
    assert history.runner(empty_url).up().state is SchemaState.CURRENT


def test_database_without_a_history_gets_one(
    history: History, empty_url: str, engine: Engine
) -> None:
    history.add("a1", CREATE)
    history.add("a2", ADD)
    history.runner(empty_url).up()
    with engine.begin() as connection:
        connection.execute(text(f"DROP TABLE {HISTORY_TABLE}"))
    told: list[Event] = []
    # It is at the head already, and the next runner notes what it has.
    assert history.runner(empty_url, told=told).up().state is SchemaState.CURRENT
    assert named(told, "history_adopted")[0]["revisions"] == ["a1", "a2"]
    found = remembered(engine)
    assert [*found] == ["a1", "a2"]
    assert found["a1"].applied_at is None
    # Only what is missing.
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM migration_history WHERE revision = 'a1'"))
    history.add("a3", phase="contract")
    history.runner(empty_url).up()
    assert [*remembered(engine)] == ["a1", "a2", "a3"]


def older(history: History, tmp_path: Path, revisions: int) -> History:
    """A release that has only the first ones."""
    release = History(tmp_path / "older")
    for path in sorted(history.directory.glob("*.py"))[:revisions]:
        (release.directory / path.name).write_bytes(path.read_bytes())
    return release


def test_older_release_works_with_a_database_that_is_ahead_by_expansions(
    history: History, empty_url: str, tmp_path: Path
) -> None:
    history.add("a1", CREATE)
    history.add("a2", ADD)
    history.runner(empty_url).up()
    release = older(history, tmp_path, 1)
    assert release.invoke(empty_url, "up").code == 0
    assert release.invoke(empty_url, "wait", "--timeout", "0").code == 0
    status = release.invoke(empty_url, "status", "--json")
    assert (status.code, status.json["state"], status.json["is_compatible"]) == (0, "ahead", True)


def test_older_release_refuses_a_database_that_is_past_a_contract_with_21(
    history: History, empty_url: str, engine: Engine, tmp_path: Path
) -> None:
    history.add("a1", CREATE)
    history.add("a2", ADD)
    history.add("a3", phase="contract")
    history.add("a4")
    history.runner(empty_url).up()
    release = older(history, tmp_path, 2)
    result = release.invoke(empty_url, "up", "--json")
    assert result.code == 21
    assert "a3" in result.json["error"]
    status = release.invoke(empty_url, "status", "--json")
    assert (status.code, status.json["contracts"]) == (21, ["a3"])
    with pytest.raises(AheadError):
        wait_until_compatible(release.runner(empty_url, wait=600))
    with engine.connect() as connection:
        found = Revisions(release.directory).status(connection)
        assert not found.is_compatible
        assert found.state is SchemaState.AHEAD_PAST_CONTRACT
    # Taken back by the release that has it, the older one works again.
    history.runner(empty_url).down("a2")
    assert release.runner(empty_url).up().state is SchemaState.CURRENT


def test_older_release_keeps_serving_a_database_that_is_ahead(
    postgres_url: str, tmp_path: Path
) -> None:
    newer = History(tmp_path / "newer")
    for path in Revisions().scripts.walk_revisions():
        source = Path(path.path)
        (newer.directory / source.name).write_bytes(source.read_bytes())
    newer.names.append(Revisions().head)
    newer.add(
        "f1",
        'op.add_column("products", sa.Column("later", sa.Integer))',
        downgrade='op.drop_column("products", "later")',
    )
    variables = {
        "DATABASE_URL": postgres_url,
        "ENVIRONMENT": "production",
        # Soon, and none too old on a machine that stalls.
        "HEALTH_INTERVAL": "0.2",
        "HEALTH_TIMEOUT": "30",
    }
    with running_service(tmp_path, variables) as service:

        def is_ahead() -> bool:
            return scraped(service, "service_schema_state", state="ahead") == 1

        try:
            newer.runner(postgres_url).up()
            # It has looked since, and serves on.
            eventually(is_ahead, within=60)
            assert service.http.get("/readyz").status_code == httpx2.codes.OK
            assert service.http.get("/products").status_code == httpx2.codes.OK
            body = {"code": "ROPE", "name": "Rope", "price": "1.00"}
            assert service.http.post("/products", json=body).status_code == httpx2.codes.CREATED
        finally:
            newer.runner(postgres_url).down(Revisions().head)


def test_histories_that_diverge_are_an_error(
    history: History, empty_url: str, tmp_path: Path
) -> None:
    history.add("a1", CREATE)
    history.add("b2", ADD)
    history.runner(empty_url).up()
    release = older(history, tmp_path, 1)
    release.names.append("a1")
    release.add("c2")
    with pytest.raises(MigrationError, match="different histories"):
        release.runner(empty_url).up()
    assert release.invoke(empty_url, "status").code == 40


def test_role_of_the_service_may_read_the_history_where_it_may_read_the_version(
    history: History, empty_postgres_url: str, tmp_path: Path
) -> None:
    reader = f"reader_{worker_name()}"
    with temporary_role(empty_postgres_url, reader) as url:
        engine = create_db_engine(url, pool_name="reader")
        history.add("a1", CREATE)
        history.runner(empty_postgres_url).up()
        execute(empty_postgres_url, f"GRANT SELECT ON alembic_version TO {reader}")
        release = older(history, tmp_path, 1)
        history.add("a2", phase="contract")
        history.runner(empty_postgres_url).up()
        with engine.connect() as connection:
            found = Revisions(release.directory).status(connection)
            assert found.state is SchemaState.AHEAD_PAST_CONTRACT
        # Without the right the old pods stay: whatever it may mean, they work now.
        execute(empty_postgres_url, f"REVOKE ALL ON migration_history FROM {reader}")
        with engine.connect() as connection:
            found = Revisions(release.directory).status(connection)
            assert (found.state, found.is_phase_known) == (SchemaState.AHEAD, False)
            assert found.is_compatible
            # Nor has it ended the transaction that it was asked in.
            assert connection.scalar(text("SELECT 1")) == 1
        engine.dispose()


def test_role_that_may_not_read_the_version_is_no_database_that_cannot_be_reached(
    history: History, empty_postgres_url: str
) -> None:
    history.add("a1", CREATE)
    history.runner(empty_postgres_url).up()
    with temporary_role(empty_postgres_url, f"blind_{worker_name()}") as url:
        result = history.invoke(url, "status", "--json")
    assert result.code == 40
    assert "permission denied for table alembic_version" in result.json["error"]


def test_bookkeeping_is_no_difference_between_models_and_database(
    empty_url: str, engine: Engine
) -> None:
    migrate(empty_url)
    assert {*inspect(engine).get_table_names()} - BOOKKEEPING_TABLES == {*metadata.tables}

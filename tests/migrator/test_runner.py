"""`up` applies each revision once, whoever else runs; errors have codes of their own."""

import concurrent.futures
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, text
from sqlalchemy.engine import make_url

from service.database import DatabaseSettings, create_db_engine, metadata
from service.migrator import runner
from service.migrator.errors import LockBusyError, MigrationError, UnreachableError
from service.migrator.lock import LOCK_KEY, runner_lock
from service.migrator.revisions import Revisions, SchemaState
from tests.support.databases import PostgresDatabases, worker_name
from tests.support.postgres import PostgresServer, free_port
from tests.support.server import PYTHON, environment


@pytest.fixture(params=["postgresql", "sqlite"])
def empty_url(
    request: pytest.FixtureRequest, postgres: PostgresDatabases, tmp_path: Path
) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
        return
    name = f"tidegate_empty_{worker_name()}"
    yield postgres.create(name)
    postgres.drop(name)


@pytest.fixture
def engine(empty_url: str) -> Iterator[Engine]:
    engine = create_db_engine(empty_url, pool_name="test")
    yield engine
    engine.dispose()


def migrate(url: str, *, wait: float = 30) -> SchemaState:
    return runner.up(DatabaseSettings(url=url), wait=wait).state


def test_up_brings_an_empty_database_to_the_head(empty_url: str, engine: Engine) -> None:
    assert migrate(empty_url) is SchemaState.BEHIND
    assert inspect(engine).has_table("products")
    assert migrate(empty_url) is SchemaState.CURRENT


def test_status_tells_what_is_pending(empty_url: str) -> None:
    before = runner.status(DatabaseSettings(url=empty_url))
    assert (before.state, before.current) == (SchemaState.BEHIND, None)
    assert before.pending == tuple(Revisions().known)
    migrate(empty_url)
    after = runner.status(DatabaseSettings(url=empty_url))
    assert (after.state, after.current, after.pending) == (SchemaState.CURRENT, after.head, ())


# An index on an expression is PostgreSQL's alone here, and is compared there.
@pytest.mark.filterwarnings("ignore:autogenerate skipping")
def test_migrated_schema_equals_the_models(empty_url: str, engine: Engine) -> None:
    migrate(empty_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"compare_type": True, "compare_server_default": engine.name != "sqlite"},
        )
        assert compare_metadata(context, metadata) == []


def test_up_leaves_a_database_ahead_alone(empty_url: str, engine: Engine) -> None:
    migrate(empty_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'later'"))
    assert migrate(empty_url) is SchemaState.AHEAD
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == (
            "later"
        )


def test_eight_at_once_all_succeed_and_one_migrates(empty_url: str) -> None:
    def run(_: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PYTHON, "-m", "service", "migrate", "up"],
            env=environment({"DATABASE_URL": empty_url}),
            capture_output=True,
            text=True,
            check=False,
        )

    with concurrent.futures.ThreadPoolExecutor(8) as runners:
        done = [*runners.map(run, range(8))]
    assert [result.returncode for result in done] == [0] * 8, [result.stderr for result in done]
    assert sum(result.stdout.count("applied ") for result in done) == len(Revisions().known)


def test_failed_revision_is_rolled_back_whole(
    empty_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    revisions = Revisions()
    module: Any = revisions.scripts.get_revision(revisions.head).module
    upgrade = module.upgrade

    def fail() -> None:
        upgrade()
        module.op.execute("SELECT * FROM not_there")

    module.upgrade = fail
    # Alembic would load the revision's file anew, without what was changed in it here.
    monkeypatch.setattr("alembic.command.ScriptDirectory.from_config", lambda _: revisions.scripts)
    with pytest.raises(MigrationError, match="not_there") as failed:
        migrate(empty_url)
    assert failed.value.exit_code == 40
    # The revisions before it stay.
    assert inspect(engine).has_table("products")
    assert not inspect(engine).has_table("idempotency_keys")


def test_busy_lock_is_given_up_with_the_holder_named(empty_url: str, engine: Engine) -> None:
    with (
        runner_lock(engine, wait=0),
        pytest.raises(LockBusyError, match=r"process|locked") as busy,
    ):
        migrate(empty_url, wait=0.3)
    assert busy.value.exit_code == 10
    assert migrate(empty_url) is SchemaState.BEHIND


def test_lock_is_free_after_its_holder_died(postgres_url: str) -> None:
    holder = psycopg2.connect(postgres_url)
    with holder.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", (LOCK_KEY,))
    engine = create_db_engine(postgres_url, pool_name="test")
    with pytest.raises(LockBusyError), runner_lock(engine, wait=0):
        pass
    holder.close()
    with runner_lock(engine, wait=5):
        pass
    engine.dispose()


def test_database_that_does_not_answer_is_waited_for_and_then_given_up() -> None:
    told: list[str] = []
    url = f"postgresql://someone:secret-word@127.0.0.1:{free_port()}/catalog"
    with pytest.raises(UnreachableError) as failed:
        runner.up(DatabaseSettings(url=url), wait=0.6, report=told.append)
    assert failed.value.exit_code == 11
    assert len(told) == 1
    assert "secret-word" not in str(failed.value) + told[0]


def test_database_that_comes_up_late_is_waited_for() -> None:
    server = PostgresServer()

    def start(line: str) -> None:
        if line.startswith("waiting for"):
            server.start()

    try:
        settings = DatabaseSettings(url=server.url())
        assert runner.up(settings, wait=30, report=start).state is SchemaState.BEHIND
    finally:
        server.remove()


def test_missing_database_fails_at_once(postgres_url: str) -> None:
    url = make_url(postgres_url).set(database="nobody_made_it")
    with pytest.raises(UnreachableError, match="database_missing"):
        runner.up(DatabaseSettings(url=url.render_as_string(hide_password=False)), wait=600)

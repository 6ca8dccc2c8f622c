"""SIGTERM in the middle: nothing half-applied, the lock free, exit 143."""

import signal
import subprocess
import time
from pathlib import Path
from typing import Final

from sqlalchemy import Engine, inspect, text

from service.migrator.lock import runner_lock
from tests.migrator.histories import ADD, CREATE, History, Result, finish, named, read_until
from tests.support.polling import eventually

# Far less than anything here takes that nobody ends, and enough for a machine that is busy.
_SOON_SECONDS: Final = 30
# Each at least 50 s in one call of the driver's, in C. That is within the timeout of a statement:
# what the signal does not end is applied.
_SLOW: Final = """
started.touch()
op.execute({
    "postgresql": "SELECT pg_sleep(50)",
    "mariadb": "SELECT SLEEP(50)",
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000)"
              " SELECT max(i) FROM n",
}[dialect])
"""


def stopped(process: "subprocess.Popen[str]", signum: signal.Signals) -> tuple[Result, float]:
    """Stop a command; returns how it ended, and after how many seconds."""
    process.send_signal(signum)
    start = time.monotonic()
    result = finish(process)
    return result, time.monotonic() - start


def test_sigterm_ends_the_statement_that_runs(
    history: History, empty_url: str, engine: Engine, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    more = f"import pathlib\nstarted = pathlib.Path({str(started)!r})\n"
    history.add("a1", CREATE)
    history.add("a2", ADD + _SLOW, more=more)
    process = history.start(empty_url, "up")
    eventually(started.exists, within=60)
    result, seconds = stopped(process, signal.SIGTERM)
    assert result.code == 143, result.errors
    assert seconds < _SOON_SECONDS
    (summary,) = named(result.events, "summary")
    assert (summary["exit_code"], summary["revisions"]) == (143, ["a1"])
    assert "Traceback" not in result.errors
    # The lock is free, and what comes next begins where nothing is half done.
    with runner_lock(engine, wait=0) as connection:
        if engine.dialect.name != "mariadb":
            columns = [column["name"] for column in inspect(connection).get_columns("things")]
            assert columns == ["id"]
        version = connection.scalar(text("SELECT version_num FROM alembic_version"))
        assert version == "a1"


def test_signal_ends_the_wait_for_another_runner(
    history: History, empty_url: str, engine: Engine
) -> None:
    history.add("a1", CREATE)
    with runner_lock(engine, wait=0):
        process = history.start(empty_url, "up", "--wait", "600")
        read_until(process, "lock_wait")
        result, seconds = stopped(process, signal.SIGTERM)
    assert result.code == 143
    assert seconds < _SOON_SECONDS
    assert not inspect(engine).has_table("things")


def test_sigint_ends_the_wait_for_the_database(history: History) -> None:
    history.add("a1", CREATE)
    process = history.start("postgresql://nobody@127.0.0.1:1/none", "up", "--wait", "600")
    read_until(process, "database_wait")
    result, seconds = stopped(process, signal.SIGINT)
    assert result.code == 130
    assert seconds < _SOON_SECONDS

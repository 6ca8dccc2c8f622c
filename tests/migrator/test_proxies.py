"""PgBouncer in front: transaction mode is refused with the reason, session mode works."""

from typing import Final

import pytest

from service.migrator.errors import ExitCode, UsageError
from service.migrator.schema_status import SchemaState
from tests.migrator.histories import CREATE, History
from tests.support.pgbouncer import pgbouncer, require_pgbouncer

# Otherwise it refuses every client that names its timeouts at the start.
_TAKES_OPTIONS: Final = {"ignore_startup_parameters": "options,extra_float_digits"}


@pytest.fixture(autouse=True)
def _installed() -> None:
    require_pgbouncer()


@pytest.mark.parametrize("servers", ["1", "5"])
@pytest.mark.parametrize("round_robin", ["0", "1"])
def test_transaction_mode_is_refused_with_2_and_the_reason(
    history: History, empty_postgres_url: str, servers: str, round_robin: str
) -> None:
    history.add("a1", CREATE)
    with pgbouncer(
        empty_postgres_url,
        pool_mode="transaction",
        default_pool_size=servers,
        server_round_robin=round_robin,
        **_TAKES_OPTIONS,
    ) as url:
        for _ in range(3):
            with pytest.raises(UsageError, match="gives each transaction another session"):
                history.runner(url, wait=0).up()


def test_refusal_is_one_line_and_exit_code_2(history: History, empty_postgres_url: str) -> None:
    history.add("a1", CREATE)
    with pgbouncer(empty_postgres_url, pool_mode="transaction", **_TAKES_OPTIONS) as url:
        result = history.invoke(url, "up", "--json")
    assert result.code == 2
    assert result.json["exit_code"] == 2
    assert "MIGRATE_DATABASE_URL" in result.json["error"]
    assert "Traceback" not in result.errors


def test_waiting_needs_no_session_of_its_own(history: History, empty_postgres_url: str) -> None:
    history.add("a1", CREATE)
    with pgbouncer(empty_postgres_url, pool_mode="transaction", **_TAKES_OPTIONS) as url:
        assert history.invoke(url, "wait", "--timeout", "0").code == ExitCode.BEHIND
        history.runner(empty_postgres_url).up()
        assert history.invoke(url, "wait", "--timeout", "0").code == ExitCode.DONE


def test_proxy_that_takes_no_options_is_refused_at_once(
    history: History, empty_postgres_url: str
) -> None:
    history.add("a1", CREATE)
    with (
        pgbouncer(empty_postgres_url, pool_mode="session") as url,
        pytest.raises(UsageError, match="refuses the session's timeouts"),
    ):
        history.runner(url, wait=600).up()


def test_session_mode_works(history: History, empty_postgres_url: str) -> None:
    history.add("a1", CREATE)
    with pgbouncer(empty_postgres_url, pool_mode="session", **_TAKES_OPTIONS) as url:
        assert history.runner(url).up().state is SchemaState.BEHIND
        assert history.runner(url).up().state is SchemaState.CURRENT


def test_session_mode_with_too_few_sessions_is_refused(
    history: History, empty_postgres_url: str
) -> None:
    history.add("a1", CREATE)
    with (
        pgbouncer(
            empty_postgres_url, pool_mode="session", default_pool_size="1", **_TAKES_OPTIONS
        ) as url,
        pytest.raises(UsageError, match="no second session"),
    ):
        history.runner(url, wait=600).up()

"""The start: it waits for what it needs, says so once, and is done for good."""

import asyncio

from sqlalchemy import make_url

from service.database import create_db_engine, pool_snapshot
from service.database.settings import DatabaseSettings
from service.web.health_monitor import HealthMonitor
from service.web.health_state import PASSED, Outcome, Status
from service.web.startup import Startup
from tests.support.polling import until
from tests.support.postgres import execute
from tests.web.conftest import LogLines

ROLE = "startup_role"


def test_the_pool_is_warmed_up_when_the_database_has_room(
    postgres_url: str, log_lines: LogLines
) -> None:
    execute(postgres_url, f"CREATE ROLE {ROLE} LOGIN PASSWORD 'own' CONNECTION LIMIT 1")
    own = make_url(postgres_url).set(username=ROLE, password="own")
    url = own.render_as_string(hide_password=False)
    engine = create_db_engine(
        settings=DatabaseSettings(url=url, pool_min_idle=3), pool_name="starting"
    )
    schema = Outcome(Status.FAIL, "behind")

    async def check() -> Outcome:
        return schema

    async def scenario() -> None:
        nonlocal schema
        monitor = HealthMonitor(
            interval=0.02, timeout=0.5, failure_threshold=1, success_threshold=1
        )
        monitor.register("schema", check)
        startup = Startup(monitor, engine, retry=0.02)
        async with monitor.running():
            task = asyncio.create_task(startup.run())
            await asyncio.sleep(0.1)
            assert startup.outcome.reason == "waiting"
            assert pool_snapshot(engine).idle == 0, "nothing is opened before the schema is there"
            schema = PASSED
            await until(lambda: startup.outcome.reason == "warming_up")
            await asyncio.sleep(0.2)
            assert startup.outcome.reason == "warming_up"
            execute(postgres_url, f"ALTER ROLE {ROLE} CONNECTION LIMIT 5")
            await until(lambda: startup.outcome.reason == "")
            await task
            assert pool_snapshot(engine).idle >= 3
            schema = Outcome(Status.FAIL, "behind")
            await asyncio.sleep(0.1)
            assert startup.outcome is PASSED

    try:
        asyncio.run(scenario())
        (line,) = [line for line in log_lines() if "not warmed up" in line["message"]]
        assert line["reason"] == "too_many_connections"
    finally:
        engine.dispose()
        execute(postgres_url, f"DROP ROLE {ROLE}")

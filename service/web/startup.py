"""What has to come about once before requests are served."""

import asyncio
from typing import Final

import structlog
from sqlalchemy import Engine

from service.database.failures import failure_reason
from service.database.pool import MeteredQueuePool
from service.web.health_monitor import HealthMonitor
from service.web.health_state import PASSED, Outcome, Status

_WAITING: Final = Outcome(Status.FAIL, "waiting", "see the checks that fail")
_WARMING_UP: Final = Outcome(
    Status.FAIL, "warming_up", "the pool opens DATABASE_POOL_MIN_IDLE connections: see the log"
)

log = structlog.stdlib.get_logger(__name__)


class Startup:
    """Waits for the database and its schema, and warms the pool up.

    It is done in the background: meanwhile the process answers its probes, and says no.

    Args:
        monitor: Who knows of the database.
        engine: Whose pool.
        retry: Seconds from an attempt to warm up that failed to the next.
    """

    def __init__(self, monitor: HealthMonitor, engine: Engine, *, retry: float) -> None:
        self.outcome = _WAITING
        self._monitor = monitor
        self._engine = engine
        self._retry = retry

    async def run(self) -> None:
        """Return once all is done; from then on it stays so."""
        await self._monitor.wait_until_served("database", "schema")
        self.outcome = _WARMING_UP
        told = ""
        while error := await asyncio.to_thread(self._warm_up):
            reason = failure_reason(error)
            if reason != told:
                log.warning("the pool is not warmed up yet", reason=reason, detail=str(error))
            told = reason
            await asyncio.sleep(self._retry)
        self.outcome = PASSED

    def _warm_up(self) -> Exception | None:
        """Open the connections that the pool should always have, before requests come for them."""
        pool = self._engine.pool
        try:
            if isinstance(pool, MeteredQueuePool):
                pool.warm_up()
        except Exception as error:  # noqa: BLE001 - whatever the driver raises
            return error
        return None

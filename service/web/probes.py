"""`/livez`, `/readyz` and `/version`: answered from memory, whatever the database does.

A monitor asks the database in the background; a probe only reads its last result. So a storm of
probes costs no query, and a database that hangs delays no probe.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from prometheus_client import Gauge

from service.settings import Settings

# Draft "Health Check Response Format for HTTP APIs" (draft-inadarei-api-health-check-06).
MEDIA_TYPE: Final = "application/health+json"
_HEADERS: Final = {"Cache-Control": "no-store"}

# Of several workers, the worst counts.
CHECK_STATUS = Gauge(
    "service_health_check_status",
    "Whether the check passes (1) or fails (0).",
    ["check"],
    multiprocess_mode="livemin",
)
CHECK_DURATION = Gauge(
    "service_health_check_duration_seconds",
    "How long the last check took.",
    ["check"],
    multiprocess_mode="livemax",
)

log = structlog.stdlib.get_logger(__name__)

router = APIRouter(tags=["operation"])

Check = Callable[[], Awaitable[str | None]]


class HealthMonitor:
    """Runs checks in the background and remembers how they ended.

    Args:
        checks: By name, what tells the reason of a failure as one word, or None. Each ends by
            itself within `timeout`.
        interval: Seconds between the end of one round and the start of the next.
        timeout: Seconds that a round may take; a result older than both together is a failure.
    """

    def __init__(self, checks: Mapping[str, Check], *, interval: float, timeout: float) -> None:
        self._checks = dict(checks)
        self._interval = interval
        self._timeout = timeout
        self._reasons: dict[str, str | None] = dict.fromkeys(checks, "starting")
        self._finished = time.monotonic()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Check for as long as the context is open; a check that runs may end in its time."""
        stop = asyncio.Event()
        task = asyncio.create_task(self._run(stop), name="health-monitor")
        try:
            yield
        finally:
            stop.set()
            await asyncio.wait({task}, timeout=self._timeout)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def failures(self) -> dict[str, str]:
        """The checks that fail now, with the reason of each."""
        if time.monotonic() - self._finished > self._interval + 2 * self._timeout:
            return dict.fromkeys(self._checks, "overdue")
        return {name: reason for name, reason in self._reasons.items() if reason is not None}

    def names(self) -> tuple[str, ...]:
        """The names of the checks."""
        return tuple(self._checks)

    async def _run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            for name, check in self._checks.items():
                if not stop.is_set():
                    await self._run_one(name, check)
            self._finished = time.monotonic()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), self._interval)

    async def _run_one(self, name: str, check: Check) -> None:
        start = time.perf_counter()
        try:
            reason = await check()
        except Exception:
            log.exception("health check broke", check=name)
            reason = "error"
        CHECK_STATUS.labels(name).set(reason is None)
        CHECK_DURATION.labels(name).set(time.perf_counter() - start)
        if reason != self._reasons[name]:
            log.log(
                20 if reason is None else 30,
                "health check changed",
                check=name,
                status="fail" if reason else "pass",
                reason=reason,
            )
        self._reasons[name] = reason


def _answer(monitor: HealthMonitor, *, failing_status: int) -> JSONResponse:
    failures = monitor.failures()
    checks: dict[str, list[dict[str, Any]]] = {
        name: [{"status": "fail" if name in failures else "pass"}] for name in monitor.names()
    }
    body = {"status": "fail" if failures and failing_status != 200 else "pass", "checks": checks}  # noqa: PLR2004 - HTTP's OK
    return JSONResponse(
        body,
        status_code=failing_status if failures else 200,
        headers=_HEADERS,
        media_type=MEDIA_TYPE,
    )


@router.get("/livez", summary="Is the process alive?")
async def livez(request: Request) -> JSONResponse:
    """Answer 200 while the process can answer; the database is reported and changes nothing.

    Kubernetes restarts what is not live, and a restart mends no database.
    """
    return _answer(request.app.state.health, failing_status=200)


@router.get("/readyz", summary="Can the process serve requests?")
async def readyz(request: Request) -> JSONResponse:
    """Answer 503 while the database is unreachable or its schema behind."""
    return _answer(request.app.state.health, failing_status=503)


@router.get("/version", summary="What runs?")
async def version(request: Request) -> dict[str, str]:
    """Tell the name and version of the service."""
    settings: Settings = request.app.state.settings
    return {"name": settings.app_name, "version": settings.app_version}

"""What the ops page shows: the reports of all workers, and what is wrong with them."""

import asyncio
import platform
import time
from collections.abc import Mapping
from typing import Any, Final

from service.settings import Settings
from service.web.control_client import ask_workers
from service.web.control_commands import ControlCommands
from service.web.control_directory import ControlError
from service.web.ops_findings import findings

# How long a worker may take to answer; its control thread needs milliseconds.
ANSWER_SECONDS: Final = 1.0
# However many look at the page, no worker asks the others more often.
_FRESH_SECONDS: Final = 0.5
_REQUEST: Final = {"command": "show", "stacks": True, "history": True}


class OpsData:
    """Asks the workers for those who look at the page; touches no pool and no admission.

    Args:
        settings: How the service runs.
        own: The report of this worker, for where there is no channel to the others.
    """

    def __init__(self, settings: Settings, own: ControlCommands) -> None:
        self._settings = settings
        self._own = own
        self._lock = asyncio.Lock()
        self._latest: Mapping[str, Any] = {}
        self._latest_at = float("-inf")

    async def latest(self) -> Mapping[str, Any]:
        """The data of the page, as it was not long ago."""
        async with self._lock:
            if time.monotonic() - self._latest_at > _FRESH_SECONDS:
                self._latest = await self._ask()
                self._latest_at = time.monotonic()
            return self._latest

    async def _ask(self) -> Mapping[str, Any]:
        # In a thread, for it waits for the slowest worker, which may be stopped.
        workers = await asyncio.to_thread(self._reports)
        settings = self._settings
        found = findings(workers, settings.web_concurrency)
        return {
            "time": round(time.time(), 3),
            "name": settings.app_name,
            "version": settings.app_version,
            "python": platform.python_version(),
            "environment": settings.environment,
            "status": found[0]["status"] if found else "pass",
            "findings": found,
            "workers": workers,
        }

    def _reports(self) -> list[dict[str, Any]]:
        try:
            replies = ask_workers(_REQUEST, port=self._settings.port, timeout=ANSWER_SECONDS)
        except ControlError:
            return [{**self._own.answer(_REQUEST), "problem": ""}]
        return [
            {**reply.answer, "slot": reply.slot, "pid": reply.pid, "problem": reply.problem}
            for reply in replies
        ]

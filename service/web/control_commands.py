"""What a worker answers its operator: how it is, and what was done to its pools.

Requests, with `pool` the name of one:
`{"command": "show", "stacks": true, "history": true}`, `{"command": "suspend", "pool": …}`,
`{"command": "resume", "pool": …}`, `{"command": "evict", "pool": …}` and
`{"command": "resize", "pool": …, "size": 5, "max_overflow": 0}`, where each number may be left out.
The answer to all of them is a report of the worker as it is then.
"""

import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from service.database import HolderSnapshot, PoolSnapshot, pool_snapshots
from service.settings import Settings
from service.web.control_directory import ControlError
from service.web.health_checks import KnownSchema
from service.web.health_state import CheckState, Known
from service.web.ops_history import PoolHistories
from service.web.pool_operations import PoolOperations
from service.web.streaming import StreamSessions
from service.web.unit_of_work import UnitOfWork
from service.web.worker_slots import own_slot

# An event loop that does not turn to something new within this time is called blocked.
_LOOP_PATIENCE: Final = 0.25
_Request = Mapping[str, Any]


class ControlCommands:
    """Answers the requests of the control channel.

    Args:
        settings: How the service runs.
        operations: What can be done to the pools.
        checks: Tells what holds of each health check, as probes do.
        schema: Where the database's schema stands.
        gates: What requests and streams are admitted to.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        operations: PoolOperations,
        checks: Callable[[], Mapping[str, Known]],
        schema: KnownSchema,
        gates: tuple[UnitOfWork | StreamSessions, ...],
    ) -> None:
        self._settings = settings
        self._operations = operations
        self._checks = checks
        self._schema = schema
        self._gates = gates
        self._histories = PoolHistories()
        self._started = datetime.now(UTC)
        self._started_at = time.monotonic()

    def answer(self, request: _Request) -> Mapping[str, Any]:
        """Do what a request says, and report.

        Raises:
            ControlError: It cannot be done; the text says what to change.
        """
        match request.get("command"):
            case "show":
                pass
            case "suspend":
                self._operations.suspend(_pool(request))
            case "resume":
                self._operations.resume(_pool(request))
            case "evict":
                self._operations.evict(_pool(request))
            case "resize":
                size, overflow = _count(request, "size"), _count(request, "max_overflow")
                self._operations.resize(_pool(request), size, overflow)
            case unknown:
                raise ControlError(f"{unknown}: there is no such command")
        return self.report(
            stacks=request.get("stacks") is True, history=request.get("history") is True
        )

    def report(self, *, stacks: bool = True, history: bool = False) -> dict[str, Any]:
        """How the worker is; ages and durations are in seconds.

        Args:
            stacks: Whether to tell the code that took each connection.
            history: Whether to tell what each pool was like in the last minutes.
        """
        # None when it is blocked. It may take its time, so it comes before the uptime: by that and
        # a holder's age the page knows a holder again.
        loop_delay = _rounded(self._operations.loop_delay(_LOOP_PATIENCE))
        uptime = time.monotonic() - self._started_at
        pools = pool_snapshots(stacks=stacks)
        return {
            "slot": own_slot(),
            "pid": os.getpid(),
            "version": self._settings.app_version,
            "started_at": self._started.isoformat(timespec="seconds"),
            "uptime": round(uptime, 3),
            "loop_delay": loop_delay,
            "pools": [self._pool_and_past(pool, history=history) for pool in pools],
            "admission": [asdict(gate.admission.snapshot()) for gate in self._gates],
            "checks": [_check_report(name, known) for name, known in self._checks().items()],
            "schema": self._schema_report(),
        }

    def _pool_and_past(self, pool: PoolSnapshot, *, history: bool) -> dict[str, Any]:
        past = {"history": self._histories.report(pool.pool_name)} if history else {}
        return {**_pool_report(pool), **past}

    def _schema_report(self) -> dict[str, Any] | None:
        status = self._schema.latest
        if status is None:
            return None
        return {
            "current": status.current,
            "head": status.head,
            "state": str(status.state),
            "is_compatible": status.is_compatible,
        }


def _pool(request: _Request) -> str:
    name = request.get("pool")
    if not isinstance(name, str):
        raise ControlError("pool: give the name of one")
    return name


def _count(request: _Request, name: str) -> int | None:
    value = request.get(name)
    if value is not None and type(value) is not int:
        raise ControlError(f"{name}: give a whole number")
    return value


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _pool_report(pool: PoolSnapshot) -> dict[str, Any]:
    return {
        **asdict(pool),
        "oldest_wait": _rounded(pool.oldest_wait),
        "holders": [_holder_report(holder) for holder in pool.holders],
        "waiters": [
            {"age": _rounded(waiter.age), "route": waiter.route} for waiter in pool.waiters
        ],
    }


def _holder_report(holder: HolderSnapshot) -> dict[str, Any]:
    return {
        "age": _rounded(holder.age),
        "route": holder.route,
        "is_leaked": holder.is_leaked,
        "stack": [_shortened(line) for line in holder.stack],
    }


def _shortened(line: str) -> str:
    """Without the directory that the module was imported from."""
    roots = [f"{root}{os.sep}" for root in sys.path if root and line.startswith(f"{root}{os.sep}")]
    return line.removeprefix(max(roots, key=len)) if roots else line


def _check_report(name: str, known: Known) -> dict[str, Any]:
    if isinstance(known, CheckState):
        outcome, age, duration = known.outcome, known.age, known.duration
    else:
        outcome, age, duration = known, 0.0, 0.0
    return {
        "check": name,
        "status": str(outcome.status),
        "reason": outcome.reason,
        "advice": outcome.advice,
        "age": _rounded(age),
        "duration": _rounded(duration),
    }

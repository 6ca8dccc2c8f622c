"""What the ops page calls wrong, and in which order."""

from typing import Any

from service.web.ops_findings import findings

POOL: dict[str, Any] = {
    "pool_name": "primary", "is_suspended": False, "waiters": [], "holders": [],
}  # fmt: skip
GATE: dict[str, Any] = {"gate": "requests", "queued": 0, "queue": 2}


def worker(slot: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "slot": slot,
        "problem": "",
        "version": "1.0",
        "loop_delay": 0.001,
        "pools": [POOL],
        "admission": [GATE, {"gate": "streams", "queued": 0, "queue": 0}],
        "checks": [{"check": "database", "status": "pass", "reason": "", "advice": ""}],
        **changes,
    }


def told(*workers: dict[str, Any], expected: int | None = None) -> list[tuple[str, str, list[int]]]:
    found = findings(workers, len(workers) if expected is None else expected)
    return [(one["status"], one["what"], one["workers"]) for one in found]


def check(name: str, status: str, reason: str) -> dict[str, Any]:
    return {"check": name, "status": status, "reason": reason, "advice": "do something"}


def test_all_is_well() -> None:
    assert told(worker(0), worker(1)) == []


def test_each_thing_is_told_once_with_its_workers_and_the_worst_first() -> None:
    down = check("database", "fail", "connection_lost")
    full = check("pool", "warn", "saturated")
    silent = {"slot": 2, "problem": "no answer within 1 s"}
    assert told(worker(0, checks=[full]), worker(1, checks=[full, down]), silent) == [
        ("fail", "database: connection_lost", [1]),
        ("fail", "a worker does not answer", [2]),
        ("warn", "pool: saturated", [0, 1]),
    ]


def test_the_state_of_a_pool_is_told() -> None:
    waiting = {**POOL, "waiters": [{"age": 1.0, "route": "/products"}]}
    leaking = {**POOL, "holders": [{"is_leaked": True}, {"is_leaked": False}]}
    assert told(worker(pools=[{**waiting, "is_suspended": True}])) == [
        ("warn", "pool primary is suspended", [0])
    ]
    assert told(worker(pools=[waiting])) == [
        ("warn", "requests wait for a connection of pool primary", [0])
    ]
    assert told(worker(pools=[leaking])) == [
        ("warn", "pool primary misses a connection: taken for leaked", [0])
    ]


def test_a_full_queue_is_worse_than_a_queue() -> None:
    assert told(worker(admission=[{**GATE, "queued": 1}])) == [
        ("warn", "requests queue to be admitted", [0])
    ]
    assert told(worker(admission=[{**GATE, "queued": 2}])) == [
        ("fail", "requests are turned away: the queue is full", [0])
    ]


def test_a_blocked_loop_and_missing_workers_are_told() -> None:
    assert told(worker(loop_delay=None)) == [("fail", "the event loop is blocked", [0])]
    assert told(worker(), expected=2) == [("warn", "1 of 2 workers run", [])]
    assert told(worker(0), worker(1, version="1.1")) == [
        ("warn", "the workers run several versions", [])
    ]

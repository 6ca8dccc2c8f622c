"""When what a check says becomes what is held of it: thresholds, age, and one line a change."""

from types import SimpleNamespace

import pytest
from prometheus_client import REGISTRY

from service.web import health_state
from service.web.health_state import PASSED, CheckState, Outcome, Status
from tests.web.conftest import LogLines

FAILED = Outcome(Status.FAIL, "connection_lost", "start it", "could not\n connect")
WARNED = Outcome(Status.WARN, "saturated")


def state(*outcomes: Outcome, failures: int = 2, successes: int = 2) -> CheckState:
    made = CheckState("test", failure_threshold=failures, success_threshold=successes, patience=60)
    for outcome in outcomes:
        made.record(outcome, 0.1)
    return made


def metric(name: str) -> float | None:
    return REGISTRY.get_sample_value(f"service_health_check_{name}", {"check": "test"})


@pytest.mark.parametrize("first", [PASSED, WARNED, FAILED])
def test_the_first_outcome_counts_at_once(first: Outcome) -> None:
    assert state().outcome.status is Status.FAIL
    assert state(first).outcome is first


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([PASSED, FAILED], PASSED),
        ([PASSED, FAILED, PASSED, FAILED, PASSED, FAILED], PASSED),
        ([PASSED, FAILED, FAILED], FAILED),
        ([FAILED, PASSED], FAILED),
        ([FAILED, PASSED, FAILED, PASSED], FAILED),
        ([FAILED, PASSED, PASSED], PASSED),
        ([PASSED, WARNED, FAILED], WARNED),
        ([PASSED, FAILED, WARNED], WARNED),
        ([PASSED, WARNED, FAILED, FAILED], FAILED),
        ([FAILED, WARNED, PASSED], WARNED),
        ([FAILED, FAILED, PASSED, FAILED, PASSED, PASSED], PASSED),
    ],
)
def test_a_verdict_changes_when_it_was_heard_twice(
    outcomes: list[Outcome], expected: Outcome
) -> None:
    held = state(*outcomes)
    assert held.outcome is expected
    assert metric("status") == {PASSED: 1, WARNED: 0.5, FAILED: 0}[expected]


def test_thresholds_are_counted_in_their_own_direction() -> None:
    held = state(PASSED, failures=3, successes=1)
    assert [held.record(FAILED, 0) for _ in range(3)] == [False, False, True]
    assert held.outcome is FAILED
    assert held.record(PASSED, 0)
    assert held.outcome is PASSED


def test_an_outcome_that_is_too_old_is_a_failure_and_told_once(
    log_lines: LogLines, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(health_state, "time", SimpleNamespace(monotonic=lambda: now))
    held = CheckState("test", failure_threshold=2, success_threshold=2, patience=60)
    held.record(PASSED, 0)
    now = 60.0
    assert held.outcome is PASSED
    now = 60.1
    assert held.outcome.reason == "overdue"
    held.look_at_time()
    held.look_at_time()
    assert metric("status") == 0
    assert metric("age_seconds") == held.age == now
    held.record(PASSED, 0)
    assert held.outcome is PASSED
    assert metric("status") == 1
    assert [line["status"] for line in log_lines()] == ["pass", "fail", "pass"]


def test_each_change_is_one_line_however_often_it_is_heard(log_lines: LogLines) -> None:
    hung = Outcome(Status.FAIL, "timeout")
    state(PASSED, PASSED, *[FAILED, hung] * 5, PASSED, PASSED, FAILED, FAILED, FAILED)
    told = [(line["status"], line.get("reason", "")) for line in log_lines()]
    assert told == [
        ("pass", ""),
        ("fail", "timeout"),
        ("fail", "connection_lost"),
        ("pass", ""),
        ("fail", "connection_lost"),
    ]
    last = log_lines()[-1]
    assert (last["check"], last["level"]) == ("test", "warning")
    assert (last["advice"], last["detail"]) == ("start it", "could not connect")

"""The bounds of the faults' program hold on short faults, and it tells when one does not."""

from dataclasses import replace

import pytest

from tests.faults.experiment import run
from tests.faults.faults import CutOff, Fault, FewConnections, Hung, Restarted
from tests.faults.observer import LIVENESS, READINESS, Said
from tests.faults.outcome import Outcome, Times
from tests.faults.report import Skipped, page
from tests.load.client import Answer

# The tests share the machine with each other: one that stalls for seconds breaks no bound.
SHORT = Times(before=0.5, fault=8.0, after=8.0, interval=0.5, timeout=1.0, deadline=1.0, slack=4.0)
TIMES = Times()
ALIVE = Said(LIVENESS, 0.0, 0.01, "200")


@pytest.mark.parametrize("fault", [Hung(), CutOff()], ids=lambda fault: fault.name)
def test_probes_and_requests_keep_their_bounds(fault: Fault) -> None:
    if reason := fault.missing():
        pytest.skip(reason)
    outcome = run(fault, SHORT)
    assert outcome.missed() == []
    assert {answer.status for answer in outcome.during} & {"503"}
    assert outcome.turned is not None


def outcome(
    readiness: str,
    *answers: Answer,
    fault: Fault | None = None,
    liveness: Said = ALIVE,
) -> Outcome:
    """A fault from 0 to 10 s.

    Args:
        readiness: What `/readyz` says in each second: "+" or "-".
        answers: What clients get, beside a success just before and one just after.
        fault: Which.
        liveness: What `/livez` says.
    """
    said = [
        Said(READINESS, float(second), 0.01, "200" if sign == "+" else "503")
        for second, sign in enumerate(readiness)
    ]
    usual = [Answer(-0.1, 0.2, "200"), Answer(10.1, 0.1, "201")]
    return Outcome(
        fault=fault or Hung(),
        times=TIMES,
        begun=-3.0,
        caused=0.0,
        complete=0.0,
        ending=10.0,
        recovered=10.0,
        stopped=16.0,
        said=[liveness, *said],
        answers=[*usual, *answers],
    )


GOOD = "++---------+++++"


def test_nothing_is_missed_where_all_is_well() -> None:
    seen = outcome(GOOD, Answer(1.0, 3.0, "503"))
    assert seen.missed() == []
    assert (seen.turned, seen.back, seen.longest) == (2.0, 1.0, 3.0)
    assert outcome("+" * 16, fault=FewConnections()).missed() == []
    assert outcome("+" * 16, fault=Restarted()).missed() == []


@pytest.mark.parametrize(
    ("seen", "complaint"),
    [
        (outcome("+++-" + GOOD[4:]), "/readyz turned after 3.00 s, not 2.25 s"),
        (outcome("+" * 16), "/readyz turned after never, not 2.25 s"),
        (outcome("++-----------+++"), "/readyz was back after 3.00 s, not 2.25 s"),
        (outcome("++--------------"), "/readyz was back after never, not 2.25 s"),
        (outcome("++--+------+++++"), "/readyz turned 2 times"),
        (
            outcome(GOOD, fault=FewConnections()),
            "/readyz failed after 2.00 s, with a database that answers",
        ),
        (
            outcome(GOOD, liveness=Said(LIVENESS, 3.0, 0.1, "503")),
            "/livez said 503: 1",
        ),
        (outcome(GOOD, liveness=Said(LIVENESS, 3.0, 1.7, "200")), "/livez took 1.70 s"),
        (outcome(GOOD, Answer(1.0, 4.5, "503")), "a request took 4.50 s, not 4.00 s"),
        (outcome(GOOD, Answer(1.0, 0.1, "500")), "clients got 500: 1"),
        (outcome(GOOD, Answer(12.0, 0.1, "broken")), "clients got broken: 1"),
    ],
)
def test_each_missed_bound_is_told(seen: Outcome, complaint: str) -> None:
    assert seen.missed() == [complaint]


def test_a_machine_that_may_stall_gets_slack() -> None:
    late = Said(LIVENESS, 3.0, 1.7, "200")
    seen = outcome("+++--------++++", Answer(1.0, 4.5, "503"), liveness=late)
    assert len(seen.missed()) == 3
    assert replace(seen, times=Times(slack=1.0)).missed() == []


def test_no_success_after_the_recovery_is_told() -> None:
    seen = outcome(GOOD)
    late = replace(seen, answers=[Answer(10.5, 2.0, "200")])
    assert late.missed() == ["the first success came after 2.50 s"]
    none = replace(seen, answers=[Answer(1.0, 0.1, "200")])
    assert none.missed() == ["the first success came after never"]


def test_the_page_shows_what_was_skipped() -> None:
    text = page([outcome(GOOD), Skipped(CutOff(), "needs root")], TIMES)
    assert "| stopped | 10.00 s |" in text
    assert "| cut-off | SKIPPED: needs root |" in text
    assert "| 2 | - | 503 | - | - | - | - | - |" in text

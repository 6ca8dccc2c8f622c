"""How long those who are turned away are told to stay away."""

from types import SimpleNamespace

import pytest

from service.web import retry_after
from service.web.admission import Admission
from service.web.retry_after import RetryAfter


class Seconds:
    """Lets one second after another pass, in each of which some are turned away."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, shortest: int = 2) -> None:
        self._now = 0.0
        clock = SimpleNamespace(monotonic=lambda: self._now)
        monkeypatch.setattr(retry_after, "time", clock)
        self._tested = RetryAfter(shortest)

    def told(self, *counts: int, seconds: float = 1.0) -> list[int]:
        """What is told after each."""
        return [self._after(count, seconds) for count in counts]

    def _after(self, count: int, seconds: float) -> int:
        for _ in range(count):
            self._tested.turned_away()
        self._now += seconds
        self._tested.tick()
        return self._tested.turned_away()


def test_it_doubles_while_many_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Seconds(monkeypatch).told(0, 300, 300, 300) == [2, 4, 8, 16]


def test_it_ends_at_half_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Seconds(monkeypatch).told(*[300] * 8)[-3:] == [30, 30, 30]


def test_it_comes_back_when_few_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Seconds(monkeypatch).told(300, 300, 10, 0, 0, 0) == [4, 8, 4, 2, 2, 2]


def test_it_stays_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """Halved, it would be doubled again, and so on."""
    assert Seconds(monkeypatch).told(300, 150, 100, 60) == [4, 4, 4, 4]


def test_it_counts_by_the_second_however_late_it_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Seconds(monkeypatch).told(300, 300, seconds=2.0) == [2, 2]


def test_what_is_longer_from_the_start_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Seconds(monkeypatch, shortest=60).told(300, 300, 0) == [60, 60, 60]


@pytest.mark.usefixtures("manual_clock")
def test_gate_tells_what_its_load_makes_of_its_wait() -> None:
    admission = Admission("test", limit=0, queue=0, wait=1.5)

    def told() -> set[int]:
        refusals = [admission.turn_away() for _ in range(1000)]
        return {refusal.retry_after for refusal in refusals if refusal is not None}

    assert told() == {2}
    admission.tick()
    assert told() == {4}

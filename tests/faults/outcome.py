"""What one fault did, and whether that is within the bounds that the service promises."""

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from tests.faults.faults import Fault
from tests.faults.observer import LIVENESS, READINESS, Said
from tests.load.client import Answer

# Seconds from the recovery of the database to the first request that succeeds.
MOST_TO_SUCCESS: Final = 2.0
# Seconds that a request may take beyond DATABASE_QUERY_DEADLINE.
MOST_OVER: Final = 1.0
# Intervals from the recovery to a readiness that passes.
MOST_INTERVALS: Final = 2
# Seconds that a liveness probe may take: for as long a kubelet waits, unless told otherwise.
MOST_LIVENESS: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class Times:
    """How the service and the observation are set up, in seconds.

    `tolerance` is what readiness is granted beyond its bounds: it is seen at the next question, on
    a machine that has other things to do as well. `slack` is what every bound is granted beside
    that, where the machine may stall.
    """

    before: float = 2.0
    fault: float = 10.0
    after: float = 6.0
    interval: float = 1.0
    timeout: float = 1.0
    deadline: float = 3.0
    every: float = 0.1
    tolerance: float = 0.25
    slack: float = 0.0

    @property
    def liveness(self) -> float:
        """Within what a liveness probe is answered."""
        return MOST_LIVENESS + self.slack

    @property
    def turn(self) -> float:
        """Within what readiness fails once the database does."""
        return self.interval + self.timeout + self.tolerance + self.slack

    @property
    def turn_back(self) -> float:
        """Within what readiness passes once the database can be reached."""
        return MOST_INTERVALS * self.interval + self.tolerance + self.slack

    @property
    def request(self) -> float:
        """Within what a request is answered."""
        return self.deadline + MOST_OVER + self.slack

    @property
    def success(self) -> float:
        """Within what a request succeeds once the database can be reached."""
        return MOST_TO_SUCCESS + self.slack


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was seen. Instants are of the monotonic clock.

    Args:
        fault: Which.
        times: How it was set up.
        begun: When the clients were at work.
        caused: When it was about to begin.
        complete: When it had been caused.
        ending: When it was about to be ended.
        recovered: When the database could be reached again.
        stopped: When the observation ended.
        said: What the probes said.
        answers: What the clients got.
    """

    fault: Fault
    times: Times
    begun: float
    caused: float
    complete: float
    ending: float
    recovered: float
    stopped: float
    said: Sequence[Said]
    answers: Sequence[Answer]

    @property
    def liveness(self) -> list[Said]:
        """What `/livez` said."""
        return [each for each in self.said if each.probe == LIVENESS]

    @property
    def slowest_liveness(self) -> float:
        """Seconds of the slowest answer of `/livez`."""
        return max(each.seconds for each in self.liveness)

    @property
    def turned(self) -> float | None:
        """Seconds from the fault to the first failing answer of `/readyz`; None of none."""
        failing = self._failing()
        return max(0.0, failing[0].asked - self.complete) if failing else None

    @property
    def back(self) -> float | None:
        """Seconds from the recovery to when `/readyz` passes and goes on to; None if it never does.

        0 where it has not failed, or passes already.
        """
        failing = self._failing()
        if not failing:
            return 0.0
        passing = [each for each in self._readiness() if each.asked > failing[-1].asked]
        return max(0.0, passing[0].asked - self.recovered) if passing else None

    @property
    def turns(self) -> int:
        """How often `/readyz` went from passing to failing."""
        passes = [True, *(each.passes for each in self._readiness())]
        return sum(before and not after for before, after in itertools.pairwise(passes))

    @property
    def first_success(self) -> float | None:
        """Seconds from the recovery to the first request that succeeds; None if none does."""
        ended = [each.sent + each.seconds for each in self.answers if each.is_success]
        after = [end for end in ended if end > self.ending]
        return max(0.0, min(after) - self.recovered) if after else None

    @property
    def during(self) -> list[Answer]:
        """The requests that met the fault."""
        return [
            each
            for each in self.answers
            if each.sent + each.seconds > self.caused and each.sent < self.recovered
        ]

    @property
    def after(self) -> list[Answer]:
        """The requests that were sent after the recovery."""
        return [each for each in self.answers if each.sent >= self.recovered]

    @property
    def longest(self) -> float:
        """Seconds of the longest request that met the fault, or came after it."""
        return max((each.seconds for each in [*self.during, *self.after]), default=0.0)

    def missed(self) -> list[str]:
        """The bounds that did not hold, each in words."""
        return [
            *self._missed_by_liveness(),
            *self._missed_by_readiness(),
            *self._missed_by_requests(),
        ]

    def _missed_by_liveness(self) -> Iterable[str]:
        failed = statuses(each.status for each in self.liveness if not each.passes)
        if failed:
            yield f"/livez said {failed}"
        if self.slowest_liveness > self.times.liveness:
            yield f"/livez took {self.slowest_liveness:.2f} s"

    def _missed_by_readiness(self) -> Iterable[str]:
        most = self.times.turn
        is_to_turn = self.fault.lasts and self.fault.is_outage
        if is_to_turn and (self.turned is None or self.turned > most):
            yield f"/readyz turned after {seconds(self.turned)}, not {most:.2f} s"
        if not self.fault.is_outage and self.turned is not None:
            yield f"/readyz failed after {seconds(self.turned)}, with a database that answers"
        if self.turns > 1:
            yield f"/readyz turned {self.turns} times"
        most = self.times.turn_back
        if self.back is None or self.back > most:
            yield f"/readyz was back after {seconds(self.back)}, not {most:.2f} s"

    def _missed_by_requests(self) -> Iterable[str]:
        most = self.times.request
        if self.longest > most:
            yield f"a request took {self.longest:.2f} s, not {most:.2f} s"
        if self.first_success is None or self.first_success > self.times.success:
            yield f"the first success came after {seconds(self.first_success)}"
        met = [each.status for each in [*self.during, *self.after]]
        wrong = statuses(status for status in met if status[0] != "2" and status != "503")
        if wrong:
            yield f"clients got {wrong}"

    def _readiness(self) -> list[Said]:
        return [each for each in self.said if each.probe == READINESS and each.asked >= self.caused]

    def _failing(self) -> list[Said]:
        return [each for each in self._readiness() if not each.passes]


def statuses(given: Iterable[str]) -> str:
    """How often there was each status, in words."""
    return ", ".join(f"{status}: {count:,}" for status, count in sorted(Counter(given).items()))


def seconds(value: float | None) -> str:
    """A time in words."""
    return "never" if value is None else f"{value:.2f} s"

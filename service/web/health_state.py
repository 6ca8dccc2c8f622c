"""What a health check said last, and how often it has to say so before that counts."""

import logging
import time
from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import structlog
from prometheus_client import Gauge

from service.database.batches import SampledGauges

# Of several workers, the worst counts.
CHECK_STATUS = Gauge(
    "service_health_check_status",
    "Whether the check passes (1), warns (0.5) or fails (0).",
    ["check"],
    multiprocess_mode="livemin",
)
CHECK_DURATION = Gauge(
    "service_health_check_duration_seconds",
    "How long the last look of the check took.",
    ["check"],
    multiprocess_mode="livemax",
)
CHECK_AGE = Gauge(
    "service_health_check_age_seconds",
    "How long ago the last look of the check ended.",
    ["check"],
    multiprocess_mode="livemax",
)

log = structlog.stdlib.get_logger(__name__)


class Status(IntEnum):
    """How a check went; what is better is greater."""

    FAIL = 0
    # Something is wrong, and requests are served all the same.
    WARN = 1
    PASS = 2

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one look went.

    Args:
        status: The verdict.
        reason: Why it is not a pass: one word of a fixed list.
        advice: What to do about it. Reason and advice are shown to whoever has `OPS_TOKEN`, so
            nothing that a driver or a server said belongs into them.
        detail: Whatever else is known, a driver's message too; for the log alone.
    """

    status: Status
    reason: str = ""
    advice: str = ""
    detail: str = ""


PASSED: Final = Outcome(Status.PASS)
STARTING: Final = Outcome(Status.FAIL, "starting", "wait for the first look of this check")
OVERDUE: Final = Outcome(
    Status.FAIL,
    "overdue",
    "the event loop is blocked, the worker has no CPU, or its monitor has ended: see the log",
)


class CheckState:
    """What one check is held to be.

    The first outcome counts at once, a different one when it was heard often enough in a row. Of
    several that are worse, the mildest becomes the verdict; of several that are better, the least
    good.

    Args:
        name: The check.
        failure_threshold: How many worse outcomes in a row it takes.
        success_threshold: How many better ones.
        patience: Seconds after which the last outcome is too old to be believed.
    """

    def __init__(
        self, name: str, *, failure_threshold: int, success_threshold: int, patience: float
    ) -> None:
        self.name = name
        self.duration = 0.0
        # What the last look said, whether that counts yet or not.
        self.latest = STARTING
        self._failure_threshold = failure_threshold
        self._success_threshold = success_threshold
        self._patience = patience
        self._published = STARTING
        self._recent: deque[Outcome] = deque(maxlen=max(failure_threshold, success_threshold))
        self._recorded_at = time.monotonic()
        # The reasons that were logged since it last passed: two that alternate are told once each.
        self._told = {STARTING.reason}
        self._is_overdue_told = False
        CHECK_STATUS.labels(name).set(0)
        self._age_gauge = SampledGauges({CHECK_AGE.labels(name): lambda: self.age})

    @property
    def outcome(self) -> Outcome:
        """What holds now; an outcome that is too old is a failure."""
        return OVERDUE if self.is_overdue else self._published

    @property
    def is_overdue(self) -> bool:
        """Whether no look has ended for longer than one may take."""
        return self.age > self._patience

    @property
    def age(self) -> float:
        """Seconds since the last look ended."""
        return time.monotonic() - self._recorded_at

    def record(self, outcome: Outcome, seconds: float) -> bool:
        """Take note of a look.

        Args:
            outcome: How it went.
            seconds: How long it took.

        Returns:
            Whether it agrees with the verdict; where it does not yet, another look should follow.
        """
        self._recorded_at = time.monotonic()
        if self._is_overdue_told:
            self._is_overdue_told = False
            self._told.clear()
        self.duration, self.latest = seconds, outcome
        CHECK_DURATION.labels(self.name).set(seconds)
        self._age_gauge.write()
        self._recent.append(outcome)
        verdict = self._verdict(outcome)
        if verdict is not None:
            self._publish(verdict)
        CHECK_STATUS.labels(self.name).set(self._published.status / Status.PASS)
        return verdict is not None and verdict.status is outcome.status

    def look_at_time(self) -> None:
        """Publish the age, and tell once of a look that is overdue; from any thread."""
        self._age_gauge.write()
        if self.is_overdue and not self._is_overdue_told:
            self._is_overdue_told = True
            CHECK_STATUS.labels(self.name).set(0)
            self._log(OVERDUE)

    def _verdict(self, outcome: Outcome) -> Outcome | None:
        now = self._published.status
        if self._published is STARTING or outcome.status is now:
            return outcome
        is_worse = outcome.status < now
        needed = self._failure_threshold if is_worse else self._success_threshold
        latest = [*self._recent][-needed:]
        agreeing = [
            one for one in latest if one.status is not now and (one.status < now) is is_worse
        ]
        if len(agreeing) < needed:
            return None
        choose = max if is_worse else min
        return choose(reversed(agreeing), key=lambda one: one.status)

    def _publish(self, outcome: Outcome) -> None:
        before, self._published = self._published, outcome
        if outcome.status is not before.status:
            self._told.clear()
        elif outcome.reason in self._told:
            return
        self._told.add(outcome.reason)
        self._log(outcome)

    def _log(self, outcome: Outcome) -> None:
        told = {
            "reason": outcome.reason,
            "advice": outcome.advice,
            "detail": " ".join(outcome.detail.split()),
        }
        log.log(
            logging.INFO if outcome.status is Status.PASS else logging.WARNING,
            "health check changed",
            check=self.name,
            status=str(outcome.status),
            **{key: text for key, text in told.items() if text},
        )


# A check of the monitor, or something that knows its outcome itself.
Known = CheckState | Outcome

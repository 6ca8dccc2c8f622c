"""The monitor: its clock, its deadlines, one look at a time, and whatever a check may do."""

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from service.web.health_monitor import HealthMonitor
from service.web.health_state import PASSED, Outcome, Status
from tests.support.polling import keeps_time, until
from tests.web.conftest import LogLines

FAILED = Outcome(Status.FAIL, "broken")
INTERVAL = 0.6
TIMEOUT = 0.2


def monitor(interval: float = INTERVAL, timeout: float = TIMEOUT) -> HealthMonitor:
    return HealthMonitor(
        interval=interval, timeout=timeout, failure_threshold=2, success_threshold=2
    )


def reasons(of: HealthMonitor) -> dict[str, str]:
    return {name: state.outcome.reason for name, state in of.states.items()}


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(30):
            await scenario()

    asyncio.run(in_time())


def test_nothing_passes_before_the_first_look() -> None:
    made = monitor()
    made.register("one", _passes)
    assert reasons(made) == {"one": "starting"}

    async def scenario() -> None:
        async with made.running():
            await made.wait_until_served("one", "unknown")
            assert reasons(made) == {"one": ""}

    run(scenario)


def test_a_check_is_looked_at_once_an_interval_and_a_doubtful_one_again_soon() -> None:
    outcomes = {3: FAILED, 5: FAILED, 6: FAILED}

    def longest_short_pause() -> float:
        looks: list[float] = []
        held: list[dict[str, str]] = []
        made = monitor()

        async def check() -> Outcome:
            looks.append(time.monotonic())
            held.append(reasons(made))
            return outcomes.get(len(looks), PASSED)

        async def scenario() -> None:
            made.register("one", check)
            async with made.running():
                await until(lambda: reasons(made) == {"one": "broken"})

        run(scenario)
        if {"one": "overdue"} in held:
            # The machine stalled.
            return math.inf
        # The third failed, and the fourth found that it was an exception.
        assert held[1:6] == [{"one": ""}] * 5
        pauses = [after - before for before, after in itertools.pairwise(looks)]
        long, short = (pauses[0], pauses[1], pauses[3]), (pauses[2], pauses[4])
        is_early = min(long) < INTERVAL - 0.05 or min(short) < TIMEOUT / 2 - 0.05
        return math.inf if is_early else max(short)

    keeps_time(longest_short_pause, INTERVAL - 0.05)


def test_a_check_that_hangs_is_told_in_time_and_not_started_again() -> None:
    def seconds_until_told() -> float:
        started = 0
        seconds = math.inf

        async def scenario() -> None:
            nonlocal seconds
            go_on = asyncio.Event()

            async def check() -> Outcome:
                nonlocal started
                started += 1
                if started == 2:
                    await go_on.wait()
                return PASSED

            made = monitor()
            made.register("hangs", check)
            made.register("other", _passes)
            async with made.running():
                await until(lambda: started == 2)
                start = time.monotonic()
                await until(lambda: reasons(made)["hangs"] == "timeout")
                took = time.monotonic() - start
                await asyncio.sleep(2 * INTERVAL)
                assert started == 2, "one at a time"
                await until(lambda: reasons(made) == {"hangs": "timeout", "other": ""})
                go_on.set()
                # The late answer is none, two new ones are.
                await until(lambda: reasons(made)["hangs"] == "")
                if started == 4:
                    seconds = took

        run(scenario)
        return seconds

    keeps_time(seconds_until_told, TIMEOUT + 0.3)


def test_an_answer_that_is_always_late_is_never_taken() -> None:
    late = 0

    async def check() -> Outcome:
        nonlocal late
        await asyncio.sleep(0.75 * TIMEOUT)
        late += 1
        return PASSED

    async def scenario() -> None:
        made = monitor(interval=0.05)
        made.register("late", check)
        async with made.running():
            await until(lambda: reasons(made) == {"late": "timeout"})
            before = late
            await until(lambda: late >= before + 3)
            assert reasons(made) == {"late": "timeout"}

    run(scenario)


def test_a_check_that_raises_is_a_failure_and_the_others_go_on(
    log_lines: LogLines,
) -> None:
    looks = 0

    async def check() -> Outcome:
        nonlocal looks
        looks += 1
        if looks < 5:
            raise ValueError("walrus")
        return PASSED

    async def scenario() -> None:
        made = monitor(interval=0.02)
        made.register("broken", check)
        made.register("other", _passes)
        async with made.running():
            await made.wait_until_served("other")
            await until(lambda: looks == 4)
            assert reasons(made) == {"broken": "error", "other": ""}
            await made.wait_until_served("broken")

    run(scenario)
    (stack,) = [line for line in log_lines() if "exception" in line]
    assert (stack["check"], stack["exception"][0]["exc_value"]) == ("broken", "walrus")


def test_one_look_may_answer_for_several_and_leave_some_as_they_were() -> None:
    looks = 0

    async def check() -> dict[str, Outcome]:
        nonlocal looks
        looks += 1
        if looks == 1:
            return {"first": PASSED}
        return {"first": FAILED, "second": PASSED} if looks < 4 else {"first": PASSED}

    async def scenario() -> None:
        made = monitor(interval=0.05)
        made.register("first", check, also=("second",))
        async with made.running():
            await until(lambda: looks == 1 and reasons(made)["first"] == "")
            assert reasons(made)["second"] == "starting"
            await until(lambda: reasons(made) == {"first": "broken", "second": ""})
            await until(lambda: reasons(made) == {"first": "", "second": ""})

    run(scenario)


def test_a_blocked_loop_is_told_of_by_another_thread(log_lines: LogLines) -> None:
    def block() -> float:
        before = len(log_lines())

        async def scenario() -> None:
            made = monitor(interval=0.05, timeout=0.05)
            made.register("blocked", _passes)
            async with made.running():
                await made.wait_until_served("blocked")
                time.sleep(1.5)  # noqa: ASYNC251 - the point of it
                assert reasons(made) == {"blocked": "overdue"}
                await until(lambda: reasons(made) == {"blocked": ""})

        run(scenario)
        told = [line.get("reason", "") for line in log_lines()[before:]]
        return 0.0 if told == ["", "overdue", ""] else math.inf

    # A machine that stalls is told of as well.
    keeps_time(block, 1)


def test_the_end_does_not_wait_for_a_check_that_hangs() -> None:
    async def hangs() -> Outcome:
        await asyncio.Event().wait()
        return PASSED

    async def scenario() -> None:
        made = monitor()
        made.register("hangs", hangs)
        async with made.running():
            await asyncio.sleep(0)
        assert {task.get_name() for task in asyncio.all_tasks()} & {
            "health-hangs",
            "health-look-hangs",
        } == set()

    start = time.monotonic()
    run(scenario)
    assert time.monotonic() - start < 10, "and not as long as a scenario may take"


@pytest.mark.parametrize("name", ["one", "two", "Three", "", "a b", "9"])
def test_names_are_well_formed_and_taken_once(name: str) -> None:
    made = monitor()
    made.register("one", _passes, also=("two",))
    with pytest.raises(ValueError, match=f"^{name}: "):
        made.register(name, _passes)


async def _passes() -> Outcome:
    return PASSED

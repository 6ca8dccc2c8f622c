"""Waiting for something to become true, with a deadline instead of a sleep."""

import asyncio
import time
from collections.abc import Callable


def eventually(check: Callable[[], object], *, within: float = 10.0, every: float = 0.02) -> None:
    """Return once a check holds.

    Args:
        check: Called until what it returns is true.
        within: Seconds.
        every: Seconds between two calls.

    Raises:
        AssertionError: It did not hold in time.
    """
    deadline = time.monotonic() + within
    while not check():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {check}")
        time.sleep(every)


async def until(check: Callable[[], object], *, within: float = 30.0, every: float = 0.002) -> None:
    """As `eventually`, in an event loop.

    Raises:
        TimeoutError: It did not hold in time.
    """
    async with asyncio.timeout(within):
        # Whatever a test looks at has no event.
        while not check():
            await asyncio.sleep(every)


def keeps_time(attempt: Callable[[], float], seconds: float, *, attempts: int = 5) -> None:
    """Return once something has taken less than it may.

    For what cannot be given more time than a machine takes that stalls for some seconds: that
    spoils an attempt, but not one after the other.

    Args:
        attempt: Does it, and returns how long it took.
        seconds: How long it may take.
        attempts: How often it is tried.

    Raises:
        AssertionError: It took longer each time.
    """
    took: list[float] = []
    while not took or took[-1] >= seconds:
        assert len(took) < attempts, f"never within {seconds:g} s: {took}"
        took.append(attempt())

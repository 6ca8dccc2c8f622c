"""Waiting for something to become true, with a deadline instead of a sleep."""

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

"""What becomes of requests when the database hangs, and how soon they succeed when it goes on.

Run `python -m tests.load.bench_hung_server`. It starts its own PostgreSQL and stops all of its
processes with SIGSTOP: connections stay open, the kernel acknowledges, and nobody answers. 20
clients read and create products all the while. It ends with status 1 when a target is missed.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from tests.load.client import Answer, Plan, answers, begin
from tests.load.measuring import figure, header, row
from tests.load.servers import PRODUCTS, TIDEGATE, catalog, serving
from tests.support.polling import eventually
from tests.support.postgres import PostgresServer
from tests.support.server import Service

CLIENTS: Final = 20
DEADLINE: Final = 2.0
STATEMENT_TIMEOUT: Final = 1.0
HANG: Final = 6.0
# Of load before it hangs, and after it goes on.
AROUND: Final = 4.0
# Beyond the deadline.
MOST_OVER: Final = 1.0
MOST_TO_RECOVER: Final = 2.0


class Hang(NamedTuple):
    """What one hang did. Times are in seconds."""

    longest: float
    statuses: Counter[str]
    recovery: float
    other: Counter[str]


def hang(server: PostgresServer, service: Service) -> Hang:
    """Load a service, and let its database hang for a while."""
    start = time.monotonic()
    plan = Plan(service.port, CLIENTS, AROUND + HANG + AROUND, PRODUCTS, creates=0.5, timeout=30)
    clients = begin(plan)
    eventually(lambda: time.monotonic() > start + plan.warm_up + AROUND, within=60)
    with server.paused():
        paused = time.monotonic()
        eventually(lambda: time.monotonic() > paused + HANG, within=60)
    resumed = time.monotonic()
    return _seen(answers(clients), paused, resumed)


def _seen(given: Sequence[Answer], paused: float, resumed: float) -> Hang:
    ended = [(each.sent + each.seconds, each) for each in given]
    during = [each for end, each in ended if end > paused and each.sent < resumed]
    successes = [end for end, each in ended if end > resumed and each.is_success]
    return Hang(
        max(each.seconds for each in during),
        Counter(each.status for each in during),
        min(successes, default=float("inf")) - resumed,
        Counter(each.status for each in given) - Counter(each.status for each in during),
    )


def complaints(hangs: Sequence[Hang]) -> list[str]:
    """The targets that were missed."""
    longest = max(each.longest for each in hangs)
    recovery = max(each.recovery for each in hangs)
    failed = sum(count for each in hangs for status, count in each.statuses.items()
                 if status[0] != "2" and status != "503")  # fmt: skip
    found = {
        f"a request took {longest:.2f} s": longest > DEADLINE + MOST_OVER,
        f"the first success came after {recovery:.2f} s": recovery > MOST_TO_RECOVER,
        f"{failed} answers were neither 2xx nor 503": bool(failed),
    }
    return [complaint for complaint, is_missed in found.items() if is_missed]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    deadlines = {
        "DATABASE_QUERY_DEADLINE": str(DEADLINE),
        "DATABASE_STATEMENT_TIMEOUT": str(STATEMENT_TIMEOUT),
    }
    with catalog() as (server, url), serving(TIDEGATE, url, **deadlines) as service:
        hangs = [hang(server, service) for _ in range(given.rounds)]
    header("what", "median (least to greatest)")
    row("longest request during the hang, s", figure([each.longest for each in hangs]))
    row("first success after it went on, s", figure([each.recovery for each in hangs]))
    row("answers during the hang", _counts([each.statuses for each in hangs]))
    row("answers before and after", _counts([each.other for each in hangs]))
    sys.exit("\n".join(complaints(hangs)) or 0)


def _counts(statuses: Sequence[Counter[str]]) -> str:
    total = sum(statuses, Counter())
    return ", ".join(f"{status}: {count:,}" for status, count in sorted(total.items()))


if __name__ == "__main__":
    main()

"""What is served, and how fast, when many more clients ask than there are connections.

Run `python -m tests.load.bench_overload`. It starts its own PostgreSQL, which does not wait for the
disk. 10, 100, 300 and 1,000 clients read products by id over a pool of 10; they wait as a 503 tells
them, and give up after 10 s. Each server is one uvicorn process on one core, started anew for each
load; PostgreSQL and the clients are on the other. `ADMISSION_QUEUE=20` and the like before the
command try other settings. It ends with status 1 when a target is missed.
"""

import argparse
import os
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

from tests.load.client import Answer, Plan, answers, begin
from tests.load.measuring import figure, header, interleaved, row
from tests.load.servers import CONNECTIONS, PRODUCTS, TEXTBOOK, TIDEGATE, catalog, serving
from tests.support.scraping import scraped
from tests.support.server import Service

CLIENTS: Final = (10, 100, 300, 1000)
# Every one of them has a connection, so that nobody waits.
UNCONTENDED: Final = CLIENTS[0]
LEAST_SHARE: Final = 0.9
MOST_TIMES: Final = 3.0
MOST_SHED_MS: Final = 100.0
_TIMEOUT: Final = 10.0
_NAMES: Final = ("clients", "server", "2xx/s", "share of best", "answers", "pool timeouts",
                 "p50 ms", "p99 ms", "p99 / uncontended", "503 p99 ms")  # fmt: skip


class Round(NamedTuple):
    """What one load met. Times are in milliseconds."""

    goodput: float
    statuses: Counter[str]
    pool_timeouts: int | None
    p50: float | None
    p99: float | None
    shed_p99: float | None


class Row(NamedTuple):
    """The rounds of one load, those of the load of which most was served, and the uncontended."""

    rounds: Sequence[Round]
    best: Sequence[Round]
    uncontended: Sequence[Round]

    @property
    def share(self) -> float:
        """Of the best load's goodput, round by round: a noisy machine changes between them."""
        pairs = zip(self.rounds, self.best, strict=True)
        return statistics.median(
            own.goodput / best.goodput if best.goodput else 0.0 for own, best in pairs
        )

    @property
    def times(self) -> float | None:
        """How many times as slow as uncontended the slowest admitted requests were, likewise."""
        pairs = zip(self.rounds, self.uncontended, strict=True)
        times = [own.p99 / other.p99 for own, other in pairs if own.p99 and other.p99]
        return statistics.median(times) if times else None

    @property
    def statuses(self) -> Counter[str]:
        """Of all rounds."""
        return sum((each.statuses for each in self.rounds), Counter())

    @property
    def pool_timeouts(self) -> int | None:
        """Of all rounds; None where the server does not tell."""
        known = [each.pool_timeouts for each in self.rounds if each.pool_timeouts is not None]
        return sum(known) if known else None

    def values(self, name: str) -> list[float]:
        """One figure of those rounds that have it."""
        return [each for each in (getattr(one, name) for one in self.rounds) if each is not None]

    def median(self, name: str) -> float | None:
        """Of one figure; None where no round has it."""
        return statistics.median(self.values(name)) if self.values(name) else None

    def missed(self) -> list[str]:
        """The targets that were missed."""
        failed = sorted(status for status in self.statuses if status[0] != "2" and status != "503")
        shed = self.median("shed_p99") or 0.0
        complaints = {
            f"answers {', '.join(failed)}": bool(failed),
            f"{self.pool_timeouts} pool timeouts": bool(self.pool_timeouts),
            f"{self.share:.0%} of the best goodput": self.share < LEAST_SHARE,
            f"p99 {self.times or 0:.1f} times the uncontended": (self.times or 0) > MOST_TIMES,
            f"503 after {shed:.0f} ms": shed > MOST_SHED_MS,
        }
        return [complaint for complaint, is_missed in complaints.items() if is_missed]


def measure(name: str, url: str, clients: int, seconds: int, warm_up: float) -> Round:
    """Load a new server of one kind."""
    pool = {"POOL_SIZE": str(CONNECTIONS), "MAX_OVERFLOW": "0"} if name == TEXTBOOK else {}
    with serving(name, url, **pool) as service:
        plan = Plan(service.port, clients, seconds, PRODUCTS, timeout=_TIMEOUT, warm_up=warm_up)
        result = answers(begin(plan))
        timeouts = pool_timeouts(service) if name == TIDEGATE else None
    admitted = [each for each in result if each.is_success]
    shed = [each for each in result if each.status == "503"]
    return Round(
        len(admitted) / seconds,
        Counter(each.status for each in result),
        timeouts,
        percentile(admitted, 50),
        percentile(admitted, 99),
        percentile(shed, 99),
    )


def percentile(given: Sequence[Answer], share: int) -> float | None:
    """Milliseconds; None of nothing."""
    times = sorted(each.seconds for each in given)
    return times[len(times) * share // 100] * 1000 if times else None


def pool_timeouts(service: Service) -> int:
    """How often requests waited for a connection in vain."""
    return int(scraped(service, "db_client_connection_timeouts_total", pool_name="primary"))


def rows(rounds: dict[str, list[Round]]) -> dict[str, Row]:
    """Compare the loads of one server."""
    best = max(rounds.values(), key=lambda each: statistics.median(one.goodput for one in each))
    uncontended = rounds[str(UNCONTENDED)]
    return {name: Row(each, best, uncontended) for name, each in rounds.items()}


def show(server: str, results: dict[str, Row]) -> None:
    """Print a line for each load."""
    for clients, each in results.items():
        timeouts = each.pool_timeouts
        row(
            clients,
            server,
            figure([one.goodput for one in each.rounds]),
            f"{each.share:.0%}",
            ", ".join(f"{status}: {count:,}" for status, count in sorted(each.statuses.items())),
            "-" if timeouts is None else str(timeouts),
            *(_figure(each.values(name)) for name in ("p50", "p99")),
            f"{each.times:.1f}" if each.times else "-",
            _figure(each.values("shed_p99")),
        )


def _figure(values: Sequence[float]) -> str:
    return figure(values) if values else "-"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=16, help="of Tidegate; the textbook has one")
    parser.add_argument("--seconds", type=int, default=4, help="of load in each round")
    parser.add_argument(
        "--warm-up", type=float, default=3, help="seconds in which the clients begin"
    )
    parser.add_argument("--without-textbook", action="store_true")
    given = parser.parse_args()
    settings = {name: value for name, value in os.environ.items() if name.startswith("ADMISSION")}
    print("settings:", settings or "the defaults", flush=True)
    with catalog() as (_, url):
        loads = {
            str(clients): partial(measure, TIDEGATE, url, clients, given.seconds, given.warm_up)
            for clients in CLIENTS
        }
        ours = rows(interleaved(loads, given.rounds))
        header(*_NAMES)
        show(TIDEGATE, ours)
        if not given.without_textbook:
            textbook = {
                str(clients): [measure(TEXTBOOK, url, clients, given.seconds, given.warm_up)]
                for clients in CLIENTS
            }
            show(TEXTBOOK, rows(textbook))
    complaints = [
        f"{clients} clients: {complaint}"
        for clients, each in ours.items()
        for complaint in each.missed()
    ]
    sys.exit("\n".join(complaints) or 0)


if __name__ == "__main__":
    main()

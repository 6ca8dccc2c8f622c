"""How soon the probes answer: idle, under 20 times the load that is served, and while it hangs.

Run `python -m tests.load.bench_liveness`. It starts its own PostgreSQL. The service is a gunicorn
of one worker on one core, with a pool of 10; PostgreSQL, the clients and the probes are on the
other. Overload is 20 clients for each connection that the pool has; they wait as a 503 tells them.
Those without pauses ask again at once, and are there to compare: they have no target. A hang is all
of PostgreSQL stopped by SIGSTOP. Each probe is asked over a new connection, 50 times a second. It
ends with status 1 when `/livez` misses its target.
"""

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from tests.faults.observer import LIVENESS, READINESS, Observer, Said
from tests.load.client import Plan, answers, begin
from tests.load.measuring import figure, header, interleaved, row
from tests.load.servers import CONNECTIONS, OTHER_CORE, PRODUCTS, SERVER_CORE, catalog
from tests.support.postgres import PostgresServer
from tests.support.server import Service, running_service

TIMES: Final = 20
MOST_P99_MS: Final = 50.0
# Between two questions to the same probe, in seconds.
EVERY: Final = 0.02
_VARIABLES: Final = {
    "ENVIRONMENT": "production",
    "LOG_LEVEL": "ERROR",
    "DATABASE_POOL_SIZE": str(CONNECTIONS),
    "DATABASE_MAX_OVERFLOW": "0",
    "DATABASE_QUERY_DEADLINE": "2",
    "DATABASE_STATEMENT_TIMEOUT": "1",
}


class State(NamedTuple):
    """What the service has to bear: clients, those that wait as they are told, or a hang."""

    loaded: bool = False
    patient: bool = True
    hangs: bool = False


STATES: Final = {
    "idle": State(),
    f"{TIMES} x overload": State(loaded=True),
    f"{TIMES} x overload, no pauses": State(loaded=True, patient=False),
    f"{TIMES} x overload, the database hangs": State(loaded=True, hangs=True),
    "the database hangs": State(hangs=True),
}


def measure(server: PostgresServer, url: str, state: State, seconds: float) -> list[Said]:
    """Ask the probes of a new service.

    Args:
        server: The one of its database.
        url: Its database.
        state: What else goes on.
        seconds: For how long.
    """
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(_serving(url))
        if state.loaded:
            clients = TIMES * CONNECTIONS
            plan = Plan(service.port, clients, 3600, PRODUCTS, timeout=30, patient=state.patient)
            process = begin(plan)
            stack.callback(answers, process)
            stack.callback(process.terminate)
            time.sleep(2)
        if state.hangs:
            stack.enter_context(server.paused())
        observer = Observer(service.port, [LIVENESS, READINESS], every=EVERY, timeout=5)
        with observer.running():
            time.sleep(seconds)
    return observer.said


@contextlib.contextmanager
def _serving(url: str) -> Iterator[Service]:
    """Serve the way it is done in production, on a core of its own."""
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        # What is started inherits the core.
        os.sched_setaffinity(0, {SERVER_CORE})
        try:
            service = running_service(Path(directory), {**_VARIABLES, "DATABASE_URL": url})
            running = stack.enter_context(service)
        finally:
            os.sched_setaffinity(0, {OTHER_CORE})
        yield running


def milliseconds(said: Sequence[Said], probe: str) -> list[float]:
    """How long the answers of a probe took, the slowest last."""
    return sorted(each.seconds * 1000 for each in said if each.probe == probe)


def p99(times: Sequence[float]) -> float:
    """Of sorted times."""
    return times[len(times) * 99 // 100]


def show(name: str, probe: str, rounds: Sequence[Sequence[Said]]) -> None:
    """Print a line for one probe in one state."""
    times = [milliseconds(each, probe) for each in rounds]
    statuses = Counter(each.status for one in rounds for each in one if each.probe == probe)
    row(
        name,
        probe,
        ", ".join(f"{status}: {count:,}" for status, count in sorted(statuses.items())),
        figure([statistics.median(each) for each in times]),
        figure([p99(each) for each in times]),
        figure([each[-1] for each in times]),
    )


def complaints(name: str, rounds: Sequence[Sequence[Said]]) -> list[str]:
    """The targets that were missed."""
    worst = statistics.median(p99(milliseconds(each, LIVENESS)) for each in rounds)
    failed = [each for one in rounds for each in one if each.probe == LIVENESS and not each.passes]
    found = {
        f"{name}: {LIVENESS} took {worst:.0f} ms (p99)": worst > MOST_P99_MS,
        f"{name}: {LIVENESS} failed {len(failed)} times": bool(failed),
    }
    return [complaint for complaint, is_missed in found.items() if is_missed]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="of questions in each round")
    given = parser.parse_args()
    with catalog() as (server, url):
        loads = {
            name: partial(measure, server, url, state, given.seconds)
            for name, state in STATES.items()
        }
        results = interleaved(loads, given.rounds)
    header("state", "probe", "answers", "p50 ms", "p99 ms", "slowest ms")
    for name, rounds in results.items():
        for probe in (LIVENESS, READINESS):
            show(name, probe, rounds)
    missed = [
        complaint
        for name, state in STATES.items()
        if state.patient
        for complaint in complaints(name, results[name])
    ]
    sys.exit("\n".join(missed) or 0)


if __name__ == "__main__":
    main()

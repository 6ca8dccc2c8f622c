"""Requests per second, latency and CPU of Tidegate, the textbook and raw asyncpg, in one run.

Run `python -m tests.load.bench_requests`; it needs wrk. It starts its own PostgreSQL, which does
not wait for the disk. All serve under uvicorn, one process on one core; PostgreSQL and wrk are on
the other. Only one is loaded at a time, and rounds are interleaved. FastAPI and SQLAlchemy alone
(`frameworks.py`) tell by their CPU how much of it is not for what a service adds.
"""

import argparse
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from tests.load.measuring import figure, header, interleaved, row
from tests.load.servers import KINDS, PRODUCTS, RAW, TEXTBOOK, catalog, serving
from tests.load.wrk import Load, require_wrk, wrk
from tests.support.server import Service

_HERE: Final = Path(__file__).parent


def read(service: Service, seconds: int) -> Load:
    """Read products by random ids."""
    return wrk(service, "", seconds, f"-s{_HERE / 'read.lua'}", str(PRODUCTS))


def read_list(service: Service, seconds: int) -> Load:
    """Read the first 50 products."""
    return wrk(service, "/products", seconds)


def create(service: Service, seconds: int) -> Load:
    """Create products, whose codes nobody else takes."""
    return wrk(service, "", seconds, f"-s{_HERE / 'create.lua'}", uuid.uuid4().hex)


LOADS: Final[dict[str, Callable[[Service, int], Load]]] = {
    "read by id": read,
    "list of 50": read_list,
    "create": create,
}


class Round(NamedTuple):
    """What wrk saw, and the microseconds of CPU that the server took for a request."""

    load: Load
    cpu: float


def loaded(load: Callable[[Service, int], Load], service: Service, seconds: int) -> Round:
    """Load one server."""
    before = _cpu_seconds(service)
    seen = load(service, seconds)
    return Round(seen, (_cpu_seconds(service) - before) / (seen.rate * seconds) * 1e6)


def _cpu_seconds(service: Service) -> float:
    times = psutil.Process(service.process.pid).cpu_times()
    return times.user + times.system


def measure(services: dict[str, Service], rounds: int, seconds: int) -> None:
    """Print a line for each kind of load and server."""
    header("load", "server", "req/s", "p50 ms", "p99 ms", "failed", "/ textbook", "share of raw",
           "CPU µs", "raw's CPU / its own")  # fmt: skip
    for title, load in LOADS.items():
        variants = {
            name: partial(loaded, load, service, seconds) for name, service in services.items()
        }
        results = interleaved(variants, rounds)
        rates = {name: [each.load.rate for each in given] for name, given in results.items()}
        cpu = {name: [each.cpu for each in given] for name, given in results.items()}
        for name, given in results.items():
            row(
                title,
                name,
                figure(rates[name]),
                figure([each.load.p50 for each in given]),
                figure([each.load.p99 for each in given]),
                str(sum(each.load.failed for each in given)),
                figure(ratios(rates[name], rates[TEXTBOOK])),
                figure(ratios(rates[name], rates[RAW])),
                figure(cpu[name]),
                figure(ratios(cpu[RAW], cpu[name])),
            )


def ratios(values: list[float], others: list[float]) -> list[float]:
    """How many times as much, round by round."""
    return [value / other for value, other in zip(values, others, strict=True)]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5, help="of load in each round")
    arguments = parser.parse_args()
    require_wrk()
    with catalog() as (_, url), ExitStack() as stack:
        services = {name: stack.enter_context(serving(name, url)) for name in KINDS}
        measure(services, arguments.rounds, arguments.seconds)


if __name__ == "__main__":
    main()

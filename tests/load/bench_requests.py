"""Requests per second and latency of Tidegate, of the textbook and of raw asyncpg, in one run.

Run `python -m tests.load.bench_requests`; it needs wrk. It starts its own PostgreSQL, which does
not wait for the disk. All three serve under uvicorn, one process on one core; PostgreSQL and wrk
are on the other. Only one is loaded at a time, and rounds are interleaved.
"""

import argparse
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

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


def measure(services: dict[str, Service], rounds: int, seconds: int) -> None:
    """Print a line for each kind of load and server."""
    header("load", "server", "req/s", "p50 ms", "p99 ms", "failed", "/ textbook", "share of raw")
    for title, load in LOADS.items():
        variants = {name: partial(load, service, seconds) for name, service in services.items()}
        results = interleaved(variants, rounds)
        for name, loads in results.items():
            row(
                title,
                name,
                figure([each.rate for each in loads]),
                figure([each.p50 for each in loads]),
                figure([each.p99 for each in loads]),
                str(sum(each.failed for each in loads)),
                figure(ratios(loads, results[TEXTBOOK])),
                figure(ratios(loads, results[RAW])),
            )


def ratios(loads: list[Load], others: list[Load]) -> list[float]:
    """How many times as many requests per second, round by round."""
    return [each.rate / other.rate for each, other in zip(loads, others, strict=True)]


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

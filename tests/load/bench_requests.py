"""Requests per second and latency of Tidegate, of the textbook and of raw asyncpg, in one run.

Run `python -m tests.load.bench_requests`; it needs wrk. It starts its own PostgreSQL, which does
not wait for the disk. All three serve under uvicorn, one process on one core; PostgreSQL and wrk
are on the other. Only one is loaded at a time, and rounds are interleaved.
"""

import argparse
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from tests.load.measuring import figure, header, interleaved, row
from tests.load.servers import KINDS, PRODUCTS, RAW, TEXTBOOK, catalog, serving
from tests.support.server import Service

CLIENTS: Final = 16
_HERE: Final = Path(__file__).parent
_MILLISECONDS: Final = {"us": 0.001, "ms": 1, "s": 1000}


class Load(NamedTuple):
    """What wrk saw: requests per second, latencies in milliseconds, and requests that failed."""

    rate: float
    p50: float
    p99: float
    failed: int


def wrk(service: Service, path: str, seconds: int, *script: str) -> Load:
    """Load one path, or what a script asks for."""
    done = subprocess.run(
        ["wrk", "-t1", f"-c{CLIENTS}", f"-d{seconds}s", "--latency", "--timeout", "10s",
         *script[:1], f"http://127.0.0.1:{service.port}{path}", *script[1:]],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done)
    latencies = {
        share: float(value) * _MILLISECONDS[unit]
        for share, value, unit in re.findall(r"(50|99)%\s+([\d.]+)(us|ms|s)", done)
    }
    if rate is None or len(latencies) != len(("50", "99")):
        raise RuntimeError(done)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", done)
    errors = re.search(r"Socket errors: .*", done)
    failed = sum(map(int, re.findall(r"\d+", errors[0]))) if errors else 0
    return Load(
        float(rate[1]), latencies["50"], latencies["99"], failed + int(refused[1] if refused else 0)
    )


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
    if shutil.which("wrk") is None:
        sys.exit("this benchmark needs wrk (apt-get install wrk)")
    with catalog() as (_, url), ExitStack() as stack:
        services = {name: stack.enter_context(serving(name, url)) for name in KINDS}
        measure(services, arguments.rounds, arguments.seconds)


if __name__ == "__main__":
    main()

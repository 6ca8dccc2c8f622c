"""How fast `tidegate catalog import` and `export` are, and that their memory does not grow.

Run `python -m tests.load.bench_import [--rows N]`: it starts its own PostgreSQL, with its usual
durability, loads N / 10 and N generated products into it and into SQLite, and prints a table.
"""

import argparse
import csv
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.database_server import running
from tests.support.postgres import PostgresServer
from tests.support.server import ROOT

DURABLE: Final = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
ADJECTIVES: Final = ("Stainless", "Folding", "Anodised", "Marine", "Braided", "Low-profile")
NOUNS: Final = ("shackle", "cleat", "winch", "battery", "fender", "compass", "bilge pump")


class Cost(NamedTuple):
    """What a command took: seconds, and mebibytes resident at its peak."""

    seconds: float
    peak: float


def generate(path: Path, rows: int) -> None:
    """Write a file of products in random order; every tenth has quotes, every fifth no text."""
    rng = random.Random(rows)  # noqa: S311 - the same file every time
    numbers = [*range(rows)]
    rng.shuffle(numbers)
    with path.open("w", encoding="utf-8", newline="") as target:
        writer = csv.writer(target, lineterminator="\n")
        writer.writerow(("code", "name", "description", "price"))
        for number in numbers:
            noun = rng.choice(NOUNS)
            name = f"{rng.choice(ADJECTIVES)} {noun} {number % 97} mm"
            quoted = ', known as "the good one"' if number % 10 == 0 else ""
            text = f"A {noun} for boats of {number % 23} m{quoted}, made to last for seasons."
            price = f"{rng.randrange(1_000_000)}.{number % 100:02}"
            writer.writerow((f"P-{number:08}", name, text if number % 5 else "", price))


def tidegate(url: str, *arguments: str) -> Cost:
    """Run a command against a database, as a user would."""
    environment = {
        **os.environ,
        "DATABASE_URL": url,
        "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))),
    }
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "service", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"tidegate {' '.join(arguments)} exited with {process.returncode}")
    return Cost(time.perf_counter() - start, usage.ru_maxrss / 1024)


def measure(url: str, database: str, source: Path, rows: int) -> None:
    """Print a line of the table for each command."""
    tidegate(url, "migrate", "up")
    target = source.with_suffix(".ndjson")
    commands = {
        "import, all new": ("import", str(source)),
        "import, all known and equal": ("import", str(source)),
        "export": ("export", str(target)),
        "import of the export": ("import", str(target), "--strict"),
    }
    for name, command in commands.items():
        cost = tidegate(url, "catalog", *command)
        print(
            f"| {database} | {name} | {rows:,} | {cost.seconds:.1f} |"
            f" {rows / cost.seconds:,.0f} | {cost.peak:.0f} |",
            flush=True,
        )


@contextmanager
def postgres() -> Iterator[str]:
    """A new, empty PostgreSQL database."""
    with running(PostgresServer(**DURABLE)) as server:
        yield server.url()


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    most: int = parser.parse_args().rows
    print("| database | command | rows | s | rows/s | peak MiB |")
    print("|---|---|---:|---:|---:|---:|")
    for rows in (max(1, most // 10), most):
        with tempfile.TemporaryDirectory() as directory:
            source = Path(directory, "products.csv")
            generate(source, rows)
            with postgres() as url:
                measure(url, "PostgreSQL 18", source, rows)
            measure(f"sqlite:///{directory}/bench.db", "SQLite", source, rows)


if __name__ == "__main__":
    main()

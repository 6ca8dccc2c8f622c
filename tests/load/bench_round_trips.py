"""How often a read goes to the server and back: the stock pattern beside a read session.

Run `python -m tests.load.bench_round_trips`. It starts its own PostgreSQL, and counts on the wire:
a round trip is whatever the client sends after the server was the last to speak.
"""

import argparse
import socket
import threading
import time
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from typing import Final, NamedTuple

from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session, sessionmaker

from service.database import DatabaseSettings, process, read_session, write_session
from service.product_catalog.models import Product
from tests.load.measuring import figure, header, interleaved, row
from tests.support.database_server import running
from tests.support.databases import PostgresDatabases, migrate
from tests.support.postgres import PostgresServer

STOCK: Final = "stock, pool_pre_ping"
_CHUNK: Final = 1 << 16


class Relay:
    """Passes bytes between clients and a server, and counts the round trips.

    Args:
        port: Where the server listens.
    """

    def __init__(self, port: int) -> None:
        self.round_trips = 0
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection(("127.0.0.1", self._server_port))
            for each in (client, server):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answered = threading.Event()
            answered.set()
            for work in (
                partial(self._requests, client, server, answered),
                partial(self._answers, server, client, answered),
            ):
                threading.Thread(target=work, daemon=True).start()

    def _requests(
        self, client: socket.socket, server: socket.socket, answered: threading.Event
    ) -> None:
        while data := client.recv(_CHUNK):
            if answered.is_set():
                self.round_trips += 1
                answered.clear()
            server.sendall(data)
        server.close()

    def _answers(
        self, server: socket.socket, client: socket.socket, answered: threading.Event
    ) -> None:
        try:
            while data := server.recv(_CHUNK):
                answered.set()
                client.sendall(data)
        except OSError:  # the client is gone
            return


class Cost(NamedTuple):
    """What one read takes."""

    round_trips: float
    microseconds: float


def cost(relay: Relay, read: Callable[[], None], count: int) -> Cost:
    """Read so many times."""
    before, start = relay.round_trips, time.perf_counter()
    for _ in range(count):
        read()
    seconds = time.perf_counter() - start
    return Cost((relay.round_trips - before) / count, seconds / count * 1e6)


def stock_read(sessions: sessionmaker[Session]) -> None:
    """The pattern of the tutorials."""
    with sessions() as session:
        session.get(Product, 1)


def read() -> None:
    """Ours."""
    with read_session() as session:
        session.get(Product, 1)


def measure(relay: Relay, url: str, rounds: int, count: int) -> None:
    """Print the table."""
    through = make_url(url).set(port=relay.port)
    stock = sessionmaker(
        create_engine(through.set(drivername="postgresql+psycopg2"), pool_pre_ping=True)
    )
    process.configure(DatabaseSettings(url=through.render_as_string(hide_password=False)))
    with write_session() as session:
        session.add(Product(code="ROPE", name="Rope", price=Decimal("19.90")))
    variants = {
        STOCK: partial(cost, relay, partial(stock_read, stock), count),
        "Tidegate": partial(cost, relay, read, count),
    }
    results = interleaved(variants, rounds)
    header("read by key", "round trips", "µs, with the relay", "stock / this")
    for name, costs in results.items():
        row(
            name,
            figure([each.round_trips for each in costs]),
            figure([each.microseconds for each in costs]),
            figure(
                [
                    other.microseconds / each.microseconds
                    for other, each in zip(results[STOCK], costs, strict=True)
                ]
            ),
        )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--count", type=int, default=500, help="reads in each round")
    arguments = parser.parse_args()
    with running(PostgresServer()) as server:
        url = PostgresDatabases(server.url()).create("bench")
        migrate(url)
        measure(Relay(server.port), url, arguments.rounds, arguments.count)


if __name__ == "__main__":
    main()

"""The ways in which a database fails: each is caused for real, and ended."""

import contextlib
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Collection
from typing import ClassVar, Final

import psutil
import psycopg2
from psycopg2.extensions import connection as Connection  # noqa: N812 - the class's own name

from tests.faults import network
from tests.support.polling import eventually
from tests.support.postgres import PostgresServer

# More than the service takes, and few enough to take them all in no time.
_MAX_CONNECTIONS: Final = "40"


class Fault(ABC):
    """One way in which a database fails. Each run of it has a server of its own."""

    name: ClassVar[str]
    # One sentence that says what is done.
    story: ClassVar[str]
    # Whether the database is away until `end` is called; else `cause` sees it back.
    lasts: ClassVar[bool] = True
    # Whether nothing of the database can be reached meanwhile.
    is_outage: ClassVar[bool] = True

    def missing(self) -> str | None:
        """What this fault needs and this machine has not."""
        return None

    def server(self) -> PostgresServer:
        """The server that is going to fail; not started."""
        return PostgresServer(max_connections=_MAX_CONNECTIONS)

    @abstractmethod
    def cause(self, server: PostgresServer) -> None:
        """Let it happen."""

    def end(self, server: PostgresServer) -> None:
        """Let it be over; the database can be reached when this returns."""
        del server


class Killed(Fault):
    """The whole server goes at once."""

    name = "killed"
    story = "PostgreSQL's main process is killed with -9; later it is started, and recovers."

    def cause(self, server: PostgresServer) -> None:
        """Kill it."""
        server.kill()

    def end(self, server: PostgresServer) -> None:
        """Start it."""
        server.start()


class SessionKilled(Fault):
    """What happens when the kernel is out of memory."""

    name = "session-killed"
    story = (
        "One session's process is killed with -9, as by the kernel when memory is short:"
        " PostgreSQL ends all the others, recovers, and goes on by itself."
    )
    lasts = False

    def cause(self, server: PostgresServer) -> None:
        """Kill a session of the service, and wait until the server has recovered."""
        with contextlib.closing(psycopg2.connect(server.url())) as ours:
            victim = psutil.Process(_sessions(ours, [ours.info.backend_pid])[0])
        victim.kill()
        psutil.wait_procs([victim], timeout=10)
        eventually(server.accepts, within=30)


class Restarted(Fault):
    """A restart by an operator."""

    name = "restarted"
    story = "PostgreSQL is shut down the fast way and started again at once."
    lasts = False

    def cause(self, server: PostgresServer) -> None:
        """Restart it."""
        server.stop()
        server.start()


class ShutDown(Fault):
    """Maintenance that takes a while."""

    name = "shut-down"
    story = "PostgreSQL is shut down the fast way; later it is started."

    def cause(self, server: PostgresServer) -> None:
        """Stop it."""
        server.stop()

    def end(self, server: PostgresServer) -> None:
        """Start it."""
        server.start()


class Hung(Fault):
    """A host that stalls: memory, disk, or its hypervisor."""

    name = "stopped"
    story = (
        "All processes of PostgreSQL are stopped with SIGSTOP: connections stay open, the kernel"
        " acknowledges, nobody answers. Later they continue."
    )

    def cause(self, server: PostgresServer) -> None:
        """Stop them."""
        server.pause()

    def end(self, server: PostgresServer) -> None:
        """Let them go on."""
        server.resume()


class CutOff(Fault):
    """A network that loses everything."""

    name = "cut-off"
    story = (
        "PostgreSQL runs in a network namespace, and its firewall drops every packet, both ways and"
        " without a word; later it lets them through."
    )

    def missing(self) -> str | None:
        """Whether there can be a network of its own."""
        return network.missing()

    def server(self) -> PostgresServer:
        """One in such a network."""
        return network.FarServer(max_connections=_MAX_CONNECTIONS)

    def cause(self, server: PostgresServer) -> None:
        """Drop all packets."""
        assert isinstance(server, network.FarServer)
        server.network.drop_packets()

    def end(self, server: PostgresServer) -> None:
        """Drop none."""
        assert isinstance(server, network.FarServer)
        server.network.pass_packets()


class OutOfConnections(Fault):
    """Others have taken all that there are."""

    name = "out-of-connections"
    story = (
        "Others take every connection that `max_connections` allows, those of the service too"
        " (its sessions are ended, and others are faster). Later they go."
    )
    # How many sessions the service keeps: those that it opened first.
    kept: ClassVar[int] = 0

    def __init__(self) -> None:
        self._taken: list[Connection] = []

    def cause(self, server: PostgresServer) -> None:
        """Take them all."""
        deadline = time.monotonic() + 30
        self._take_free(server)
        while self._end_sessions():
            self._take_free(server)
            if time.monotonic() > deadline:
                raise AssertionError("the service was always faster")

    def end(self, server: PostgresServer) -> None:
        """Give them back."""
        del server
        while self._taken:
            self._taken.pop().close()

    def _take_free(self, server: PostgresServer) -> None:
        with contextlib.suppress(psycopg2.OperationalError):
            while True:
                self._taken.append(psycopg2.connect(server.url()))

    def _end_sessions(self) -> bool:
        """End the sessions of everybody else but for those to keep; whether there were any."""
        taken = {each.info.backend_pid for each in self._taken}
        sessions = _sessions(self._taken[0], taken)[self.kept :]
        for session in sessions:
            with contextlib.suppress(ProcessLookupError):
                os.kill(session, signal.SIGTERM)
        return bool(sessions)


class FewConnections(OutOfConnections):
    """Others have taken most of them."""

    name = "few-connections"
    story = (
        "Others take every connection that `max_connections` allows, but for four that the service"
        " keeps: of its pool, and of its health monitor. Later they go."
    )
    kept = 4
    is_outage = False


def _sessions(connection: Connection, ours: Collection[int]) -> list[int]:
    """The processes of a server's sessions in the order of their start, but for ours."""
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'"
            " ORDER BY backend_start"
        )
        return [pid for (pid,) in cursor.fetchall() if pid not in ours]


FAULTS: Final[tuple[type[Fault], ...]] = (
    Killed,
    SessionKilled,
    Restarted,
    ShutDown,
    Hung,
    CutOff,
    OutOfConnections,
    FewConnections,
)

"""What a database server says of itself: its version, its clock, and how it is connected."""

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection, text

from service.doctor.findings import Finding, Findings

# The oldest that the service is made for: PostgreSQL 14 notices by itself that a client is gone
# (client_connection_check_interval), MariaDB 10.6 and SQLite 3.35 know INSERT ... RETURNING.
_OLDEST: Final = {"postgresql": (14,), "mariadb": (10, 6), "sqlite": (3, 35)}
_NAMES: Final = {"postgresql": "PostgreSQL", "mariadb": "MariaDB", "sqlite": "SQLite"}
_MOST_SKEW_SECONDS: Final = 1.0
_SLOW_SECONDS: Final = 0.02
_ROUND_TRIPS: Final = 5

_CLOCKS: Final = {
    "postgresql": text("SELECT extract(epoch FROM clock_timestamp())"),
    "mariadb": text("SELECT unix_timestamp(current_timestamp(6))"),
}
_TLS: Final = {
    "postgresql": text("SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl"),
    "mariadb": text(
        "SELECT variable_value FROM information_schema.session_status"
        " WHERE variable_name = 'Ssl_version' AND variable_value <> ''"
    ),
}
_IS_READ_ONLY: Final = {
    "postgresql": text("SELECT pg_is_in_recovery()"),
    "mariadb": text("SELECT @@read_only"),
}


def examine_server(
    connection: Connection,
    setting: str,
    *,
    connect_seconds: float,
    needs_tls: bool,
    is_replica: bool = False,
) -> Iterator[Finding]:
    """Look at the server at the other end.

    Args:
        connection: A connection to it.
        setting: Which setting names it.
        connect_seconds: How long it took to open the connection.
        needs_tls: Whether what goes over the network has to be encrypted.
        is_replica: Whether it is meant to be one.
    """
    dialect = connection.dialect.name
    findings = Findings("database", setting)
    latency = _latency(connection)
    told = (
        f"reachable: connected in {connect_seconds * 1000:.0f} ms,"
        f" a round trip takes {latency * 1000:.1f} ms"
    )
    yield findings.judged(
        latency < _SLOW_SECONDS, told, "bring the service and its server closer together"
    )
    yield _version(connection, setting)
    if dialect == "sqlite":
        return
    yield _tls(connection, findings, needs_tls=needs_tls)
    yield from _role(connection, findings, is_replica=is_replica)
    yield _clock(connection, setting)


def _latency(connection: Connection) -> float:
    times = []
    for _ in range(_ROUND_TRIPS):
        start = time.perf_counter()
        connection.execute(text("SELECT 1"))
        times.append(time.perf_counter() - start)
    # The slower ones tell what this process had to do beside: all else is looked at meanwhile.
    return min(times)


def _version(connection: Connection, setting: str) -> Finding:
    dialect = connection.dialect.name
    query = "SELECT sqlite_version()" if dialect == "sqlite" else "SELECT version()"
    said = connection.execute(text(query)).scalar_one()
    match = re.search(r"\d+(\.\d+)*", said)
    number = match[0] if match else ""
    driver = connection.dialect.loaded_dbapi
    # psycopg2's has what it was built with after it.
    driver_version = str(getattr(driver, "__version__", "")).partition(" ")[0]
    oldest = _OLDEST[dialect]
    is_new_enough = tuple(map(int, number.split("."))) >= oldest if number else False
    return Findings("versions", setting).judged(
        is_new_enough,
        f"{_NAMES[dialect]} {number} by {connection.dialect.driver} {driver_version}".rstrip(),
        f"upgrade the server to {'.'.join(map(str, oldest))} or newer",
    )


def _tls(connection: Connection, findings: Findings, *, needs_tls: bool) -> Finding:
    version = connection.execute(_TLS[connection.dialect.name]).scalar()
    if version:
        return findings.passed(f"encrypted by {version}")
    return findings.judged(
        not needs_tls,
        "not encrypted",
        "ask for TLS in the URL (?sslmode=verify-full, or ?ssl_ca=), and set it up on the server",
    )


def _role(connection: Connection, findings: Findings, *, is_replica: bool) -> Iterator[Finding]:
    is_read_only = bool(connection.execute(_IS_READ_ONLY[connection.dialect.name]).scalar())
    if is_replica and not is_read_only:
        yield findings.warned("it is a primary, and no replica", "name a replica, or unset it")
    elif is_read_only and not is_replica:
        yield findings.failed(
            "it only reads: a replica, or a primary that is set so", "name the primary"
        )


def _clock(connection: Connection, setting: str) -> Finding:
    before = datetime.now(UTC).timestamp()
    theirs = float(connection.execute(_CLOCKS[connection.dialect.name]).scalar_one())
    after = datetime.now(UTC).timestamp()
    # Within these bounds the clocks agree as far as can be told.
    skew = max(theirs - after, before - theirs, 0.0)
    return Findings("clock", setting).judged(
        skew <= _MOST_SKEW_SECONDS,
        f"{skew:.3f} s apart from the server's",
        "let both machines take their time by NTP: timestamps and logs contradict each other",
    )

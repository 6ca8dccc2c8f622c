"""Locks of PostgreSQL that tests hold, so that what they look at cannot go on."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg2

from tests.support.postgres import fetch


@contextmanager
def locked_table(url: str, table: str = "products") -> Iterator[None]:
    """Let nobody read or write a table, for as long as the context is open."""
    connection = psycopg2.connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        yield
    finally:
        connection.close()


def waiting_for_locks(url: str) -> int:
    """How many queries of the service wait for a lock."""
    ((number,),) = fetch(
        url,
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND application_name = 'tidegate' AND wait_event_type = 'Lock'",
    )
    return int(number)

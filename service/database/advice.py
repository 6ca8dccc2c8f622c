"""What to do about a database that cannot be used, by the reason."""

from collections.abc import Mapping
from typing import Final

_ADVICE: Final[Mapping[str, str]] = {
    "authentication_failed": "correct the user or the password in {setting}, or on the server",
    "database_missing": "create the database that {setting} names, or correct its name there",
    "connection_lost": "start the database server, or correct the host and port in {setting}",
    "deadline_exceeded": "see whether the database server hangs, or the network drops its packets",
    "too_many_connections": (
        "raise the server's connection limit, or lower DATABASE_POOL_SIZE or the number of replicas"
    ),
}


def failure_advice(reason: str, setting: str = "DATABASE_URL") -> str | None:
    """What to do; None where only the log knows.

    Args:
        reason: A word of `failure_reason`.
        setting: Which setting tells how to reach the database.
    """
    advice = _ADVICE.get(reason)
    return advice.format(setting=setting) if advice is not None else None

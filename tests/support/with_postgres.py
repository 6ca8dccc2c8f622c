"""Run a command with a PostgreSQL of its own: `python -m tests.support.with_postgres COMMAND…`.

`DATABASE_URL` names it, and so does every other setting that may name a database. Where
`DATABASE_URL` is set already, the command gets all of them as they are.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from tests.support.database_server import running
from tests.support.postgres import PostgresServer


def run(command: Sequence[str]) -> int:
    """Run it; returns its exit code."""
    if os.environ.get("DATABASE_URL"):
        return _run(command, {})
    with running(PostgresServer()) as server:
        names = ("DATABASE_URL", "MIGRATE_DATABASE_URL", "MIGRATE_SCRATCH_URL")
        return _run(command, dict.fromkeys(names, server.url()))


def _run(command: Sequence[str], variables: Mapping[str, str]) -> int:
    return subprocess.run(command, env={**os.environ, **variables}, check=False).returncode


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))

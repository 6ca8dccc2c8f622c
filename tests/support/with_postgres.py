"""Run a command with a PostgreSQL of its own: `python -m tests.support.with_postgres COMMAND…`.

`DATABASE_URL` names it. Where that is set already the command gets it as it is.
"""

import os
import subprocess
import sys
from collections.abc import Sequence

from tests.support.postgres import PostgresServer


def run(command: Sequence[str]) -> int:
    """Run it; returns its exit code."""
    if os.environ.get("DATABASE_URL"):
        return _run(command, os.environ["DATABASE_URL"])
    server = PostgresServer()
    try:
        server.start()
        return _run(command, server.url())
    finally:
        server.remove()


def _run(command: Sequence[str], url: str) -> int:
    return subprocess.run(command, env={**os.environ, "DATABASE_URL": url}, check=False).returncode


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))

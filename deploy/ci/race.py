"""Start several `tidegate migrate up` at once on an empty database, as the pods of a deploy do.

All have to succeed, and each revision has to be applied once. The database is a scratch one on the
server of `DATABASE_URL`.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from service.database import DatabaseSettings
from service.migrator.revisions import Revisions
from service.migrator.scratch import Scratch

_RUNNERS: Final = 8


def main() -> int:
    """Run the race; returns the exit code."""
    with Scratch(DatabaseSettings.load()).url() as url:
        ended = _race(url)
    applied = Counter(
        revision["revision"] for _, told in ended for revision in told.get("revisions", ())
    )
    for number, (code, told) in enumerate(ended, 1):
        words = told.get("error") or f"applied {len(told.get('revisions', ()))}"
        print(f"runner {number}: exit {code}, {words}")
    is_fair = applied == Counter([*Revisions().known])
    print("each revision was applied once" if is_fair else f"applied: {dict(applied)}")
    return 0 if is_fair and all(code == 0 for code, _ in ended) else 1


def _race(url: str) -> list[tuple[int, dict[str, Any]]]:
    # Each waits for its end in a thread: one whose pipe is full would hold up all the others.
    with ThreadPoolExecutor(_RUNNERS) as runners:
        return [*runners.map(_run, [url] * _RUNNERS)]


def _run(url: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "service", "migrate", "up", "--json"],
        env={**os.environ, "DATABASE_URL": url, "MIGRATE_DATABASE_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    # One that fails before it can say so in JSON says it there.
    lines = done.stderr.splitlines() or ["said nothing"]
    return done.returncode, json.loads(done.stdout) if done.stdout else {"error": lines[-1]}


if __name__ == "__main__":
    sys.exit(main())

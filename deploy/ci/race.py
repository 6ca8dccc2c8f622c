"""Start several `tidegate migrate up` at once on an empty database, as the pods of a deploy do.

All have to succeed, and each revision has to be applied once. The database is a scratch one on the
server of `DATABASE_URL`.
"""

import json
import os
import subprocess
import sys
from collections import Counter
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
    expected = Counter(Revisions().known)
    for number, (code, told) in enumerate(ended, 1):
        words = told.get("error") or f"applied {len(told.get('revisions', ()))}"
        print(f"runner {number}: exit {code}, {words}")
    is_fair = applied == Counter(dict.fromkeys(expected, 1))
    print("each revision was applied once" if is_fair else f"applied: {dict(applied)}")
    return 0 if is_fair and all(code == 0 for code, _ in ended) else 1


def _race(url: str) -> list[tuple[int, dict[str, Any]]]:
    runners = [
        subprocess.Popen(
            [sys.executable, "-m", "service", "migrate", "up", "--json"],
            env={**os.environ, "DATABASE_URL": url, "MIGRATE_DATABASE_URL": url},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(_RUNNERS)
    ]
    return [
        (runner.wait(), json.loads(output or "{}"))
        for runner, (output, _) in [(runner, runner.communicate()) for runner in runners]
    ]


if __name__ == "__main__":
    sys.exit(main())

"""What the tests of the deployment share: commands, deadlines, and honest skips."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path(__file__).parents[2]


def missing(reason: str) -> NoReturn:
    """Skip with the reason; in CI, where every part must be there, fail with it."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def run(
    *command: str | Path,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a command from the root of the repository; a failure shows what it wrote."""
    arguments = [str(word) for word in command]
    done = subprocess.run(
        [shutil.which(arguments[0]) or arguments[0], *arguments[1:]],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode:
        pytest.fail(
            f"{' '.join(arguments)} exited {done.returncode}\n{done.stdout}\n{done.stderr}",
            pytrace=False,
        )
    return done

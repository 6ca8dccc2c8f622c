"""Running the commands of the deployment."""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.server import ROOT


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

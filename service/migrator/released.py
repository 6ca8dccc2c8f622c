"""Which revisions a Git reference has, such as the branch that a change goes into."""

import subprocess
from collections.abc import Mapping
from pathlib import Path

from alembic.script import Script

from service.migrator.errors import UsageError
from service.migrator.revisions import Revisions


def released(versions: Path, ref: str) -> Mapping[str, bytes]:
    """The files of a directory at a reference, by their names.

    Args:
        versions: The directory, within a checkout.
        ref: A commit, branch or tag.

    Raises:
        UsageError: There is no Git, no checkout, or no such reference.
    """
    listed = _git(versions, "ls-tree", "-z", "--name-only", "--end-of-options", f"{ref}^{{tree}}")
    names = [name for name in listed.decode().split("\0") if name.endswith(".py")]
    return {name: _git(versions, "show", f"{ref}:./{name}") for name in names}


def unreleased(revisions: Revisions, ref: str) -> list[Script]:
    """The revisions that a reference does not have, from the first to the last.

    Raises:
        UsageError: As `released`.
    """
    before = released(revisions.versions, ref)
    scripts = revisions.known.values()
    return [script for script in scripts if Path(script.path).name not in before]


def last_released(revisions: Revisions, ref: str) -> str | None:
    """The last revision that a reference has; None if it has none.

    Raises:
        UsageError: As `released`.
    """
    new = {script.revision for script in unreleased(revisions, ref)}
    return next((name for name in reversed(revisions.known) if name not in new), None)


def _git(versions: Path, *words: str) -> bytes:
    try:
        done = subprocess.run(  # noqa: S603 - no shell, and what is given is no option
            ["git", "-C", str(versions), *words],  # noqa: S607 - found on PATH, as a shell would
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        raise UsageError("--since needs git, which is not installed") from None
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().partition("\n")[0]
        raise UsageError(f"--since: {reason}; fetch it first (git fetch origin BRANCH)")
    return done.stdout

"""Revisions that a test writes, in a directory of their own, run by the service's environment."""

import subprocess
from pathlib import Path
from textwrap import dedent, indent

from sqlalchemy import MetaData

from service.migrator.revisions import Revisions

_FILE = '''"""{title}."""

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = {down_revision!r}
branch_labels = None
depends_on = None

{head}


def upgrade() -> None:
    """Go forward."""
{upgrade}


def downgrade() -> None:
    """Go back."""
{downgrade}
'''


def write_revision(  # noqa: PLR0913 - what a revision consists of
    path: Path,
    revision: str,
    *,
    after: str | None,
    title: str,
    upgrade: str,
    downgrade: str,
    head: str,
) -> None:
    """Write the file of a revision.

    Args:
        path: Which file.
        revision: Its identifier.
        after: The revision before it, if there is one.
        title: What it is called.
        upgrade: The body of its function.
        downgrade: The body of the other one.
        head: What stands before the functions.
    """
    path.write_text(
        _FILE.format(
            title=title,
            revision=revision,
            down_revision=after,
            head=dedent(head).strip(),
            upgrade=indent(dedent(upgrade).strip(), "    "),
            downgrade=indent(dedent(downgrade).strip(), "    "),
        )
    )


def git(directory: Path, *words: str) -> None:
    """Run Git in a directory, as somebody."""
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    command = ["git", "-C", str(directory), *identity, *words]
    subprocess.run(command, check=True, capture_output=True)


class RevisionProject:
    """A directory of revisions.

    Args:
        directory: Where to make it.
    """

    def __init__(self, directory: Path) -> None:
        self.versions = directory / "versions"
        self.versions.mkdir()
        self.files: dict[str, Path] = {}

    def add(
        self,
        upgrade: str,
        downgrade: str = "pass",
        *,
        head: str = 'phase = "expand"',
        after: str | None = "",
    ) -> str:
        """Write a revision; returns its identifier.

        Args:
            upgrade: The body of its function.
            downgrade: The body of the other one.
            head: What stands before the functions.
            after: The one before it; the last one that was written when left out.
        """
        number = len(self.files) + 1
        revision = f"{number:012d}"
        before = (list(self.files)[-1] if self.files else None) if after == "" else after
        path = self.versions / f"2026_01_{number:02d}_0900-{revision}_change_{number}.py"
        write_revision(
            path,
            revision,
            after=before,
            title=f"Change {number}",
            upgrade=upgrade,
            downgrade=downgrade,
            head=head,
        )
        self.files[revision] = path
        return revision

    def line(self, revision: str, words: str) -> int:
        """The number of the first line of a revision's file that holds these words."""
        lines = self.files[revision].read_text().splitlines()
        return next(number for number, line in enumerate(lines, 1) if words in line)

    def revisions(self, models: MetaData | None = None) -> Revisions:
        """The revisions, with the models that they are for."""
        revisions = Revisions(self.versions)
        revisions.config.attributes["metadata"] = models or MetaData()
        return revisions

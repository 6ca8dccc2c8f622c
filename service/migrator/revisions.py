"""The revisions of this release, and where a database stands among them."""

from argparse import Namespace
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util.exc import CommandError
from sqlalchemy import Connection

import service.migrations
from service.migrator.errors import HeadsError, MigrationError, UsageError
from service.migrator.history import read_history
from service.migrator.schema_status import SchemaState, SchemaStatus, status_ahead

_FILE_NAME: Final = "%(year)d_%(month).2d_%(day).2d_%(hour).2d%(minute).2d-%(rev)s_%(slug)s"
ENVIRONMENT: Final = Path(*service.migrations.__path__)
VERSIONS: Final = ENVIRONMENT / "versions"


class Revisions:
    """The revisions that this release ships, or those of a directory.

    Args:
        versions: Where the files of the revisions lie; those of this release when left out.
    """

    def __init__(self, versions: Path | None = None) -> None:
        self.versions = versions or VERSIONS

    @cached_property
    def config(self) -> Config:
        """Alembic's configuration, without any file."""
        # What Alembic says itself goes to standard output, which is for the command's answer.
        config = Config(cmd_opts=Namespace(quiet=True, x=None))
        options = {
            "script_location": str(ENVIRONMENT),
            "version_locations": str(self.versions),
            "path_separator": "os",
            "file_template": _FILE_NAME,
            "timezone": "UTC",
        }
        for name, value in options.items():
            # The configuration's own format takes a single one for a reference.
            config.set_main_option(name, value.replace("%", "%%"))
        return config

    @cached_property
    def scripts(self) -> ScriptDirectory:
        """Alembic's view of the revision files."""
        return ScriptDirectory.from_config(self.config)

    @cached_property
    def head(self) -> str:
        """The last revision.

        Raises:
            HeadsError: There are several, or none.
        """
        heads = self.scripts.get_heads()
        if not heads:
            raise HeadsError(f"there is no revision in {self.versions}")
        if len(heads) > 1:
            raise HeadsError(complaint_of_heads(heads))
        return heads[0]

    @cached_property
    def known(self) -> dict[str, Script]:
        """All revisions by their identifier, from the first to the last."""
        return {script.revision: script for script in reversed([*self.scripts.walk_revisions()])}

    def between(self, start: str | None, end: str = "head") -> list[Script]:
        """The revisions behind one, up to another one, from the first to the last.

        Args:
            start: A revision, or how it begins; None for all from the first one.
            end: The last one, or how it begins.

        Raises:
            MigrationError: There is no such revision, or no way from one to the other.
        """
        try:
            return [*self.scripts.iterate_revisions(end, start or "base")][::-1]
        except (CommandError, RevisionError) as error:
            raise MigrationError(str(error)) from error

    def above(self, target: str, current: str | None) -> list[Script]:
        """The revisions to take back to get somewhere, the last one first.

        Args:
            target: The revision to end at, how it begins, "base" for none, or "-1" for one step.
            current: The revision of the database.

        Raises:
            UsageError: There are not so many.
            MigrationError: There is no such revision, or no way to it.
        """
        if current is None:
            return []
        if not target.startswith("-"):
            return self.between(None if target == "base" else target, current)[::-1]
        steps = self.between(None, current)[::-1]
        if not target[1:].isdecimal() or not 0 < int(target[1:]) <= len(steps):
            raise UsageError(f"{target}: there are {len(steps)} revisions to take back")
        return steps[: int(target[1:])]

    def applied(self, heads: tuple[str, ...]) -> list[Script]:
        """The revisions of a database, from the first to the last.

        Args:
            heads: Where it stands; all of them known here.
        """
        return [*self.scripts.iterate_revisions(heads, "base")][::-1] if heads else []

    def status(self, connection: Connection) -> SchemaStatus:
        """Compare a database with this release.

        Args:
            connection: It is asked two or three things, and left as it is.

        Raises:
            HeadsError: This release has no single head.
        """
        current = MigrationContext.configure(connection).get_current_heads()
        unknown = [revision for revision in current if revision not in self.known]
        if unknown:
            history = read_history(connection)
            return status_ahead(unknown[0], self.head, [*self.known], history)
        applied = {script.revision for script in self.applied(current)}
        pending = tuple(revision for revision in self.known if revision not in applied)
        state = SchemaState.BEHIND if pending else SchemaState.CURRENT
        return SchemaStatus(state, current[0] if current else None, self.head, pending)


def complaint_of_heads(heads: Sequence[str]) -> str:
    """What is wrong with several last revisions, and what to do about it."""
    words = ", ".join(heads)
    return f"{len(heads)} heads ({words}): have one follow the other by its down_revision"

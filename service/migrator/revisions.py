"""The revisions of this release, and where a database stands among them."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util.exc import CommandError
from sqlalchemy import Connection

import service.migrations
from service.migrator.errors import HeadsError, MigrationError

_FILE_NAME: Final = "%(year)d_%(month).2d_%(day).2d_%(hour).2d%(minute).2d-%(rev)s_%(slug)s"
ENVIRONMENT: Final = Path(*service.migrations.__path__)


class SchemaState(StrEnum):
    """How a database's schema compares with what this release expects."""

    CURRENT = "current"
    BEHIND = "behind"
    # A later release has migrated. Until a revision can be told to take something away, that
    # counts as compatible: refusing it would eject every old pod at the first new one.
    AHEAD = "ahead"


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """Where a database stands.

    Args:
        state: The verdict.
        current: Its revision, or None for a database without any.
        head: The last revision of this release.
        pending: What `up` would apply, in order.
    """

    state: SchemaState
    current: str | None
    head: str
    pending: tuple[str, ...]

    @property
    def is_compatible(self) -> bool:
        """Whether this release works with it: what a later one has added is in nobody's way."""
        return self.state is not SchemaState.BEHIND


class Phase(StrEnum):
    """What a revision does to the release before it."""

    # It goes on working.
    EXPAND = "expand"
    # What only it needs is taken away.
    CONTRACT = "contract"


class Revisions:
    """The revisions that this release ships, or those of a directory.

    Args:
        versions: Where the files of the revisions lie; beside Alembic's environment when left out.
    """

    def __init__(self, versions: Path | None = None) -> None:
        self._versions = versions or ENVIRONMENT / "versions"

    @cached_property
    def config(self) -> Config:
        """Alembic's configuration, without any file."""
        config = Config()
        options = {
            "script_location": str(ENVIRONMENT),
            "version_locations": str(self._versions),
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
        if len(heads) != 1:
            raise HeadsError(
                f"{len(heads)} heads ({', '.join(heads)}); join them with `alembic merge heads`"
            )
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

    def run(self, work: Callable[[Any, MigrationContext], Any], **options: Any) -> None:
        """Run Alembic's environment.

        Args:
            work: Given what is applied and the context, what to apply.
            options: Alembic's own, such as `as_sql`.
        """
        with EnvironmentContext(self.config, self.scripts, fn=work, **options):
            self.scripts.run_env()

    def status(self, connection: Connection) -> SchemaStatus:
        """Compare a database with this release.

        Raises:
            HeadsError: This release has no single head.
        """
        current = MigrationContext.configure(connection).get_current_heads()
        unknown = [revision for revision in current if revision not in self.known]
        if unknown:
            return SchemaStatus(SchemaState.AHEAD, unknown[0], self.head, ())
        applied = {
            script.revision
            for script in self.scripts.iterate_revisions(current, "base")
        } if current else set()  # fmt: skip
        pending = tuple(revision for revision in self.known if revision not in applied)
        state = SchemaState.BEHIND if pending else SchemaState.CURRENT
        return SchemaStatus(state, current[0] if current else None, self.head, pending)

    def title(self, revision: str) -> str:
        """A revision with the first line of its description."""
        script = self.known.get(revision)
        return f"{revision} {script.doc}" if script else revision


def phase_of(script: Script) -> Phase:
    """What a revision says that it is.

    Raises:
        MigrationError: It says nothing that is known.
    """
    try:
        return Phase(script.module.phase)
    except (AttributeError, ValueError):
        raise MigrationError(
            f'{Path(script.path).name}: write phase = "expand" or phase = "contract"'
        ) from None

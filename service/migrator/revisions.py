"""The revisions of this release, and where a database stands among them."""

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection

import service.migrations
from service.migrator.errors import HeadsError


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


class Revisions:
    """The revisions that this release ships."""

    @cached_property
    def config(self) -> Config:
        """Alembic's configuration, without any file."""
        config = Config()
        config.set_main_option("script_location", str(Path(*service.migrations.__path__)))
        config.set_main_option("path_separator", "os")
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

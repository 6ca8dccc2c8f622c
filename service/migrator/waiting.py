"""Waiting until somebody else has migrated."""

import time
from typing import Final

from service.database.engine import autocommit_engine
from service.migrator.errors import BehindError
from service.migrator.runner import Runner
from service.migrator.schema_status import SchemaStatus, refuse_incompatible

_POLL_SECONDS: Final = 1.0


def wait_until_compatible(runner: Runner) -> SchemaStatus:
    """Return once this release can work with the database, whoever brings it there.

    Args:
        runner: Has the database, and for how long to wait for it, and then for its schema.

    Raises:
        UnreachableError: The database does not answer.
        BehindError: It was still behind at the end.
        AheadError: A later release took something away.
        HeadsError: This release has no single head.
        StoppedError: Somebody stopped it.
    """
    _ = runner.revisions.head
    told: SchemaStatus | None = None
    # A pod waits by the database URL that it will serve with, and that may be a pooler's.
    with runner.connected(needs_session=False) as engine:
        deadline = time.monotonic() + runner.wait
        while True:
            with autocommit_engine(engine).connect() as connection:
                found = runner.revisions.status(connection)
            if found.is_compatible:
                return found
            refuse_incompatible(found)
            if time.monotonic() >= deadline:
                raise BehindError(
                    f"still at {found.current or 'no revision'} after {runner.wait:g} s, where this"
                    f" release needs {found.head}; is `tidegate migrate up` running?"
                )
            if found != told:
                runner.events.emit(
                    "schema_wait",
                    current=found.current,
                    head=found.head,
                    pending=list(found.pending),
                )
                told = found
            runner.cancellation.wait(_POLL_SECONDS)

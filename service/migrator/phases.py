"""What a revision says of itself: its phase, its timeouts, whether it can be taken back."""

from enum import StrEnum
from pathlib import Path
from typing import Any

from alembic.script import Script

from service.migrator.errors import MigrationError
from service.migrator.settings import MigratorSettings


class Phase(StrEnum):
    """What a revision does to the release before it."""

    # It goes on working.
    EXPAND = "expand"
    # What only it needs is taken away.
    CONTRACT = "contract"


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


def timeout_of(script: Script, name: str, default: float) -> float:
    """A timeout of a revision.

    Args:
        script: Which.
        name: "lock_timeout" or "statement_timeout".
        default: The seconds when it says nothing.

    Raises:
        MigrationError: It is no number of seconds above 0.
    """
    value = getattr(script.module, name, None)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise MigrationError(f"{Path(script.path).name}: {name} is a number of seconds above 0")
    return float(value)


def describe(script: Script, limits: MigratorSettings) -> dict[str, Any]:
    """A revision with the timeouts that it would have, in seconds.

    Raises:
        MigrationError: What it says of itself is wrong.
    """
    return {
        "revision": script.revision,
        "title": script.doc,
        "phase": str(phase_of(script)),
        "lock_timeout": timeout_of(script, "lock_timeout", limits.lock_timeout),
        "statement_timeout": timeout_of(script, "statement_timeout", limits.statement_timeout),
    }


def irreversible_reason(script: Script) -> str | None:
    """Why a revision cannot be taken back: its `irreversible`, or None if it can.

    Raises:
        MigrationError: It gives no reason.
    """
    reason = getattr(script.module, "irreversible", None)
    if reason is None or (isinstance(reason, str) and reason.strip()):
        return reason
    raise MigrationError(f"{Path(script.path).name}: irreversible is a reason, in words")

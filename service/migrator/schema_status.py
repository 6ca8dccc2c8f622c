"""How a database's schema compares with what this release expects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from service.migrator.errors import AheadError, ExitCode, MigrationError
from service.migrator.history import AppliedRevision
from service.migrator.phases import Phase


class SchemaState(StrEnum):
    """How a database's schema compares with what this release expects."""

    CURRENT = "current"
    BEHIND = "behind"
    # A later release has added to it; to refuse that would eject every old pod at the first new
    # one.
    AHEAD = "ahead"
    # A later release has taken something away.
    AHEAD_PAST_CONTRACT = "ahead_past_contract"
    # It has what is not known here, and lacks what is.
    DIVERGED = "diverged"

    @property
    def exit_code(self) -> ExitCode:
        """How a command ends that finds it so."""
        return _EXIT_CODES.get(self, ExitCode.DONE)


_EXIT_CODES = {
    SchemaState.BEHIND: ExitCode.BEHIND,
    SchemaState.AHEAD_PAST_CONTRACT: ExitCode.AHEAD,
    SchemaState.DIVERGED: ExitCode.FAILED,
}


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """Where a database stands.

    Args:
        state: The verdict.
        current: Its revision, or None for a database without any.
        head: The last revision of this release.
        pending: What `up` would apply, in order; of a database that diverged, what it lacks.
        contracts: The revisions unknown to this release that took something away.
        is_phase_known: Whether the phases of unknown revisions could be read. If not, they are
            taken for expansions: to take them for more would eject every pod of this release, at
            each migration, from a service that works.
    """

    state: SchemaState
    current: str | None
    head: str
    pending: tuple[str, ...]
    contracts: tuple[str, ...] = ()
    is_phase_known: bool = True

    @property
    def is_compatible(self) -> bool:
        """Whether this release can work with it."""
        return self.state in (SchemaState.CURRENT, SchemaState.AHEAD)


def status_ahead(
    current: str,
    head: str,
    known: Sequence[str],
    history: Mapping[str, AppliedRevision] | None,
) -> SchemaStatus:
    """Tell what a revision means that this release does not have.

    Args:
        current: That revision.
        head: The last revision of this release.
        known: All revisions of this release.
        history: What the database remembers, if it could be read.
    """
    if history is None or current not in history:
        return SchemaStatus(SchemaState.AHEAD, current, head, (), is_phase_known=False)
    lacking = tuple(revision for revision in known if revision not in history)
    contracts = tuple(
        revision
        for revision, applied in history.items()
        if revision not in known and applied.phase is Phase.CONTRACT
    )
    if lacking:
        state = SchemaState.DIVERGED
    else:
        state = SchemaState.AHEAD_PAST_CONTRACT if contracts else SchemaState.AHEAD
    return SchemaStatus(state, current, head, lacking, contracts)


def refuse_incompatible(found: SchemaStatus) -> None:
    """Refuse a database that this release can neither work with nor change.

    Raises:
        AheadError: A later release took something away.
        MigrationError: It has what is not known here, and lacks what is.
    """
    if found.state is SchemaState.AHEAD_PAST_CONTRACT:
        raise AheadError(
            f"the database is at {found.current}; {', '.join(found.contracts)} of a later release"
            " took away what this one needs: run that release, or take it back by that"
            " release's `tidegate migrate down`"
        )
    if found.state is SchemaState.DIVERGED:
        raise MigrationError(
            f"the database is at {found.current}, which is unknown here, and lacks"
            f" {', '.join(found.pending)}: the releases have different histories"
        )

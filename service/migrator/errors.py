"""Why a migration did not run, each with the exit code that a script sees."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of `tidegate migrate`."""

    # Done, nothing to do, or a later release's schema that this one can work with.
    DONE = 0
    USAGE = 2
    LOCK_BUSY = 10
    UNREACHABLE = 11
    LOCK_RETRIES = 12
    BEHIND = 20
    AHEAD = 21
    LINT = 30
    HEADS = 31
    DRIFT = 32
    ROUND_TRIP = 33
    CHECKSUM = 34
    FAILED = 40
    # As a shell tells of a process that a signal ended.
    INTERRUPTED = 130
    TERMINATED = 143


class MigrationError(Exception):
    """A migration did not run; the text is one line for whoever runs it."""

    exit_code = ExitCode.FAILED


class UsageError(MigrationError):
    """What was asked for cannot be done with this configuration."""

    exit_code = ExitCode.USAGE


class LockBusyError(MigrationError):
    """Another runner is at work for longer than this one would wait."""

    exit_code = ExitCode.LOCK_BUSY


class UnreachableError(MigrationError):
    """The database did not answer in time, or refuses the user."""

    exit_code = ExitCode.UNREACHABLE


class LockRetriesError(MigrationError):
    """Others held the tables for longer than the runner would try."""

    exit_code = ExitCode.LOCK_RETRIES


class BehindError(MigrationError):
    """The database lacks revisions that this release needs."""

    exit_code = ExitCode.BEHIND


class AheadError(MigrationError):
    """A later release has taken away what this one needs."""

    exit_code = ExitCode.AHEAD


class HeadsError(MigrationError):
    """The revisions of this release have no single last one."""

    exit_code = ExitCode.HEADS


class ChecksumError(MigrationError):
    """The file of an applied revision is not the one that was applied."""

    exit_code = ExitCode.CHECKSUM


class StoppedError(MigrationError):
    """Somebody stopped the runner.

    Args:
        signum: The signal that did.
    """

    def __init__(self, signum: int) -> None:
        self.exit_code = ExitCode(128 + signum)
        super().__init__("stopped; what was not finished is rolled back")


def first_line(error: BaseException) -> str:
    """The first line of an error's text, which says what went wrong without the statement."""
    return str(error).partition("\n")[0]

"""Why a migration did not run, each with the exit code that a script sees."""

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of `tidegate migrate`."""

    DONE = 0
    USAGE = 2
    LOCK_BUSY = 10
    UNREACHABLE = 11
    BEHIND = 20
    HEADS = 31
    FAILED = 40


class MigrationError(Exception):
    """A migration did not run; the text is one line for whoever runs it."""

    exit_code = ExitCode.FAILED


class LockBusyError(MigrationError):
    """Another runner is at work for longer than this one would wait."""

    exit_code = ExitCode.LOCK_BUSY


class UnreachableError(MigrationError):
    """The database did not answer in time, or refuses the user."""

    exit_code = ExitCode.UNREACHABLE


class HeadsError(MigrationError):
    """The revisions of this release have no single last one."""

    exit_code = ExitCode.HEADS

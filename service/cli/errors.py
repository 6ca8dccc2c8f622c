"""Which errors of a command are one line for its caller, and with which exit code."""

from sqlalchemy.exc import SQLAlchemyError

from service.database import SettingsError
from service.database.failures import SchemaMismatch, classify
from service.migrator.errors import ExitCode, MigrationError
from service.migrator.running import of_database
from service.web.control_directory import ControlError


def explain(error: Exception) -> tuple[str | None, int]:
    """Say what went wrong.

    Returns:
        One line, and the exit code; None for an error that nobody foresaw.
    """
    if isinstance(error, SettingsError | ControlError):
        return str(error), ExitCode.USAGE
    if isinstance(error, MigrationError):
        return str(error), error.exit_code
    if not isinstance(error, SQLAlchemyError):
        return None, 1
    failure = classify(error)
    if isinstance(failure, SchemaMismatch):
        return "the schema is behind this release; run `tidegate migrate up`", ExitCode.BEHIND
    if failure is None:
        return None, 1
    ended = of_database(error)
    return str(ended), ended.exit_code

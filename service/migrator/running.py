"""One run of a command: its events, its end by a signal, and the metrics that it leaves."""

import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy.exc import SQLAlchemyError

from service.database import SettingsError
from service.database.failures import DatabaseFailure, classify
from service.migrator.cancellation import Cancellation
from service.migrator.errors import ExitCode, MigrationError, UnreachableError, first_line
from service.migrator.events import Event, Events, Sink
from service.migrator.metrics import RunMetrics
from service.migrator.runner import Runner, make_runner
from service.migrator.settings import MigratorSettings

ResultT = TypeVar("ResultT")


class Outcome:
    """What a run did to the database, gathered from its events. It is a sink of them."""

    def __init__(self) -> None:
        self.revisions: list[dict[str, Any]] = []

    def __call__(self, event: Event) -> None:
        """Take an event in."""
        if event["event"] == "revision_end":
            self.revisions.append({name: event[name] for name in event if name != "event"})


def run(
    command: str,
    work: Callable[[Runner], ResultT],
    *,
    wait: float,
    sinks: tuple[Sink, ...],
    is_change: bool = False,
) -> ResultT:
    """Do something with a runner, in the main thread.

    Args:
        command: What it is called.
        work: What to do.
        wait: Seconds to wait for the database, and then for another runner.
        sinks: Who is told of the events.
        is_change: Whether it changes the database: then there is a summary, and metrics are written
            and pushed where that is configured.

    Raises:
        SettingsError: A setting is wrong.
        MigrationError: As the work raises it; and for what the database itself failed with.
    """
    limits = MigratorSettings.load()
    metrics, outcome = RunMetrics(), Outcome()
    events = Events(*sinks, metrics, outcome)
    cancellation = Cancellation()
    start = time.monotonic()
    code, complaint = ExitCode.FAILED, None
    try:
        runner = make_runner(wait=wait, events=events, limits=limits, cancellation=cancellation)
        with cancellation.listening():
            result = _foreseen(work, runner)
        code = ExitCode.DONE
    except SettingsError:
        code = ExitCode.USAGE
        raise
    except MigrationError as error:
        code, complaint = error.exit_code, str(error)
        raise
    else:
        return result
    finally:
        if is_change:
            events.emit(
                "summary",
                command=command,
                exit_code=int(code),
                error=complaint,
                revisions=[one["revision"] for one in outcome.revisions],
                seconds=round(time.monotonic() - start, 3),
            )
            _deliver(metrics, limits, events)


def of_database(error: SQLAlchemyError) -> MigrationError:
    """What a command ends with for an error of the database's that nobody foresaw."""
    failure = classify(error)
    # One of no kind of its own was the answer of a database that can be reached.
    if failure is None or type(failure) is DatabaseFailure:
        return MigrationError(first_line(error))
    return UnreachableError(f"the database failed: {failure.reason}")


def _foreseen(work: Callable[[Runner], ResultT], runner: Runner) -> ResultT:
    try:
        return work(runner)
    except SQLAlchemyError as error:
        if runner.cancellation.is_requested:
            raise runner.cancellation.error() from error
        raise of_database(error) from error


def _deliver(metrics: RunMetrics, limits: MigratorSettings, events: Events) -> None:
    """Write and push the metrics; a migration that is done does not fail for them."""
    deliveries: list[tuple[str, Callable[[], None]]] = []
    if (path := limits.metrics_file) is not None:
        deliveries.append(("file", lambda: metrics.write(path)))
    if (url := limits.pushgateway_url) is not None:
        deliveries.append(("push", lambda: metrics.push(url.get_secret_value())))
    for way, deliver in deliveries:
        try:
            deliver()
        except (OSError, ValueError) as error:
            # The text may hold the address, and that a password.
            events.emit("metrics_failed", way=way, reason=type(error).__name__)

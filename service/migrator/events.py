"""What the runner tells while it works: to machines as JSON, to people as a line."""

import sys
from collections.abc import Callable, Mapping
from typing import Any, Final, TextIO

import structlog

Event = Mapping[str, Any]
# Told each event; its name is the value of "event".
Sink = Callable[[Event], None]


class Events:
    """Passes events on.

    Args:
        sinks: To whom.
    """

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = [*sinks]

    def add(self, sink: Sink) -> None:
        """Pass events on to somebody else as well."""
        self._sinks.append(sink)

    def emit(self, event: str, **fields: Any) -> None:
        """Tell that something happened.

        Args:
            event: Its name, such as "revision_start".
            fields: What there is to know; nothing secret, and no text of a driver's that may hold
                data.
        """
        for sink in self._sinks:
            sink({"event": event, **fields})


def json_sink(stream: TextIO | None = None) -> Sink:
    """Writes each event as a line of JSON.

    Args:
        stream: Where to; standard error when left out.
    """
    logger = structlog.wrap_logger(
        structlog.WriteLogger(stream or sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.BoundLogger,
    )

    def write(event: Event) -> None:
        fields = {**event}
        logger.info(fields.pop("event"), **fields)

    return write


def text_sink(say: Callable[[str], None]) -> Sink:
    """Says each event that a person wants to know of in one line.

    Args:
        say: Given the line.
    """

    def tell(event: Event) -> None:
        if describe := _LINES.get(event["event"]):
            say(describe(event))

    return tell


def _who(event: Event) -> str:
    return ", ".join(session["description"] for session in event["blockers"]) or "unknown"


def _lock_retry(event: Event) -> str:
    return (
        f"{event['revision']}: no lock within {event['lock_timeout']:g} s, held by {_who(event)};"
        f" again in {event['retry_in']:.1f} s"
    )


_LINES: Final[dict[str, Callable[[Event], str]]] = {
    "database_wait": lambda event: f"waiting for {event['database']}: {event['reason']}",
    "lock_wait": lambda event: f"another runner is migrating: {event['holder']['description']}",
    "lock_retry": _lock_retry,
    "schema_wait": lambda event: (
        f"waiting for {event['head']}; the database is at {event['current'] or 'no revision'}"
    ),
    "index_progress": lambda event: (
        f"{event['revision']}: {event['phase']}"
        + ("" if event["percent"] is None else f", {event['percent']:g} %")
    ),
    "blocked": lambda event: f"{event['revision']} waits for {_who(event)}",
    "history_adopted": lambda event: f"noted {len(event['revisions'])} revisions applied before",
    "progress": lambda event: f"{event['revision']}: {event['rows']:,} rows",
    "invalid_index_dropped": lambda event: f"dropped the unfinished index {event['index']}",
    "revision_end": lambda event: (
        f"{event['outcome']} {event['revision']} {event['title']} ({event['seconds']:.2f} s)"
    ),
    "round_trip": lambda event: f"{event['outcome']} {event['revision']} {event['title']}",
    "metrics_failed": lambda event: f"the metrics were not delivered: {event['reason']}",
}

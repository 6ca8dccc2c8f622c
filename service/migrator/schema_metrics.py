"""What the service shows in Prometheus of its schema, from its health check's answers."""

from typing import Final

from prometheus_client import Gauge

from service.migrator.schema_status import SchemaState, SchemaStatus

_NO_REVISION: Final = "none"

_compatible = Gauge(
    "service_schema_compatible",
    "1 while this release can work with the database's schema; of several workers the least.",
    multiprocess_mode="livemin",
)
_pending = Gauge(
    "service_schema_pending_revisions",
    "Revisions of this release that the database lacks; of several workers the most.",
    multiprocess_mode="livemax",
)
_state = Gauge(
    "service_schema_state",
    "1 for the state that the database's schema is in, as seen by this release.",
    ["state"],
    multiprocess_mode="livemax",
)
_revision = Gauge(
    "service_schema_revision_info",
    "1 for the database's revision and the last one of this release.",
    ["revision", "head"],
    multiprocess_mode="livemax",
)


class SchemaMetrics:
    """Shows the last answer to where the database stands."""

    def __init__(self) -> None:
        self._shown: tuple[str, str] | None = None

    def show(self, status: SchemaStatus) -> None:
        """Show an answer.

        Args:
            status: The answer.
        """
        _compatible.set(status.is_compatible)
        _pending.set(len(status.pending))
        for state in SchemaState:
            _state.labels(state).set(state is status.state)
        now = (status.current or _NO_REVISION, status.head)
        if self._shown is not None and self._shown != now:
            # A series in the workers' files cannot be removed; migrations are few.
            _revision.labels(*self._shown).set(0)
        _revision.labels(*now).set(1)
        self._shown = now

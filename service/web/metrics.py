"""Prometheus: the HTTP metrics, and the endpoint that shows all of them."""

import math
import platform
from functools import partial
from typing import Final, Literal

from fastapi import APIRouter, Request, Response
from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import choose_encoder

from service.settings import Settings
from service.web.shared_metrics import Exposition
from service.web.threads import LoopThreads

# Stable HTTP semantic conventions of OpenTelemetry: unknown methods become _OTHER.
_METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}
)
_BUCKETS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0),
)

REQUEST_DURATION = Histogram(
    "http_server_request_duration_seconds",
    "How long requests took, to the last byte of the response.",
    ["http_request_method", "http_route", "http_response_status_code"],
    buckets=_BUCKETS,
)
ACTIVE_REQUESTS = Gauge(
    "http_server_active_requests",
    "Requests that are being answered.",
    multiprocess_mode="livesum",
)
BUILD_INFO = Gauge(
    "service_build_info",
    "Always 1; the labels tell what runs.",
    ["version", "python_version"],
    multiprocess_mode="livemax",
)
CONNECTION_LIMIT = Gauge(
    "service_connection_limit",
    "How many connections all instances together may open, by who says so: budget or server.",
    ["source"],
    multiprocess_mode="livemin",
)
UNEXPECTED_ERRORS = Counter(
    "service_unexpected_errors", "Requests that ended in an error that nobody foresaw."
)

_exposition: Final = Exposition()
_thread: Final = LoopThreads(1, "metrics")
router = APIRouter(include_in_schema=False)


def publish_build_info(settings: Settings) -> None:
    """Tell what runs; and drop the `_created` series, which double the scrape for no query."""
    disable_created_metrics()  # type: ignore[no-untyped-call] # as the library has it
    BUILD_INFO.labels(settings.app_version, platform.python_version()).set(1)


def publish_connection_limit(source: Literal["budget", "server"], connections: float) -> None:
    """Tell how many connections the deployment may have, beside what its pools may open.

    Args:
        source: Who says so: `DATABASE_CONNECTION_BUDGET`, or the database server.
        connections: How many; nothing is shown where they are without limit.
    """
    if math.isfinite(connections):
        CONNECTION_LIMIT.labels(source).set(connections)


def observe_request(method: str, route: str, status: int, seconds: float) -> None:
    """Record one answered request.

    Args:
        method: The HTTP method, as it was sent.
        route: The template of the route; empty where none matched. Never the path itself, whose
            values are without number.
        status: The HTTP status.
        seconds: How long it took.
    """
    known = method if method in _METHODS else "_OTHER"
    REQUEST_DURATION.labels(known, route, str(status)).observe(seconds)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """All metrics of the service's workers, in the format that the reader prefers."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    # In a thread: with several workers and many series, other requests would wait for it. In one of
    # their own: in the loop's, many scrapes at once would keep the health checks from a look.
    body = await _thread.submit(partial(_exposition.write, encode, content_type))
    return Response(body, headers={"Content-Type": content_type})

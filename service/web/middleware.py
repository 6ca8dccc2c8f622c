"""Around every request: an id, a limit to its body, one log line, and no bare error."""

import asyncio
import re
import secrets
import time
from typing import Any, Final

import structlog
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, reset_contextvars

from service.database import route_source
from service.web.client_watch import DisconnectedError
from service.web.metrics import ACTIVE_REQUESTS, UNEXPECTED_ERRORS, observe_request
from service.web.problems import problem

_REQUEST_ID_NAME: Final = b"x-request-id"
# What nginx logs for a client that went away before the answer, for which HTTP has no status.
CLIENT_CLOSED_REQUEST: Final = 499
# What a caller may name a request; anything else could forge log lines.
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
# Asked every few seconds by machines: a line each would bury the others.
_QUIET_PATHS: Final = frozenset({"/livez", "/readyz", "/startupz", "/metrics", "/ops/data"})
_QUIET_CHECKS: Final = "/readyz/"

log = structlog.stdlib.get_logger(__name__)


class RequestMiddleware:
    """Names, bounds, times, counts and logs each request, and answers an unexpected error.

    Args:
        app: What answers.
        max_body_bytes: The largest body that is read.
        access_log: Where each request leaves a line.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, access_log: Any) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(scope)
        status = 0

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = int(message["status"])
                named = (_REQUEST_ID_NAME, request_id.encode())
                message["headers"] = [*message.get("headers", ()), named]
            elif scope["method"] == "HEAD":
                # Gunicorn drops it as well, with a warning for each.
                message = {**message, "body": b""}
            await send(message)

        start = time.perf_counter()
        ACTIVE_REQUESTS.inc()
        # The route is known later, and asked for when a connection is taken.
        route_token = route_source.set(lambda: _route(scope))
        # Not `bound_contextvars`: it first looks through all that is bound, which takes longer.
        log_tokens = bind_contextvars(request_id=request_id)
        try:
            bounded = bounded_receive(scope, receive, self.max_body_bytes)
            await self.app(scope, bounded, send_named)
        except DisconnectedError:
            status = status or CLIENT_CLOSED_REQUEST
        except asyncio.CancelledError:
            # Its connection is broken off; from outside that is no other end.
            status = status or CLIENT_CLOSED_REQUEST
            raise
        except Exception:
            UNEXPECTED_ERRORS.inc()
            log.exception("unexpected error", path=_path(scope))
            if status:
                # The answer has begun; the server has to break the connection off.
                raise
            await problem(scope["path"], 500)(scope, receive, send_named)
        finally:
            ACTIVE_REQUESTS.dec()
            route_source.reset(route_token)
            self._record(scope, status, time.perf_counter() - start)
            reset_contextvars(**log_tokens)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        route = _route(scope)
        observe_request(scope["method"], route, status, seconds)
        path = scope["path"]
        if path not in _QUIET_PATHS and not path.startswith(_QUIET_CHECKS):
            self._access_log.info(
                "request",
                method=scope["method"],
                path=_path(scope),
                route=route,
                status=status,
                duration_ms=round(seconds * 1000, 2),
            )


def bounded_receive(scope: Scope, receive: Receive, limit: int) -> Receive:
    """Read a body only up to a limit.

    FastAPI's `max_body_size` does the same, but answers with plain text that no handler sees.

    Args:
        scope: The request.
        receive: What reads it.
        limit: Bytes.

    Returns:
        A `receive` that raises `HTTPException(413)` beyond the limit, before reading more.
    """
    declared = _header(scope, b"content-length")
    received = int(declared) if declared.isdecimal() else 0
    # What was declared is refused before it is read; what was not is counted.
    counts = not received

    async def receive_bounded() -> Message:
        nonlocal received
        if received > limit:
            raise HTTPException(413, f"The body may have {limit} bytes.")
        message = await receive()
        if counts and message["type"] == "http.request":
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(413, f"The body may have {limit} bytes.")
        return message

    return receive_bounded


def _request_id(scope: Scope) -> str:
    given = _header(scope, _REQUEST_ID_NAME)
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)


def _header(scope: Scope, name: bytes) -> str:
    """The first header of a name, which ASGI gives in lower case."""
    return next((str(value, "latin-1") for key, value in scope["headers"] if key == name), "")


def _route(scope: Scope) -> str:
    return getattr(scope.get("route"), "path", "")


def _path(scope: Scope) -> str:
    """The path as it was sent: decoded, it could hold a line break."""
    return str(scope.get("raw_path", b""), "latin-1")

"""Errors as RFC 9457 problem details, and which error is which problem."""

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from service.database import InvalidCursorError, metadata
from service.database import failures as db
from service.database.idempotency import KeyReusedError
from service.errors import NotFoundError, OverloadedError, PreconditionFailedError
from service.web.client_watch import DisconnectedError

logger = logging.getLogger(__name__)

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_SECONDS: Final = 1

# RFC 9110 renamed these; Python follows in 3.13.
_TITLES: Final = {413: "Content Too Large", 422: "Unprocessable Content"}

_CONFLICT: Final = "Another one has this value already."
_BUSY: Final = "The database is not available; try again later."
_PROBLEMS: Final[Mapping[type[db.DatabaseFailure], tuple[int, str]]] = {
    db.UniqueViolation: (409, _CONFLICT),
    db.ForeignKeyViolation: (409, "What it refers to, or what refers to it, forbids this."),
    db.StaleRow: (409, "It was changed or deleted meanwhile; get it and try again."),
    db.NotNullViolation: (422, "A value is missing."),
    db.CheckViolation: (422, "A value is not allowed."),
    db.InvalidValue: (422, "A value does not fit."),
    db.SerializationFailure: (503, _BUSY),
    db.DeadlockDetected: (503, _BUSY),
    db.LockNotAvailable: (503, _BUSY),
    db.StatementTimeout: (503, _BUSY),
    db.DeadlineExceeded: (503, _BUSY),
    db.Cancelled: (503, _BUSY),
    db.PoolTimeout: (503, _BUSY),
    db.TooManyConnections: (503, _BUSY),
    db.AuthenticationFailed: (503, _BUSY),
    db.DatabaseMissing: (503, _BUSY),
    db.ConnectionLost: (503, _BUSY),
    db.SchemaMismatch: (503, _BUSY),
}  # fmt: skip


class ErrorDetail(BaseModel):
    """One thing that is wrong with a request."""

    detail: str
    pointer: str | None = Field(None, description="JSON Pointer into the body (RFC 6901).")
    parameter: str | None = Field(None, description="Where it is in the path, query or headers.")


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str | None = None
    instance: str | None = None
    errors: list[ErrorDetail] | None = None


def problem(
    request_path: str,
    status: int,
    detail: str | None = None,
    *,
    errors: Sequence[ErrorDetail] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Make the response for a problem.

    Args:
        request_path: The path that was asked for.
        status: The HTTP status.
        detail: What happened, fit for whoever asked.
        errors: The parts of the request that are wrong.
        headers: Further headers, as `Retry-After` or `Allow`.
    """
    body = Problem(
        title=_TITLES.get(status) or HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=request_path,
        errors=[*errors] if errors else None,
    )
    return Response(
        body.model_dump_json(exclude_none=True),
        status_code=status,
        headers=dict(headers or {}),
        media_type=MEDIA_TYPE,
    )


def overloaded(request_path: str, error: OverloadedError) -> Response:
    """Make the response for a request that was turned away.

    Args:
        request_path: The path that was asked for.
        error: Why, and when to come again.
    """
    headers = {"Retry-After": str(error.retry_after)}
    return problem(request_path, 503, str(error), headers=headers)


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI entries of the problems that a route may answer with."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        status: {
            "description": _TITLES.get(status) or HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: schema},
        }
        for status in statuses
    }


def install_problem_handlers(app: FastAPI) -> None:
    """Have every error of the app answered as a problem.

    An unexpected error is answered by `RequestMiddleware`, which also logs it.
    """
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(NotFoundError, _on_not_found)
    app.add_exception_handler(OverloadedError, _on_overloaded)
    app.add_exception_handler(PreconditionFailedError, _on_precondition_failed)
    app.add_exception_handler(KeyReusedError, _on_key_reused)
    app.add_exception_handler(InvalidCursorError, _on_invalid_cursor)
    app.add_exception_handler(SQLAlchemyError, _on_database_error)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - how Starlette registers handlers
    if isinstance(error.__cause__, ClientDisconnect):
        # FastAPI takes it for a mistake in the body.
        raise DisconnectedError from None
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_allowed_methods(request))
    is_phrase = error.detail == HTTPStatus(error.status_code).phrase
    detail = None if is_phrase else error.detail
    return problem(request.url.path, error.status_code, detail, headers=headers)


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - as above
    errors = [_error_detail(item) for item in error.errors()]
    return problem(request.url.path, 422, "The request is not valid.", errors=errors)


async def _on_not_found(request: Request, error: Exception) -> Response:
    return problem(request.url.path, 404, str(error))


async def _on_overloaded(request: Request, error: Exception) -> Response:
    assert isinstance(error, OverloadedError)  # noqa: S101 - as above
    return overloaded(request.url.path, error)


async def _on_precondition_failed(request: Request, error: Exception) -> Response:
    return problem(request.url.path, 412, str(error))


async def _on_key_reused(request: Request, error: Exception) -> Response:
    errors = [ErrorDetail(detail=str(error), parameter="header/Idempotency-Key")]
    return problem(request.url.path, 422, "The request is not valid.", errors=errors)


async def _on_invalid_cursor(request: Request, error: Exception) -> Response:
    errors = [ErrorDetail(detail=str(error), parameter="query/cursor")]
    return problem(request.url.path, 422, "The request is not valid.", errors=errors)


async def _on_database_error(request: Request, error: Exception) -> Response:
    failure = db.classify(error, metadata)
    if failure is None or type(failure) not in _PROBLEMS:
        raise error
    status, detail = _PROBLEMS[type(failure)]
    unavailable = status == HTTPStatus.SERVICE_UNAVAILABLE
    if unavailable:
        # Without a stack: in an outage every request comes here, and all stacks are alike.
        logger.warning("database error: %s: %s", failure.reason, error)
    return problem(
        request.url.path,
        status,
        detail,
        errors=[ErrorDetail(detail=detail, pointer=f"/{name}") for name in failure.columns],
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)} if unavailable else None,
    )


def _allowed_methods(request: Request) -> list[str]:
    """Every method of the path: Starlette names only those of the first route that has it."""
    return [
        method
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.routes
        )
    ]


def _error_detail(item: Mapping[str, Any]) -> ErrorDetail:
    """Say where a value is wrong; never repeat the value, which may be secret or huge."""
    where, *path = item["loc"]
    message = str(item["msg"]).removeprefix("Value error, ")
    if where != "body":
        return ErrorDetail(detail=message, parameter="/".join(map(str, (where, *path))))
    if item["type"] == "json_invalid":
        return ErrorDetail(detail="The body is not valid JSON.", pointer="")
    steps = (str(step).replace("~", "~0").replace("/", "~1") for step in path)
    return ErrorDetail(detail=message, pointer="".join(f"/{step}" for step in steps))

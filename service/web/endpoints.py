"""Endpoints that use the database: one session, one commit, and the answer after it.

A handler is a plain function whose first argument is `session`; `reads` and `writes` make an
endpoint of it, which runs the handler with its session and the commit as one `UnitOfWork`. One that
fails is never a 2xx.
"""

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.database import run_read, write_session
from service.web.client_watch import ClientWatch
from service.web.problems import overloaded
from service.web.read_your_writes import has_just_written, remember_write
from service.web.unit_of_work import UnitOfWork

ResultT = TypeVar("ResultT")
Handler = Callable[..., Any]
Endpoint = Callable[..., Awaitable[Any]]
Values = Mapping[str, Any]

# Where a query that is a model waits for its endpoint.
_QUERY: Final = "service.query"
_REQUEST: Final = "request_"
_RESPONSE: Final = "response_"
# What tells an endpoint that needs a place from one that does not.
_MARK: Final = "needs_a_place"


class DatabaseRoute(APIRoute):
    """Turns a request away before anything of it is read, when it could not even wait for a place.

    In an overload most requests are turned away, and what each of them takes is taken from those
    that are served. A route whose endpoint is none of `endpoint_of` is as any other.

    It also reads a query that is a model by the model alone. FastAPI looks at the annotation of
    each field of it in each request, which takes as long as the database does for a page.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The function that answers a request."""
        whole = self.dependant
        query = _query_model(whole) if hasattr(self.endpoint, _MARK) else None
        if query is None:
            return super().get_route_handler()
        name, model = query
        self.dependant = replace(whole, query_params=[])
        handle = super().get_route_handler()
        # What the documentation is made of.
        self.dependant = whole

        async def handle_query(request: Request) -> Response:
            request.scope[_QUERY] = {name: _validated(model, request)}
            return await handle(request)

        return handle_query

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or turn it away."""
        if hasattr(self.endpoint, _MARK) and scope["method"] in (self.methods or ()):
            unit: UnitOfWork = scope["app"].state.unit_of_work
            if (refusal := unit.turn_away()) is not None:
                # Raised, it would take as long again to be answered.
                await overloaded(scope["path"], refusal)(scope, receive, send)
                return
        await super().handle(scope, receive, send)


def _query_model(dependant: Dependant) -> tuple[str, type[BaseModel]] | None:
    """The name and the type of a parameter that all of the query goes into."""
    if len(dependant.query_params) != 1:
        return None
    (parameter,) = dependant.query_params
    annotation: Any = parameter.field_info.annotation
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return (parameter.name, annotation) if is_model else None


def _validated(model: type[BaseModel], request: Request) -> BaseModel:
    """The query of a request.

    Raises:
        RequestValidationError: As FastAPI raises it.
    """
    given = dict(request.query_params)
    try:
        return model.model_validate(given)
    except ValidationError as error:
        wrong = error.errors(include_url=False)
        details = [{**item, "loc": ("query", *item["loc"])} for item in wrong]
        raise RequestValidationError(details, body=None) from None


def reads(handler: Handler) -> Endpoint:
    """Make an endpoint of a handler that only reads.

    Its session has no transaction, and an attempt to write is an error.

    Args:
        handler: Takes `session` and what FastAPI is to find for it.
    """

    async def run(request: Request, values: Values) -> Any:
        def work() -> Any:
            return run_read(lambda session: handler(session, **values), fresh=fresh)

        fresh = has_just_written(request)
        return await run_for(request, work)

    return endpoint_of(handler, run)


def writes(*, retries: int = 0) -> Callable[[Handler], Endpoint]:
    """Make an endpoint of a handler whose work is committed, or rolled back on any exception.

    Args:
        retries: How often it is run again after a serialization failure or a deadlock: for one
            that does nothing but what its session does.
    """

    def decorate(handler: Handler) -> Endpoint:
        async def run(request: Request, values: Values) -> Any:
            return await run_for(request, partial(write, handler, values), retries)

        return endpoint_of(handler, run, is_write=True)

    return decorate


def write(handler: Handler, values: Values) -> Any:
    """Run a handler in a session of its own, and commit."""
    with write_session() as session:
        return handler(session, **values)


async def run_for(request: Request, work: Callable[[], ResultT], retries: int = 0) -> ResultT:
    """Do the database's part of a request; see `UnitOfWork.run`."""
    unit: UnitOfWork = request.app.state.unit_of_work
    route = request.scope["route"].path
    return await unit.run(ClientWatch(request.receive), work, route=route, retries=retries)


def endpoint_of(
    handler: Handler,
    run: Callable[[Request, dict[str, Any]], Awaitable[Any]],
    *further: inspect.Parameter,
    is_write: bool = False,
) -> Endpoint:
    """Make an endpoint that FastAPI calls with what a handler needs, but for the session.

    Args:
        handler: The handler.
        run: Given the request and the arguments, runs it.
        further: What `run` needs beside the handler's arguments, by keyword.
        is_write: Whether the client's next reads have to find what it did.

    Raises:
        TypeError: The handler is a coroutine function or a generator, or its first argument is not
            `session`.
    """
    signature = inspect.signature(handler, eval_str=True)
    parameters = [*signature.parameters.values()]
    # These would go on after their session is closed.
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    is_plain = not any(is_kind(handler) for is_kind in kinds)
    if not is_plain or not parameters or parameters.pop(0).name != "session":
        raise TypeError(f"{handler.__qualname__}: a plain function of a session is needed")
    own_request = _name_of(Request, parameters)
    own_response = _name_of(Response, parameters)
    for own, name, kind in (
        (own_request, _REQUEST, Request),
        (own_response, _RESPONSE, Response),
    ):
        if own is None:
            keyword = inspect.Parameter.KEYWORD_ONLY
            parameters.append(inspect.Parameter(name, keyword, annotation=kind))

    async def endpoint(**values: Any) -> Any:
        request = values.pop(_REQUEST) if own_request is None else values[own_request]
        response = values.pop(_RESPONSE) if own_response is None else values[own_response]
        result = await run(request, values | request.scope.get(_QUERY, {}))
        if is_write:
            remember_write(result if isinstance(result, Response) else response)
        return result

    # Not by functools.wraps: FastAPI would look through it, and find a function for a thread.
    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(endpoint, name, getattr(handler, name))
    setattr(endpoint, _MARK, True)
    endpoint.__signature__ = signature.replace(  # type: ignore[attr-defined] # read by inspect
        parameters=[*parameters, *further]
    )
    return endpoint


def _name_of(kind: type, parameters: list[inspect.Parameter]) -> str | None:
    """Which parameter FastAPI gives the request or the response to; it does so for one only."""
    return next((each.name for each in parameters if each.annotation is kind), None)

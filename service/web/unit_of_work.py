"""How a route uses the database: one place, one thread, one session, one commit.

A handler is a plain function whose first argument is `session`; `reads` and `writes` make an
endpoint of it. The endpoint waits for a place without a thread, runs the handler with its session
and the commit in one thread, and answers after the commit: one that fails is never a 2xx. When the
client goes away, or the time for the database is over, what is asked of the database is cut off.
"""

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import copy_context
from functools import partial
from typing import Any, Final, TypeVar

from fastapi.routing import APIRoute
from prometheus_client import Counter
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import Response

from service.database import run_read, write_session
from service.database.deadline import TimeLimit, time_limit
from service.database.failures import DeadlockDetected, SerializationFailure, classify
from service.web.admission import Admission
from service.web.client_watch import ClientWatch, DisconnectedError
from service.web.read_your_writes import has_just_written, remember_write
from service.web.threads import LoopThreads

ResultT = TypeVar("ResultT")
Handler = Callable[..., Any]
Endpoint = Callable[..., Awaitable[Any]]
Values = Mapping[str, Any]

RETRIES = Counter(
    "service_transaction_retries",
    "Transactions that were run again, by the failure that ended them.",
    ["http_route", "reason"],
)
# Which failures another try may not meet again.
_TRANSIENT: Final = (SerializationFailure, DeadlockDetected)
# The longest pause before the second try, in seconds; it doubles with each.
_PAUSE_SECONDS: Final = 0.01
_LONGEST_PAUSE_SECONDS: Final = 0.2
_REQUEST: Final = "request_"
_RESPONSE: Final = "response_"
# What tells an endpoint that needs a place from one that does not.
_MARK: Final = "needs_a_place"


class UnitOfWork:
    """Runs what requests do with the database; belongs to one event loop.

    Args:
        admission: Who may.
        threads: How many at once.
        seconds: How long each may take, its wait for a place included.
    """

    def __init__(self, admission: Admission, *, threads: int, seconds: float) -> None:
        self._admission = admission
        self._threads = LoopThreads(threads, "database")
        self._seconds = seconds

    async def run(
        self, client: ClientWatch, work: Callable[[], ResultT], *, route: str, retries: int = 0
    ) -> ResultT:
        """Do something in a thread that may hold one database connection.

        Args:
            client: For whom.
            work: What to do.
            route: The template of the route, for the metrics.
            retries: How often to do it again after a serialization failure or a deadlock.

        Raises:
            OverloadedError: There is no place for it.
            DisconnectedError: The client went away.
            sqlalchemy.exc.SQLAlchemyError: As `work` raises it, also when the time is over.
        """
        try:
            with time_limit(self._seconds) as limit:
                async with self._admission.place(client):
                    client.expect(limit.cancel)
                    return await self._try(work, limit, route, retries)
        except SQLAlchemyError:
            if client.is_gone:
                raise DisconnectedError from None
            raise
        finally:
            client.stop()

    def refuse_if_full(self) -> None:
        """As `Admission.refuse_if_full`."""
        self._admission.refuse_if_full()

    def close(self) -> None:
        """Let the threads end."""
        self._threads.close()

    async def _try(
        self, work: Callable[[], ResultT], limit: TimeLimit, route: str, retries: int
    ) -> ResultT:
        for pause in _pauses(retries):
            try:
                return await self._in_thread(work, limit)
            except SQLAlchemyError as error:
                failure = classify(error)
                if not isinstance(failure, _TRANSIENT):
                    raise
                RETRIES.labels(route, failure.reason).inc()
                await asyncio.sleep(pause)
        return await self._in_thread(work, limit)

    async def _in_thread(self, work: Callable[[], ResultT], limit: TimeLimit) -> ResultT:
        future = self._threads.submit(partial(copy_context().run, work))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # The thread has a connection for as long as it runs, and so needs the place.
            limit.cancel()
            await asyncio.wait([future])
            if not future.cancelled():
                future.exception()
            raise


class DatabaseRoute(APIRoute):
    """Turns a request away before its body is read, when it could not even wait for its place.

    In an overload most requests are turned away: this halves what each of them takes from those
    that are served. A route whose endpoint is none of `endpoint_of` is as any other.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The function that answers a request."""
        handle = super().get_route_handler()
        if not hasattr(self.endpoint, _MARK):
            return handle

        async def handle_unless_full(request: Request) -> Response:
            unit: UnitOfWork = request.app.state.unit_of_work
            unit.refuse_if_full()
            return await handle(request)

        return handle_unless_full


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
        result = await run(request, values)
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


def _pauses(retries: int) -> list[float]:
    """How long to wait before each retry; at random, so that rivals do not meet again."""
    longest = [min(_LONGEST_PAUSE_SECONDS, _PAUSE_SECONDS * 2**number) for number in range(retries)]
    return [random.uniform(0, seconds) for seconds in longest]  # noqa: S311 - guards nothing

"""Creating something once, however often a client tries: the header `Idempotency-Key`.

It follows the IETF draft "The Idempotency-Key HTTP Header Field". A retry gets the first answer,
to the letter; one that comes at the same time waits for it. Errors are not remembered: whoever got
one may try again with the same key.
"""

import hashlib
import inspect
from functools import cache, partial
from typing import Annotated, Any, Final

from fastapi import Header
from fastapi.routing import APIRoute
from pydantic import TypeAdapter
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.responses import Response

from service.database.idempotency import KEY_LENGTH, Answer, answer_once
from service.web.endpoints import Endpoint, Handler, Values, endpoint_of, run_for, write

_KEY: Final = "idempotency_key_"
# As many times as with two rivals, one of which deadlocks each time.
_RETRIES: Final = 3

IdempotencyKeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=KEY_LENGTH,
        pattern=r"^[\x21-\x7e]+$",
        description="A name of yours for this request: a retry with it gets the first answer.",
    ),
]


def creates(handler: Handler) -> Endpoint:
    """Make an endpoint of a handler that creates something.

    As `writes` with retries; and a request with an `Idempotency-Key` is done once.

    Args:
        handler: As `writes` takes it. It returns what the route's `response_model` shows, and sets
            no other headers than `Location` and `ETag`, on `response`.
    """

    async def run(request: Request, values: dict[str, Any]) -> Any:
        key: str | None = values.pop(_KEY)
        if key is None:
            return await run_for(request, partial(write, handler, values), _RETRIES)
        work = partial(
            answer_once,
            partial(_work, handler, request.scope["route"], values),
            scope=f"{request.method} {request.url.path}",
            key=key,
            fingerprint=hashlib.sha256(await request.body()).hexdigest(),
        )
        return _response(await run_for(request, work, _RETRIES))

    parameter = inspect.Parameter(
        _KEY, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=IdempotencyKeyHeader
    )
    return endpoint_of(handler, run, parameter, is_write=True)


def _work(handler: Handler, route: APIRoute, values: Values, session: Session) -> Answer:
    result = handler(session, **values)
    model = _adapter(route.response_model)
    headers = values["response"].headers
    return Answer(
        status=route.status_code or 200,
        body=model.dump_json(model.validate_python(result, from_attributes=True)),
        location=headers.get("location"),
        etag=headers.get("etag"),
    )


@cache
def _adapter(model: Any) -> TypeAdapter[Any]:
    # To make one takes longer than the request.
    return TypeAdapter(model)


def _response(answer: Answer) -> Response:
    headers = {
        "Location": answer.location,
        "ETag": answer.etag,
        "Idempotent-Replayed": "true" if answer.is_replayed else None,
    }
    return Response(
        answer.body,
        status_code=answer.status,
        headers={name: value for name, value in headers.items() if value is not None},
        media_type="application/json",
    )

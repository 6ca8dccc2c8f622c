"""A browser's session on the ops page: a cookie that stands for the token for some hours."""

import time
from typing import Final

from fastapi import Request, Response

from service.database.sealing import seal, unseal
from service.web.ops_token import guard_of, has_ops_token

COOKIE: Final = "tidegate_ops"
# A night's incident; whoever looks for longer signs in again.
SESSION_SECONDS: Final = 4 * 3600
_CONTEXT: Final = b"ops session"
_EXPIRY_BYTES: Final = 8


def begin_session(request: Request, response: Response) -> None:
    """Give a browser that has sent the token a cookie; every worker and replica takes it.

    It holds when it ends, sealed with the token: the token itself is not in it, and another token
    ends all sessions.

    Args:
        request: The request that carried the token.
        response: Its answer.
    """
    key = guard_of(request).key
    assert key is not None  # noqa: S101 - nobody has sent a token that there is not
    expiry = int(time.time()) + SESSION_SECONDS
    response.set_cookie(
        COOKIE,
        seal(expiry.to_bytes(_EXPIRY_BYTES), key, _CONTEXT),
        max_age=SESSION_SECONDS,
        # For the whole host: a proxy may serve the page below another path.
        path="/",
        httponly=True,
        samesite="strict",
        secure=_is_https(request),
    )


def end_session(response: Response) -> None:
    """Take the cookie from the browser."""
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")


def is_operator(request: Request) -> bool:
    """Whether a request carries the token, or a session's cookie that has not run out."""
    return has_ops_token(request) or _has_session(request)


def is_from_elsewhere(request: Request) -> bool:
    """Whether a browser says that another site's page has sent this request."""
    return request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")


def _has_session(request: Request) -> bool:
    key, text = guard_of(request).key, request.cookies.get(COOKIE)
    if key is None or text is None:
        return False
    try:
        expiry = int.from_bytes(unseal(text, key, _CONTEXT))
    except ValueError:
        return False
    return time.time() < expiry


def _is_https(request: Request) -> bool:
    # A header that somebody has made up makes a cookie stricter, and only his own.
    forwarded = request.headers.get("x-forwarded-proto", "").partition(",")[0].strip()
    return "https" in (request.url.scheme, forwarded)

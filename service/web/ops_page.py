"""`/ops`: what an operator looks at when something is wrong.

The page only reads: whatever changes something is a command (`tidegate pool`). So a forged request
could at most sign somebody out, and those are refused.
"""

from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qs

import structlog
from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from service.web.ops_assets import SECURITY_HEADERS, asset, asset_names
from service.web.ops_data import OpsData
from service.web.ops_session import begin_session, end_session, is_from_elsewhere, is_operator
from service.web.ops_settings import shown_settings
from service.web.ops_token import address_of, guard_of

# Relative, so that the page also works where a proxy serves it below another path.
_TO_PAGE: Final = "../ops"
_TO_SIGN_IN: Final = "ops/login"
_WRONG: Final = "That is not the token."
_GUESSED: Final = "Too many wrong tokens came from your address. Try again in a minute."

log = structlog.stdlib.get_logger(__name__)


async def _page_exists(request: Request) -> None:
    """Without `OPS_TOKEN` there is no page, and nothing that tells of one."""
    if guard_of(request).key is None:
        raise HTTPException(HTTPStatus.NOT_FOUND)


async def _of_operator(request: Request) -> None:
    if not is_operator(request):
        raise _unauthorized()


def _unauthorized() -> HTTPException:
    headers = {**SECURITY_HEADERS, "WWW-Authenticate": "Bearer"}
    return HTTPException(HTTPStatus.UNAUTHORIZED, "Send OPS_TOKEN, or sign in.", headers)


async def _of_own_site(request: Request) -> None:
    if is_from_elsewhere(request):
        raise HTTPException(HTTPStatus.FORBIDDEN, "Another site has sent this.", SECURITY_HEADERS)


router = APIRouter(include_in_schema=False, dependencies=[Depends(_page_exists)])


@router.get("/ops")
async def page(request: Request) -> Response:
    """Show the page, or where to sign in."""
    if is_operator(request):
        return asset("page.html")
    if "authorization" in request.headers:
        # It was looked at, and looking again would count as another guess.
        raise _unauthorized()
    return _redirect(_TO_SIGN_IN)


@router.get("/ops/data", dependencies=[Depends(_of_operator)])
async def data(request: Request) -> Response:
    """Tell how all workers are."""
    source: OpsData = request.app.state.ops
    return JSONResponse(await source.latest(), headers=SECURITY_HEADERS)


@router.get("/ops/settings", dependencies=[Depends(_of_operator)])
async def settings(request: Request) -> Response:
    """Tell the settings, without what is secret."""
    return JSONResponse(shown_settings(request.app.state.settings), headers=SECURITY_HEADERS)


@router.get("/ops/login")
async def sign_in_form() -> Response:
    """Ask for the token."""
    return asset("login.html", message="")


@router.post("/ops/login", dependencies=[Depends(_of_own_site)])
async def sign_in(request: Request) -> Response:
    """Take the token, and begin a session."""
    fields = parse_qs(str(await request.body(), "latin-1"))
    given = fields.get("token", [""])[0].strip()
    guard, address = guard_of(request), address_of(request)
    if guard.accepts(given.encode(), address):
        response = _redirect(_TO_PAGE)
        begin_session(request, response)
        log.info("an operator has signed in", address=address)
        return response
    log.warning("a wrong token on the ops page", address=address)
    if seconds := guard.retry_after(address):
        refusal = asset("login.html", status=HTTPStatus.TOO_MANY_REQUESTS, message=_GUESSED)
        refusal.headers["Retry-After"] = str(seconds)
        return refusal
    return asset("login.html", status=HTTPStatus.FORBIDDEN, message=_WRONG)


@router.post("/ops/logout", dependencies=[Depends(_of_own_site)])
async def sign_out() -> Response:
    """End the session of this browser."""
    response = _redirect("login")
    end_session(response)
    return response


@router.get("/ops/{name}")
async def file(name: str) -> Response:
    """Give a file of the page; there is nothing in it that is not in the repository."""
    if name not in asset_names():
        raise HTTPException(HTTPStatus.NOT_FOUND)
    return asset(name)


def _redirect(where: str) -> Response:
    return RedirectResponse(where, HTTPStatus.SEE_OTHER, SECURITY_HEADERS)

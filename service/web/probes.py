"""Probes and `/version`: answered from memory, whatever the database does.

A monitor asks the database in the background; a probe reads its last result. The bodies follow the
draft "Health Check Response Format for HTTP APIs" (draft-inadarei-api-health-check-06), `verbose`
and `exclude` Kubernetes' own API server.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse

from service.settings import Settings
from service.web.health_monitor import HealthMonitor
from service.web.health_state import PASSED, CheckState, Known, Outcome, Status
from service.web.ops_token import has_ops_token
from service.web.problems import problem_responses

MEDIA_TYPE: Final = "application/health+json"
_HEADERS: Final = {"Cache-Control": "no-store"}
_DRAINING: Final = Outcome(Status.FAIL, "draining", "none: the process has been told to stop")
# How much of what somebody sent is sent back.
_MAX_NOTES: Final = 10
_MAX_NAME: Final = 64

router = APIRouter(tags=["operation"])


@router.head("/livez", include_in_schema=False)
@router.get("/livez", summary="Is the process alive?")
async def livez(request: Request) -> JSONResponse:
    """Answer 200 while the process can answer; the checks are reported and change nothing.

    Kubernetes restarts what is not live, and a restart mends no database.
    """
    return _answer(request, _monitored(request.app), status=Status.PASS)


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", summary="Can the process serve requests?")
async def readyz(request: Request) -> JSONResponse:
    """Answer 503 while a check fails, the start is not done, or the process drains.

    `?exclude=` leaves a check out, and may be repeated; `?verbose` names those that pass, too.
    """
    return _answer(request, all_checks(request.app))


@router.head("/readyz/{check}", include_in_schema=False)
@router.get(
    "/readyz/{check}",
    summary="Does one check pass?",
    # FastAPI would list a 422 of its own for any parameter.
    responses=problem_responses(404, 422),
)
async def readyz_check(request: Request, check: str) -> JSONResponse:
    """Answer 503 while this check fails, and 404 where there is none of the name."""
    known = all_checks(request.app).get(check)
    if known is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "There is no health check of this name.")
    return _answer(request, {check: known})


@router.head("/startupz", include_in_schema=False)
@router.get("/startupz", summary="Has the process started?")
async def startupz(request: Request) -> JSONResponse:
    """Answer 503 until the schema was compatible and the pool warm; from then on, 200."""
    outcome: Outcome = request.app.state.startup.outcome
    waits_for = {} if outcome.status is Status.PASS else _monitored(request.app)
    return _answer(request, {**waits_for, "startup": outcome}, status=outcome.status)


@router.get("/version", summary="What runs?")
async def version(request: Request) -> dict[str, str]:
    """Tell the name and version of the service."""
    settings: Settings = request.app.state.settings
    return {"name": settings.app_name, "version": settings.app_version}


def all_checks(app: FastAPI) -> dict[str, Known]:
    """What holds of each check, and of what the process knows of itself, by name."""
    return {
        **_monitored(app),
        "startup": app.state.startup.outcome,
        "drain": _DRAINING if app.state.drain.is_draining else PASSED,
    }


def is_ready(app: FastAPI) -> bool:
    """Whether `/readyz` says yes."""
    known = all_checks(app).values()
    return all(_outcome(one).status is not Status.FAIL for one in known)


def _monitored(app: FastAPI) -> dict[str, Known]:
    monitor: HealthMonitor = app.state.health
    return {**monitor.states}


def _answer(
    request: Request, checks: Mapping[str, Known], *, status: Status | None = None
) -> JSONResponse:
    """Answer with the worst status of the checks.

    Args:
        request: What was asked.
        checks: By name.
        status: The verdict, where it is not that of the checks.
    """
    query = request.query_params
    excluded = query.getlist("exclude")
    outcomes = {name: _outcome(known) for name, known in checks.items() if name not in excluded}
    if status is None:
        status = min((one.status for one in outcomes.values()), default=Status.PASS)
    is_verbose, is_private = "verbose" in query, has_ops_token(request)
    shown = {
        name: [_entry(outcome, checks[name], is_private=is_private)]
        for name, outcome in outcomes.items()
        if is_verbose or outcome.status is not Status.PASS
    }
    body: dict[str, Any] = {"status": str(status)}
    if shown:
        body["checks"] = shown
    if unknown := [name for name in excluded if name not in checks]:
        body["notes"] = [
            f"exclude: there is no check called {name[:_MAX_NAME]!r}"
            for name in unknown[:_MAX_NOTES]
        ]
    code = HTTPStatus.SERVICE_UNAVAILABLE if status is Status.FAIL else HTTPStatus.OK
    return JSONResponse(body, status_code=code, headers=_HEADERS, media_type=MEDIA_TYPE)


def _outcome(known: Known) -> Outcome:
    return known if isinstance(known, Outcome) else known.outcome


def _entry(outcome: Outcome, known: Known, *, is_private: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"status": str(outcome.status)}
    if not is_private:
        return entry
    if outcome.reason:
        entry["output"] = ": ".join(filter(None, (outcome.reason, outcome.advice)))
    if isinstance(known, CheckState):
        entry["observedValue"] = round(known.duration, 6)
        entry["observedUnit"] = "s"
        entry["ageSeconds"] = round(known.age, 3)
    return entry

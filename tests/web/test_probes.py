"""What each probe answers: status, body, headers, parameters, and to whom it gives reasons."""

from types import SimpleNamespace
from typing import Any, Final

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.testclient import TestClient

from service.database import DatabaseSettings
from service.settings import Settings
from service.web import probes
from service.web.health_monitor import HealthMonitor
from service.web.health_state import PASSED, Outcome, Status
from service.web.middleware import RequestMiddleware
from service.web.ops_token import TokenGuard
from service.web.problems import install_problem_handlers
from tests.support.polling import eventually

TOKEN: Final = "a token of an operator"
BEARER: Final = {"Authorization": f"Bearer {TOKEN}"}
FAILED: Final = Outcome(Status.FAIL, "timeout", "look at the server", "host=10.1.2.3 user=walrus")
WARNED: Final = Outcome(Status.WARN, "saturated", "raise the pool's size")
PATHS: Final = ("/livez", "/readyz", "/startupz", "/readyz/database")


class Probed:
    """The probes of a process whose checks say what they are told to say."""

    def __init__(self, token: str | None = TOKEN, seconds: float = 60, **outcomes: Outcome) -> None:
        monitor = HealthMonitor(
            interval=seconds, timeout=seconds, failure_threshold=1, success_threshold=1
        )
        app = FastAPI()
        app.include_router(probes.router)
        self.logged: list[dict[str, Any]] = []
        access_log = SimpleNamespace(info=lambda _event, **line: self.logged.append(line))
        app.add_middleware(RequestMiddleware, max_body_bytes=10, access_log=access_log)
        install_problem_handlers(app)
        app.state.health = monitor
        app.state.startup = SimpleNamespace(outcome=PASSED)
        app.state.drain = SimpleNamespace(is_draining=False)
        app.state.token_guard = TokenGuard(SecretStr(token) if token else None)
        app.state.settings = Settings(
            environment="test",
            database=DatabaseSettings(url="sqlite:///:memory:"),
        )
        self.state = app.state
        for name, outcome in outcomes.items():
            monitor.register(name, _never)
            monitor.states[name].record(outcome, 0.25)
        self._client = TestClient(app)

    def get(self, path: str, headers: dict[str, str] | None = None) -> httpx2.Response:
        return self._client.get(path, headers=headers)

    def head(self, path: str) -> httpx2.Response:
        return self._client.head(path)

    def body(self, path: str, headers: dict[str, str] | None = None) -> Any:
        return self.get(path, headers).json()

    def codes(self) -> dict[str, int]:
        return {path: self.get(path).status_code for path in PATHS}


async def _never() -> Outcome:
    raise NotImplementedError


def statuses(body: Any) -> dict[str, str]:
    return {name: entries[0]["status"] for name, entries in body.get("checks", {}).items()}


def test_all_is_well() -> None:
    probed = Probed(database=PASSED)
    assert probed.codes() == dict.fromkeys(PATHS, 200)
    assert probed.body("/readyz") == {"status": "pass"}
    verbose = probed.body("/readyz?verbose")
    assert verbose["status"] == "pass"
    assert statuses(verbose) == dict.fromkeys(("database", "startup", "drain"), "pass")


def test_a_failing_check_is_told_and_takes_readiness_alone() -> None:
    probed = Probed(database=FAILED, pool=PASSED)
    assert probed.codes() == {
        "/livez": 200, "/readyz": 503, "/startupz": 200, "/readyz/database": 503,
    }  # fmt: skip
    assert probed.body("/readyz") == {
        "status": "fail", "checks": {"database": [{"status": "fail"}]},
    }  # fmt: skip
    assert probed.body("/livez") == {
        "status": "pass", "checks": {"database": [{"status": "fail"}]},
    }  # fmt: skip
    assert probed.get("/readyz/pool").status_code == 200


def test_a_warning_is_told_and_takes_nothing() -> None:
    probed = Probed(database=PASSED, pool=WARNED)
    assert probed.codes() == dict.fromkeys(PATHS, 200)
    assert probed.body("/readyz") == {
        "status": "warn", "checks": {"pool": [{"status": "warn"}]},
    }  # fmt: skip


def test_a_monitor_that_has_stopped_is_not_ready_and_alive() -> None:
    probed = Probed(seconds=0.01, database=PASSED)
    eventually(lambda: probed.get("/readyz").status_code == 503)
    assert probed.codes()["/livez"] == 200
    assert probed.body("/livez")["status"] == "pass"
    assert "overdue" in probed.get("/livez", BEARER).text


def test_the_start_keeps_the_process_from_being_ready() -> None:
    probed = Probed(database=FAILED)
    probed.state.startup.outcome = Outcome(Status.FAIL, "waiting")
    assert probed.codes()["/startupz"] == 503
    assert statuses(probed.body("/startupz")) == {"database": "fail", "startup": "fail"}
    assert statuses(probed.body("/readyz")) == {"database": "fail", "startup": "fail"}
    assert probed.codes()["/livez"] == 200


def test_a_process_that_drains_is_alive_and_not_ready() -> None:
    probed = Probed(database=PASSED)
    probed.state.drain.is_draining = True
    assert probed.codes() == {
        "/livez": 200, "/readyz": 503, "/startupz": 200, "/readyz/database": 200,
    }  # fmt: skip
    assert statuses(probed.body("/readyz")) == {"drain": "fail"}


def test_checks_are_left_out_by_name_and_an_unknown_name_is_noted() -> None:
    probed = Probed(database=FAILED, schema=FAILED, pool=PASSED)
    assert probed.get("/readyz?exclude=database").status_code == 503
    both = probed.get("/readyz?exclude=database&exclude=schema&verbose")
    assert both.status_code == 200
    assert set(statuses(both.json())) == {"pool", "startup", "drain"}
    unknown = probed.get("/readyz?exclude=databse&exclude=database&exclude=schema")
    assert unknown.status_code == 200
    assert unknown.json()["notes"] == ["exclude: there is no check called 'databse'"]
    much = probed.body("/readyz?" + "&".join(f"exclude={'x' * 200}{n}" for n in range(50)))
    assert len(str(much["notes"])) < 1500


def test_an_unknown_check_is_not_found() -> None:
    answer = Probed(database=PASSED).get("/readyz/databse")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_reasons_are_for_whoever_has_the_token() -> None:
    probed = Probed(database=FAILED, pool=WARNED)
    (entry,) = probed.body("/readyz", BEARER)["checks"]["database"]
    assert entry.pop("ageSeconds") < 10
    assert entry == {
        "status": "fail",
        "output": "timeout: look at the server",
        "observedValue": 0.25,
        "observedUnit": "s",
    }
    for path in (*PATHS, "/readyz?verbose", "/livez?verbose", "/startupz?verbose"):
        assert "walrus" not in probed.get(path, BEARER).text
        for secret in ("timeout", "saturated", "server"):
            assert secret not in probed.get(path).text
    assert "saturated" in probed.get("/livez", BEARER).text


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        f"Basic {TOKEN}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "b\xe4r",
    ],
)
def test_any_other_token_gets_what_the_public_gets(header: str) -> None:
    probed = Probed(database=FAILED)
    answer = probed.get("/readyz", {"Authorization": header.encode("latin-1")})  # type: ignore[dict-item] # bytes are sent as they are
    assert answer.status_code == 503
    assert answer.json() == probed.body("/readyz")


def test_without_the_setting_no_token_is_the_right_one() -> None:
    probed = Probed(token=None, database=FAILED)
    for token in ("", "None", TOKEN):
        assert "output" not in probed.get("/readyz", {"Authorization": f"Bearer {token}"}).text


@pytest.mark.parametrize("path", [*PATHS, "/readyz?verbose"])
def test_answers_are_health_json_and_never_cached(path: str) -> None:
    probed = Probed(database=FAILED)
    answer = probed.get(path)
    assert answer.headers["content-type"] == "application/health+json"
    assert answer.headers["cache-control"] == "no-store"
    head = probed.head(path)
    assert (head.status_code, head.content) == (answer.status_code, b"")
    same = ("content-type", "cache-control", "content-length")
    assert [head.headers[name] for name in same] == [answer.headers[name] for name in same]


def test_probes_leave_no_line_in_the_access_log() -> None:
    probed = Probed(database=PASSED)
    assert probed.codes() == dict.fromkeys(PATHS, 200)
    probed.get("/version")
    assert [line["path"] for line in probed.logged] == ["/version"]


def test_version_tells_what_runs() -> None:
    assert Probed().body("/version") == {"name": "tidegate", "version": "0.1.0"}

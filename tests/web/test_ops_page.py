"""Who is let in to the ops page, and what keeps everything else out of it."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Final

import httpx2
import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from service.web import ops_session, ops_token
from tests.support.application import application

TOKEN: Final = "a token, of an öperator"
BEARER: Final = {b"Authorization": f"Bearer {TOKEN}".encode()}
COOKIE: Final = "tidegate_ops"


@contextmanager
def serving(url: str, token: str | None = TOKEN) -> Iterator[TestClient]:
    secret = SecretStr(token) if token else None
    with application(url, follow_redirects=False, ops_token=secret) as client:
        yield client


@pytest.fixture
def ops(sqlite_url: str) -> Iterator[TestClient]:
    """The application with a token; nobody has signed in."""
    with serving(sqlite_url) as client:
        yield client


def sign_in(client: TestClient, token: str = TOKEN, **headers: str) -> httpx2.Response:
    return client.post("/ops/login", data={"token": token}, headers=headers)


def is_in(client: TestClient) -> bool:
    return client.get("/ops/data").status_code == 200


def test_without_a_token_there_is_no_page(sqlite_url: str) -> None:
    with serving(sqlite_url, token=None) as client:
        unknown = client.get("/there/is/none").json()
        for path in ("/ops", "/ops/data", "/ops/settings", "/ops/login", "/ops/main.js"):
            answer = client.get(path, headers={"Authorization": "Bearer None"})
            assert answer.status_code == 404
            assert answer.json() == {**unknown, "instance": path}
        assert client.post("/ops/login", data={"token": ""}).status_code == 404
        assert client.get("/ops/data", headers={"Cookie": f"{COOKIE}=AAAA"}).status_code == 404


def test_a_stranger_sees_the_form_and_nothing_else(ops: TestClient) -> None:
    answer = ops.get("/ops")
    assert (answer.status_code, answer.headers["location"]) == (303, "ops/login")
    form = ops.get("/ops/login")
    assert form.status_code == 200
    assert TOKEN not in form.text
    for path in ("/ops/data", "/ops/settings"):
        refusal = ops.get(path)
        assert refusal.status_code == 401
        assert refusal.headers["www-authenticate"] == "Bearer"
        assert set(refusal.json()) == {"type", "title", "status", "detail", "instance"}
    wrong = {"Authorization": "Bearer not the token"}
    assert ops.get("/ops", headers=wrong).status_code == 401


def test_the_header_lets_in_without_a_session(ops: TestClient) -> None:
    for path in ("/ops", "/ops/data", "/ops/settings"):
        answer = ops.get(path, headers=BEARER)
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers
    assert not is_in(ops)


def test_a_session_begins_with_the_token_and_ends_with_the_sign_out(ops: TestClient) -> None:
    answer = sign_in(ops)
    assert (answer.status_code, answer.headers["location"]) == (303, "../ops")
    name, *attributes = answer.headers["set-cookie"].split("; ")
    assert name.startswith(f"{COOKIE}=")
    assert set(attributes) == {"HttpOnly", "SameSite=strict", "Path=/", "Max-Age=14400"}
    assert "operator" not in name
    assert is_in(ops)
    assert ops.get("/ops").status_code == 200
    assert ops.post("/ops/logout").headers["location"] == "login"
    assert COOKIE not in ops.cookies
    assert not is_in(ops)


def test_the_cookie_is_for_https_alone_where_there_is_https(ops: TestClient) -> None:
    assert "Secure" in sign_in(ops, **{"X-Forwarded-Proto": "https"}).headers["set-cookie"]


def test_a_session_runs_out(ops: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    before = time.time()
    cookie = sign_in(ops).headers["set-cookie"].partition(";")[0]
    after = time.time()
    # By itself the client would send none that has run out.
    ops.cookies.clear()

    def status_at(now: float) -> int:
        with monkeypatch.context() as patch:
            patch.setattr(ops_session, "time", SimpleNamespace(time=lambda: now))
            return ops.get("/ops/data", headers={"Cookie": cookie}).status_code

    assert status_at(before + ops_session.SESSION_SECONDS - 2) == 200
    assert status_at(after + ops_session.SESSION_SECONDS) == 401


def test_a_session_of_another_token_or_a_changed_one_is_none(sqlite_url: str) -> None:
    with serving(sqlite_url, token="the token before this one") as client:
        sign_in(client, "the token before this one")
        former = client.cookies[COOKIE]
    with serving(sqlite_url) as client:
        sign_in(client)
        own = client.cookies[COOKIE]
        client.cookies.clear()
        changed = own[:-1] + ("A" if own[-1] != "A" else "Q")
        for value in (former, changed, own[1:], "", "=", "\xe4", "A" * 5000):
            header = {b"Cookie": f"{COOKIE}={value}".encode("latin-1")}
            assert client.get("/ops/data", headers=header).status_code == 401, value
        header = {b"Cookie": f"{COOKIE}={own}".encode()}
        assert client.get("/ops/data", headers=header).status_code == 200


def test_whoever_guesses_is_not_listened_to(
    ops: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(ops_token.MAX_GUESSES - 1):
        answer = sign_in(ops, "a wrong one")
        assert answer.status_code == 403
        assert "That is not the token." in answer.text
    assert ops.get("/livez", headers={"Authorization": "Bearer wrong"}).status_code == 200
    refused = sign_in(ops)
    assert refused.status_code == 429
    assert 0 < int(refused.headers["retry-after"]) <= ops_token.WINDOW_SECONDS
    assert "set-cookie" not in refused.headers
    assert ops.get("/ops/data", headers=BEARER).status_code == 401
    later = time.monotonic() + ops_token.WINDOW_SECONDS
    monkeypatch.setattr(ops_token, "time", SimpleNamespace(monotonic=lambda: later))
    assert sign_in(ops).status_code == 303


def test_a_wrong_header_is_one_guess(ops: TestClient) -> None:
    for _ in range(ops_token.MAX_GUESSES - 1):
        assert ops.get("/ops", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert sign_in(ops).status_code == 303


def test_addresses_are_told_apart_and_not_remembered_without_end() -> None:
    guard = ops_token.TokenGuard(SecretStr(TOKEN))
    for _ in range(ops_token.MAX_GUESSES):
        guard.accepts(b"wrong", "192.0.2.1")
    assert not guard.accepts(TOKEN.encode(), "192.0.2.1")
    assert guard.accepts(TOKEN.encode(), "192.0.2.2")
    for number in range(2000):
        guard.accepts(b"wrong", str(number))
    assert len(guard._guesses) <= 1024  # noqa: SLF001 - nothing public tells it


def test_another_site_signs_nobody_in_or_out(ops: TestClient) -> None:
    sign_in(ops)
    for path in ("/ops/login", "/ops/logout"):
        forged = ops.post(path, data={"token": TOKEN}, headers={"Sec-Fetch-Site": "cross-site"})
        assert forged.status_code == 403
        assert "set-cookie" not in forged.headers
    assert is_in(ops)


@pytest.mark.parametrize(
    "path", ["/ops", "/ops/login", "/ops/main.js", "/ops/ops.css", "/ops/data", "/ops/settings"]
)
def test_everything_is_kept_out_of_the_page(ops: TestClient, path: str) -> None:
    for headers in (BEARER, {}):
        answer = ops.get(path, headers=headers)
        policy = dict(
            directive.strip().split(" ", 1)
            for directive in answer.headers["content-security-policy"].split(";")
        )
        assert policy["default-src"] == "'none'"
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        rest = {"script-src", "style-src", "img-src", "connect-src", "form-action"}
        assert {policy[name] for name in rest} == {"'self'"}
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"


def test_only_files_of_the_page_are_given(ops: TestClient) -> None:
    assert ops.get("/ops/ops.css").headers["content-type"] == "text/css; charset=utf-8"
    assert ops.get("/ops/main.js").headers["content-type"] == "text/javascript; charset=utf-8"
    for name in ("page.html", "login.html", "..%2Fops_page.py", "%2E%2E%2Fops_token.py", "x"):
        answer = ops.get(f"/ops/{name}", headers=BEARER)
        assert answer.status_code == 404, name
        assert "import" not in answer.text


def test_nothing_secret_is_shown(sqlite_url: str, ops: TestClient) -> None:
    shown = {one["name"]: one for one in ops.get("/ops/settings", headers=BEARER).json()}
    assert shown["OPS_TOKEN"]["value"] == shown["DATABASE_URL"]["value"] == "***"
    assert shown["DATABASE_POOL_TIMEOUT"] == {
        "name": "DATABASE_POOL_TIMEOUT", "value": "5.0 s", "source": "default",
    }  # fmt: skip
    assert shown["DATABASE_REPLICA_URL"]["value"] == ""
    both = json.dumps([*shown.values()]) + ops.get("/ops/data", headers=BEARER).text
    assert TOKEN not in both
    assert sqlite_url not in both

"""Every error is a problem (RFC 9457), and none of them tells what it should not."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.orm import Session
from starlette.testclient import TestClient

from service.app import MAX_BODY_BYTES
from service.database import create_db_engine, time_limit
from service.web.endpoints import reads, writes
from tests.support.application import application

SECRET = "hunter2-in-an-error"
ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT 1 FROM n) SELECT max(i) FROM n"


def add_broken_routes(app: FastAPI) -> None:
    @app.get("/boom")
    def boom() -> None:
        raise RuntimeError(SECRET)

    @app.post("/uncommittable", status_code=201)
    @writes()
    def uncommittable(session: Session) -> dict[str, str]:
        session.execute(text("INSERT INTO children (parent_id) VALUES (1)"))
        return {"status": "created"}

    @app.get("/endless")
    @reads
    def endless(session: Session) -> None:
        with time_limit(0.2):
            # MariaDB ends such a recursion by itself.
            is_mariadb = session.get_bind().dialect.name == "mariadb"
            session.execute(text("SELECT sleep(60)" if is_mariadb else ENDLESS))


@pytest.fixture
def broken_client(database_url: str) -> Iterator[TestClient]:
    """The application with routes that go wrong."""
    with application(database_url, prepare=add_broken_routes) as client:
        yield client


def problem_of(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["title"]
    assert body["type"] == "about:blank"
    return body


def test_unknown_path(client: TestClient) -> None:
    assert problem_of(client.get("/nothing"), 404)["instance"] == "/nothing"


def test_wrong_method_names_every_right_one(client: TestClient) -> None:
    response = client.put("/products", json={})
    problem_of(response, 405)
    assert response.headers["allow"] == "GET, POST"
    assert client.post("/products/1").headers["allow"] == "GET, PATCH, DELETE"


def test_malformed_json_points_at_the_body(client: TestClient) -> None:
    headers = {"content-type": "application/json"}
    body = problem_of(client.post("/products", content=b'{"code"', headers=headers), 422)
    assert body["errors"] == [{"detail": "The body is not valid JSON.", "pointer": ""}]


def test_validation_error_never_repeats_the_value(client: TestClient) -> None:
    body = problem_of(client.post("/products", json={"code": SECRET + " ", "name": [SECRET]}), 422)
    assert SECRET not in json.dumps(body)


def test_declared_body_over_the_limit_is_refused_unread(client: TestClient) -> None:
    body = problem_of(client.post("/products", content=b"x" * (MAX_BODY_BYTES + 1)), 413)
    assert str(MAX_BODY_BYTES) in body["detail"]


def test_streamed_body_over_the_limit_is_refused(client: TestClient) -> None:
    chunks = (b"x" * 1024 for _ in range(MAX_BODY_BYTES // 1024 + 2))
    headers = {"content-type": "application/json"}
    problem_of(client.post("/products", content=chunks, headers=headers), 413)


def test_body_at_the_limit_is_read(client: TestClient) -> None:
    body = json.dumps({"code": "A", "name": "B", "price": "1"}).encode().ljust(MAX_BODY_BYTES)
    headers = {"content-type": "application/json"}
    assert client.post("/products", content=body, headers=headers).status_code == 201


def test_unexpected_error_is_a_bare_500(broken_client: TestClient) -> None:
    response = broken_client.get("/boom")
    body = problem_of(response, 500)
    assert set(body) == {"type", "title", "status", "instance"}
    assert SECRET not in response.text
    assert response.headers["x-request-id"]


def test_failed_commit_is_not_a_201(broken_client: TestClient, database_url: str) -> None:
    deferred = "REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED"
    engine = create_db_engine(database_url, pool_name="test")
    if engine.dialect.name == "mariadb":
        pytest.skip("MariaDB checks every constraint at once, so that no commit fails by one")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE parents (id INTEGER PRIMARY KEY)"))
        connection.execute(text(f"CREATE TABLE children (parent_id INTEGER {deferred})"))
    try:
        problem_of(broken_client.post("/uncommittable"), 409)
        with engine.begin() as connection:
            assert connection.execute(text("SELECT count(*) FROM children")).scalar() == 0
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP TABLE children"))
            connection.execute(text("DROP TABLE parents"))
        engine.dispose()


def test_missing_table_is_a_503_that_names_nothing(client: TestClient, database_url: str) -> None:
    engine = create_db_engine(database_url, pool_name="test")
    rename = "ALTER TABLE {} RENAME TO {}"
    with engine.begin() as connection:
        connection.execute(text(rename.format("products", "hidden")))
    try:
        response = client.get("/products")
        problem_of(response, 503)
        assert int(response.headers["retry-after"]) > 0
        assert "products" not in response.json()["detail"]
    finally:
        with engine.begin() as connection:
            connection.execute(text(rename.format("hidden", "products")))
        engine.dispose()


def test_query_that_takes_too_long_is_a_503(broken_client: TestClient) -> None:
    start = time.perf_counter()
    response = broken_client.get("/endless")
    assert time.perf_counter() - start < 6, "long before the server's own limit of 10 s"
    problem_of(response, 503)
    assert int(response.headers["retry-after"]) > 0
    assert "RECURSIVE" not in response.text
    assert broken_client.get("/products").status_code == 200


def test_openapi_describes_problems(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    assert "Problem" in schema["components"]["schemas"]
    assert "HTTPValidationError" not in schema["components"]["schemas"]
    conflict = schema["paths"]["/products"]["post"]["responses"]["409"]["content"]
    assert conflict["application/problem+json"]["schema"]["$ref"] == "#/components/schemas/Problem"

"""A create that is tried again under one Idempotency-Key is done once."""

import concurrent.futures
from datetime import timedelta
from typing import Any, Final

import pytest
from sqlalchemy import event, func, select, update
from starlette.testclient import TestClient

from service.database import get_db_context, process, write_session
from service.database.idempotency import RETENTION, IdempotencyKey, forget_old_keys
from service.database.mixins import utc_now
from service.product_catalog.models import Product
from tests.support.databases import KINDS

ROPE: Final = {"code": "ROPE", "name": "Rope", "price": "1.00"}
OTHER: Final = ROPE | {"code": "OTHER"}
KEY: Final = "8e03978e-40d5-43dd-bc93-6894a57f9324"


def create(client: TestClient, body: dict[str, str] = ROPE, key: str = KEY) -> Any:
    return client.post("/products", json=body, headers={"Idempotency-Key": key})


def count(model: type[Product] | type[IdempotencyKey]) -> int:
    with get_db_context() as session:
        return session.scalars(select(func.count()).select_from(model)).one()


def age(seconds: float, *, by_former_release: bool = False) -> None:
    """Let all keys be older, and perhaps be those of a release that had no `expires_at`."""
    then = utc_now() - timedelta(seconds=seconds)
    ends = None if by_former_release else then + RETENTION
    with write_session() as session:
        session.execute(update(IdempotencyKey).values(created_at=then, expires_at=ends))


def test_retry_gets_the_same_answer_and_one_row(client: TestClient) -> None:
    first, second = create(client), create(client)
    assert first.status_code == second.status_code == 201
    assert first.content == second.content
    for header in ("location", "etag", "content-type"):
        assert first.headers[header] == second.headers[header]
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"
    assert count(Product) == 1


def test_answer_is_that_of_a_request_without_a_key(client: TestClient) -> None:
    plain = client.post("/products", json=ROPE)
    keyed = create(client, OTHER)
    assert set(plain.json()) == set(keyed.json())
    assert set(plain.headers) == set(keyed.headers)


def test_retry_gets_the_first_answer_also_when_the_product_has_changed(client: TestClient) -> None:
    first = create(client)
    client.patch(first.headers["location"], json={"name": "Cord"})
    assert create(client).content == first.content


def test_two_that_arrive_at_once_are_one(client: TestClient) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        answers = [*clients.map(lambda _: create(client), range(8))]
    assert [answer.status_code for answer in answers] == [201] * 8
    assert len({answer.content for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert count(Product) == 1


def test_key_of_another_request_is_refused(client: TestClient) -> None:
    create(client)
    refused = create(client, OTHER)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["parameter"] == "header/Idempotency-Key"
    assert count(Product) == 1


def test_error_is_not_remembered(client: TestClient) -> None:
    client.post("/products", json=ROPE)
    assert create(client).status_code == 409
    assert count(IdempotencyKey) == 0
    client.delete("/products/1")
    assert create(client).status_code == 201


def test_keys_of_others_are_others(client: TestClient) -> None:
    create(client)
    other = create(client, OTHER, key="another")
    assert other.status_code == 201
    assert count(Product) == 2


@pytest.mark.parametrize("key", ["", "a b", "\x7f", "k" * 256])
def test_what_is_no_key_is_refused(client: TestClient, key: str) -> None:
    assert create(client, key=key).status_code == 422
    assert count(Product) == 0


def test_key_past_its_time_is_as_good_as_new(client: TestClient) -> None:
    create(client)
    age(RETENTION.total_seconds() + 1)
    again = create(client, OTHER)
    assert again.status_code == 201
    assert "idempotent-replayed" not in again.headers
    assert count(IdempotencyKey) == 1


# On SQLite there is one writer at a time.
@pytest.mark.parametrize(
    "database_url", [kind for kind in KINDS if kind != "sqlite"], indirect=True
)
def test_retry_that_clears_an_old_key_away_leaves_the_answer_that_took_its_place(
    client: TestClient,
) -> None:
    create(client)
    age(RETENTION.total_seconds() + 1)
    overtaking: list[Any] = []

    @event.listens_for(process.engine, "before_cursor_execute")
    def overtake(*arguments: Any) -> None:
        if arguments[2].startswith("DELETE FROM idempotency_keys") and not overtaking:
            overtaking.append(None)
            overtaking.append(create(client, OTHER))

    overtaken = create(client, OTHER)
    assert overtaking[1].status_code == overtaken.status_code == 201
    assert overtaken.headers["idempotent-replayed"] == "true"
    assert overtaken.content == overtaking[1].content


def test_keys_of_the_former_release_are_remembered_for_as_long(client: TestClient) -> None:
    create(client)
    age(RETENTION.total_seconds() - 60, by_former_release=True)
    assert create(client).headers["idempotent-replayed"] == "true"
    age(RETENTION.total_seconds() + 1, by_former_release=True)
    assert create(client, OTHER).status_code == 201


def test_old_keys_are_deleted_and_young_ones_kept(client: TestClient) -> None:
    create(client)
    age(RETENTION.total_seconds() + 1)
    create(client, OTHER, key="young")
    with write_session() as session:
        forget_old_keys(session)
    assert count(IdempotencyKey) == 1
    assert create(client, OTHER, key="young").headers["idempotent-replayed"] == "true"


def test_many_old_keys_are_deleted_by_and_by(client: TestClient) -> None:
    create(client)
    end = utc_now()
    with write_session() as session:
        for number in range(12):
            made, ended = end - RETENTION, end - timedelta(seconds=number)
            key = IdempotencyKey(scope="", key=f"old {number}", fingerprint="")
            key.created_at, key.expires_at = made, ended
            session.add(key)
    left = []
    is_more = True
    while is_more:
        with write_session() as session:
            is_more = forget_old_keys(session, most=5)
        left.append(count(IdempotencyKey))
    assert left == [8, 3, 1]

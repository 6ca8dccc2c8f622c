"""ETag, If-Match and If-None-Match: nobody overwrites what he has not seen."""

import concurrent.futures
from typing import Any

import pytest
from starlette.testclient import TestClient


@pytest.fixture
def rope(client: TestClient) -> Any:
    """A product, as it was created."""
    return client.post("/products", json={"code": "ROPE", "name": "Rope", "price": "1.00"})


def test_every_answer_about_one_product_has_its_tag(client: TestClient, rope: Any) -> None:
    path = rope.headers["location"]
    assert rope.headers["etag"] == '"1"'
    assert client.get(path).headers["etag"] == '"1"'
    assert client.patch(path, json={"price": "2"}).headers["etag"] == '"2"'
    assert client.get(path).headers["etag"] == '"2"'


@pytest.mark.parametrize("tag", ['"1"', '"7", "1"', "*"])
def test_change_of_what_was_seen_is_made(client: TestClient, rope: Any, tag: str) -> None:
    path = rope.headers["location"]
    changed = client.patch(path, json={"price": "2"}, headers={"If-Match": tag})
    assert (changed.status_code, changed.json()["price"]) == (200, "2.00")


@pytest.mark.parametrize("tag", ['"2"', 'W/"1"', '"1', "1", ""])
def test_change_of_what_is_not_there_any_more_is_a_412(
    client: TestClient, rope: Any, tag: str
) -> None:
    path = rope.headers["location"]
    for refused in (
        client.patch(path, json={"price": "2"}, headers={"If-Match": tag}),
        client.delete(path, headers={"If-Match": tag}),
    ):
        assert refused.status_code == 412
        assert refused.headers["content-type"] == "application/problem+json"
    assert client.get(path).json()["price"] == "1.00"


def test_of_many_who_change_the_same_version_one_succeeds(client: TestClient, rope: Any) -> None:
    path = rope.headers["location"]

    def change(number: int) -> int:
        body = {"price": str(number + 10)}
        return client.patch(path, json=body, headers={"If-Match": '"1"'}).status_code

    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        statuses = sorted(clients.map(change, range(8)))
    assert statuses == [200] + [412] * 7
    assert client.get(path).headers["etag"] == '"2"'


def test_removal_of_what_was_seen_is_made(client: TestClient, rope: Any) -> None:
    path = rope.headers["location"]
    assert client.delete(path, headers={"If-Match": '"1"'}).status_code == 204
    assert client.delete(path, headers={"If-Match": '"1"'}).status_code == 404


@pytest.mark.parametrize("tag", ['"1"', 'W/"1"', '"0", "1"', "*"])
def test_client_that_has_it_is_told_so_without_a_body(
    client: TestClient, rope: Any, tag: str
) -> None:
    answer = client.get(rope.headers["location"], headers={"If-None-Match": tag})
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == '"1"'


def test_client_that_has_another_version_gets_this_one(client: TestClient, rope: Any) -> None:
    answer = client.get(rope.headers["location"], headers={"If-None-Match": '"0"'})
    assert (answer.status_code, answer.json()["code"]) == (200, "ROPE")

"""The catalog over HTTP, on every database."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.product_catalog.models import NAME_LENGTH

ROPE = {"code": "ROPE-10", "name": "Mooring rope", "price": "19.90"}


def create(client: TestClient, **values: object) -> dict[str, Any]:
    response = client.post("/products", json={**ROPE, **values})
    assert response.status_code == 201, response.text
    body: dict[str, Any] = response.json()
    return body


def codes(client: TestClient, **query: object) -> list[str]:
    """The codes of every page, each cursor followed to the end."""
    found: list[str] = []
    while True:
        response = client.get("/products", params={**query})  # type: ignore[dict-item]
        assert response.status_code == 200, response.text
        page = response.json()
        found += [item["code"] for item in page["items"]]
        if page["next_cursor"] is None:
            return found
        assert len(page["items"]) == query["limit"]
        query["cursor"] = page["next_cursor"]


def test_created_product_can_be_read_at_its_location(client: TestClient) -> None:
    response = client.post("/products", json={**ROPE, "description": "Three strands"})
    assert response.status_code == 201
    read = client.get(response.headers["location"])
    assert read.status_code == 200
    assert read.json() == response.json()
    assert read.json()["description"] == "Three strands"


@pytest.mark.parametrize(
    "price", ["0.00", "0.01", "0.10", "19.90", "1234567890.12", "9999999999.99"]
)
def test_price_survives_exactly(client: TestClient, price: str) -> None:
    created = create(client, price=price)
    assert client.get(f"/products/{created['id']}").json()["price"] == price


@pytest.mark.parametrize(("given", "kept"), [("-0", "0.00"), ("1e2", "100.00"), ("007", "7.00")])
def test_price_is_kept_in_one_form(client: TestClient, given: str, kept: str) -> None:
    created = create(client, price=given)
    assert created["price"] == kept
    assert client.get(f"/products/{created['id']}").json()["price"] == kept


def test_price_may_be_a_json_number(client: TestClient) -> None:
    assert create(client, price=0.1)["price"] == "0.10"


@pytest.mark.parametrize(
    "price", ["-0.01", "0.001", "10000000000.00", "1e400", "1_000", "\u0661", "NaN", "x", None]
)
def test_impossible_price_is_refused(client: TestClient, price: object) -> None:
    response = client.post("/products", json={**ROPE, "price": price})
    assert response.status_code == 422
    assert [error["pointer"] for error in response.json()["errors"]] == ["/price"]


def test_timestamps_have_a_zone_and_are_now(client: TestClient) -> None:
    created = create(client)
    for field in ("created_at", "updated_at"):
        instant = datetime.fromisoformat(created[field])
        assert instant.utcoffset() == timedelta(0)
        assert abs(datetime.now(UTC) - instant) < timedelta(minutes=1)
    assert client.get(f"/products/{created['id']}").json()["created_at"] == created["created_at"]


def test_duplicate_code_is_a_conflict_that_names_the_field(client: TestClient) -> None:
    create(client)
    response = client.post("/products", json=ROPE)
    assert response.status_code == 409
    assert response.headers["content-type"] == "application/problem+json"
    assert [error["pointer"] for error in response.json()["errors"]] == ["/code"]
    assert codes(client, limit=10) == ["ROPE-10"]


def test_patch_changes_only_what_it_names(client: TestClient) -> None:
    created = create(client, description="Three strands")
    response = client.patch(f"/products/{created['id']}", json={"price": "21.00"})
    assert response.status_code == 200
    changed = response.json()
    assert changed["updated_at"] > created["updated_at"]
    assert {**changed, "updated_at": ""} == {**created, "price": "21.00", "updated_at": ""}


def test_patch_tells_null_from_left_out(client: TestClient) -> None:
    created = create(client, description="Three strands")
    path = f"/products/{created['id']}"
    assert client.patch(path, json={}).json()["description"] == "Three strands"
    assert client.patch(path, json={"description": None}).json()["description"] is None
    assert client.patch(path, json={"name": None}).status_code == 422


def test_patch_to_a_taken_code_is_a_conflict(client: TestClient) -> None:
    create(client)
    other = create(client, code="ROPE-12")
    response = client.patch(f"/products/{other['id']}", json={"code": "ROPE-10"})
    assert response.status_code == 409
    assert client.get(f"/products/{other['id']}").json()["code"] == "ROPE-12"


def test_deleted_product_is_gone(client: TestClient) -> None:
    path = f"/products/{create(client)['id']}"
    response = client.delete(path)
    assert (response.status_code, response.content) == (204, b"")
    assert client.get(path).status_code == 404
    assert client.delete(path).status_code == 404
    assert client.patch(path, json={"price": "1.00"}).status_code == 404


@pytest.mark.parametrize("sort", ["id", "-id", "name", "-name", "price", "-price", "created_at"])
def test_pages_neither_skip_nor_repeat_among_ties(client: TestClient, sort: str) -> None:
    expected = []
    for number in range(13):
        create(client, code=f"P{number}", name=f"Name {number % 3}", price=f"{number % 2}.50")
        expected.append(f"P{number}")
    found = codes(client, sort=sort, limit=3)
    assert sorted(found) == sorted(expected)
    assert found == codes(client, sort=sort, limit=200)


def test_pages_are_sorted(client: TestClient) -> None:
    for number, price in enumerate(["10.00", "9.00", "100.00", "0.50"]):
        create(client, code=f"P{number}", price=price)
    prices = [
        Decimal(item["price"])
        for item in client.get("/products", params={"sort": "-price"}).json()["items"]
    ]
    assert prices == [Decimal(100), Decimal(10), Decimal(9), Decimal("0.5")]


def test_page_goes_on_where_it_stopped_although_rows_came_and_went(client: TestClient) -> None:
    ids = [create(client, code=f"P{number}", price=f"{number}.00")["id"] for number in range(6)]
    first = client.get("/products", params={"sort": "price", "limit": 3}).json()
    client.delete(f"/products/{ids[2]}")
    create(client, code="EARLY", price="0.50")
    create(client, code="LATE", price="3.50")
    query = {"sort": "price", "limit": 3, "cursor": first["next_cursor"]}
    second = client.get("/products", params=query).json()
    assert [item["code"] for item in second["items"]] == ["P3", "LATE", "P4"]


def test_filters_by_name_prefix_in_any_case(client: TestClient) -> None:
    for code, name in (("A", "Rope 10 mm"), ("B", "ROPE ladder"), ("C", "Grope"), ("D", "50% off")):
        create(client, code=code, name=name)
    assert codes(client, name_prefix="rope", limit=10) == ["A", "B"]
    assert codes(client, name_prefix="50%", limit=10) == ["D"]
    assert codes(client, name_prefix="5_", limit=10) == []


def test_filters_by_price_range_inclusive(client: TestClient) -> None:
    for price in ("1.00", "2.00", "3.00", "10.00"):
        create(client, code=f"P{price}", price=price)
    assert codes(client, min_price="2", max_price="3.00", limit=10) == ["P2.00", "P3.00"]
    assert codes(client, min_price="3.01", limit=10) == ["P10.00"]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ({"limit": "0"}, "query/limit"),
        ({"limit": "201"}, "query/limit"),
        ({"sort": "colour"}, "query/sort"),
        ({"min_price": "3", "max_price": "2"}, "query"),
        ({"name_prefix": "a\x00"}, "query/name_prefix"),
        ({"colour": "red"}, "query/colour"),
        ({"cursor": "!!"}, "query/cursor"),
        ({"cursor": "WzFd"}, "query/cursor"),
        ({"cursor": "é"}, "query/cursor"),
    ],
)
def test_bad_query_is_refused_and_named(
    client: TestClient, query: dict[str, str], parameter: str
) -> None:
    response = client.get("/products", params=query)
    assert response.status_code == 422
    assert [error["parameter"] for error in response.json()["errors"]] == [parameter]


def test_cursor_of_another_order_is_refused(client: TestClient) -> None:
    for number in range(3):
        create(client, code=f"P{number}")
    cursor = client.get("/products", params={"limit": 1}).json()["next_cursor"]
    response = client.get("/products", params={"sort": "name", "cursor": cursor})
    assert response.status_code == 422


def test_cursor_that_was_tampered_with_is_refused(client: TestClient) -> None:
    for number in range(2):
        create(client, code=f"P{number}")
    cursor = client.get("/products", params={"limit": 1}).json()["next_cursor"]
    for changed in (cursor[:-1], f"{cursor}A", cursor.swapcase(), f"{cursor}=", f"{cursor}\n"):
        response = client.get("/products", params={"cursor": changed})
        assert response.status_code == 422, changed
        assert response.headers["content-type"] == "application/problem+json"
        assert [error["parameter"] for error in response.json()["errors"]] == ["query/cursor"]


@pytest.mark.parametrize("character", ['"', "\u00e9", "\U0001f511"])
def test_cursor_of_the_longest_name_is_taken(client: TestClient, character: str) -> None:
    for number in range(3):
        create(client, code=f"P{number}", name=character * NAME_LENGTH)
    assert codes(client, sort="name", limit=1) == ["P0", "P1", "P2"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("code", ""),
        ("code", "two words"),
        ("code", "x" * 65),
        ("name", "   "),
        ("name", "line\nbreak"),
        ("name", "nul\x00"),
        ("name", "\ud800"),
        ("name", "x" * 201),
        ("description", "nul\x00"),
        ("colour", "red"),
    ],
)
def test_bad_value_is_refused_and_pointed_at(client: TestClient, field: str, value: str) -> None:
    # json.dumps writes what no client library would, such as half of a surrogate pair.
    body = {**ROPE, field: value}
    response = client.post(
        "/products", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert response.status_code == 422, response.text
    assert [error["pointer"] for error in response.json()["errors"]] == [f"/{field}"]


@pytest.mark.parametrize("product_id", ["0", "-1", "abc", str(1 << 63), "1" * 50])
def test_impossible_id_is_refused(client: TestClient, product_id: str) -> None:
    response = client.get(f"/products/{product_id}")
    assert response.status_code == 422
    assert response.json()["errors"][0]["parameter"] == "path/product_id"


def test_largest_id_is_not_found(client: TestClient) -> None:
    assert client.get(f"/products/{(1 << 63) - 1}").status_code == 404

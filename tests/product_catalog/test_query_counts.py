"""One question is one query, however many rows it is about."""

import pytest
from starlette.testclient import TestClient

from service.database import process, write_session
from service.product_catalog.models import Product
from service.product_catalog.repository import ProductRepository
from tests.support.queries import counted_queries


@pytest.fixture
def _many(client: TestClient) -> None:
    del client
    rows = [Product(code=f"C{number}", name="Rope", price=1) for number in range(60)]
    with write_session() as session:
        ProductRepository(session).add_many(rows)


@pytest.mark.usefixtures("_many")
@pytest.mark.parametrize("limit", [1, 50])
def test_list_is_one_query(client: TestClient, limit: int) -> None:
    with counted_queries(process.engine) as statements:
        page = client.get("/products", params={"limit": limit}).json()
    assert len(page["items"]) == limit
    assert len(statements) == 1


@pytest.mark.usefixtures("_many")
def test_read_by_key_is_one_query(client: TestClient) -> None:
    with counted_queries(process.engine) as statements:
        assert client.get("/products/1").status_code == 200
    assert len(statements) == 1


def test_create_is_one_statement(client: TestClient) -> None:
    with counted_queries(process.engine) as statements:
        client.post("/products", json={"code": "A", "name": "Rope", "price": "1"})
    assert len(statements) == 1


@pytest.mark.usefixtures("_many")
def test_change_is_a_query_and_a_statement(client: TestClient) -> None:
    with counted_queries(process.engine) as statements:
        assert client.patch("/products/1", json={"price": "2"}).status_code == 200
    assert [statement.split()[0] for statement in statements] == ["SELECT", "UPDATE"]

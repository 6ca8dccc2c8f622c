"""The catalog's own revisions, on databases with rows in them."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from sqlalchemy import Engine, column, insert, inspect, select, table, update

from service.database import DatabaseSettings
from service.database.idempotency import RETENTION
from service.database.types import UTCDateTime
from service.migrator.errors import MigrationError
from service.migrator.runner import Runner, make_runner

_BEFORE: Final = "b4d9e27f61a0"
_ADDED: Final = "91d4f7b2c6e8"
_KEYS: Final = table(
    "idempotency_keys",
    column("scope"),
    column("key"),
    column("fingerprint"),
    column("created_at", UTCDateTime()),
    column("expires_at", UTCDateTime()),
)
_ROWS: Final = 2500


def insert_keys(engine: Engine, scope: str, count: int = _ROWS) -> None:
    """Make keys as the former release does; three of them at each moment."""
    start = datetime(2026, 11, 1, tzinfo=UTC)
    rows = [
        {
            "scope": scope,
            "key": str(number),
            "fingerprint": "f",
            "created_at": start + timedelta(milliseconds=number // 3),
        }
        for number in range(count)
    ]
    with engine.begin() as connection:
        connection.execute(insert(_KEYS), rows)


def ends(engine: Engine) -> list[tuple[datetime, datetime | None]]:
    with engine.connect() as connection:
        rows = connection.execute(select(_KEYS.c.created_at, _KEYS.c.expires_at))
        return [(row.created_at, row.expires_at) for row in rows]


def at(url: str, revision: str) -> Runner:
    """A runner for a database that has been brought up, and then back to a revision."""
    runner = make_runner(DatabaseSettings(url=url))
    runner.up()
    runner.down(revision)
    return runner


def test_keys_get_the_end_that_they_were_made_for(empty_url: str, engine: Engine) -> None:
    runner = at(empty_url, _BEFORE)
    insert_keys(engine, "before")
    runner.up()
    found = ends(engine)
    assert len(found) == _ROWS
    assert {end - made if end else None for made, end in found} == {RETENTION}
    # Three rows at a moment stay in one batch, so none is passed over.
    names = [index["name"] for index in inspect(engine).get_indexes("idempotency_keys")]
    assert names == ["ix_idempotency_keys_expires_at"]


def test_backfill_that_is_stopped_goes_on_where_it_was(
    empty_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = at(empty_url, _ADDED)
    insert_keys(engine, "before")
    batches: list[int] = []

    def fail_after_the_second(_: float) -> None:
        batches.append(sum(end is not None for _, end in ends(engine)))
        if len(batches) == 2:
            inspect(engine).get_columns("not_there")

    monkeypatch.setattr("service.migrations.backfill.sleep", fail_after_the_second)
    with pytest.raises(MigrationError, match="not_there"):
        runner.up()
    # Others have seen each batch as soon as it was done: at least a thousand rows, and its ties.
    first, second = batches
    assert 1000 <= first < 1010
    assert 2000 <= second < 2020
    monkeypatch.undo()
    runner.up()
    assert {end - made if end else None for made, end in ends(engine)} == {RETENTION}


def test_contract_fills_what_the_former_release_wrote_meanwhile(
    empty_url: str, engine: Engine
) -> None:
    runner = at(empty_url, "d80a6c35e1f9")
    insert_keys(engine, "late", 5)
    runner.up()
    assert {end - made if end else None for made, end in ends(engine)} == {RETENTION}


def test_keys_that_have_an_end_keep_it(empty_url: str, engine: Engine) -> None:
    runner = at(empty_url, _ADDED)
    insert_keys(engine, "new", 5)
    other: Any = datetime(2027, 1, 1, tzinfo=UTC)
    with engine.begin() as connection:
        connection.execute(update(_KEYS).values(expires_at=other))
    runner.up()
    assert {end for _, end in ends(engine)} == {other}

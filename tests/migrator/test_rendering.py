"""The SQL of revisions is written without a database, each revision for itself."""

import pytest

from service.migrator.errors import MigrationError
from service.migrator.phases import Phase
from service.migrator.rendering import render
from service.migrator.revisions import Revisions


@pytest.mark.parametrize("dialect", ["postgresql", "mariadb", "sqlite"])
def test_each_revision_is_written_with_its_file_and_phase(dialect: str) -> None:
    revisions = Revisions()
    written = render(revisions, dialect)
    assert [one.revision for one in written] == [*revisions.known]
    first = written[0]
    assert (first.title, first.phase) == ("Create products.", Phase.EXPAND)
    assert first.path.is_file()
    assert "CREATE TABLE products" in first.sql
    assert "idempotency_keys" not in first.sql
    assert ("COLLATE utf8mb4_nopad_bin" in first.sql) is (dialect == "mariadb")
    assert ("BEGIN" in first.sql) is (dialect != "mariadb")


def test_range_is_what_lies_behind_its_start() -> None:
    revisions = Revisions()
    first, second, *_ = revisions.known
    assert [one.revision for one in render(revisions, "postgresql", first, second)] == [second]
    with pytest.raises(MigrationError, match="nowhere"):
        render(revisions, "postgresql", "nowhere")

"""That the tests migrate their own databases, and no other."""

import sqlite3
from pathlib import Path

from tests.support.databases import migrate


def test_database_of_an_env_file_is_left_alone(tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs.db", tmp_path / "ours.db"
    Path(".env").write_text(f"MIGRATE_DATABASE_URL=sqlite:///{theirs}\n")
    migrate(f"sqlite:///{ours}")
    assert not theirs.exists()
    connection = sqlite3.connect(ours)
    assert connection.execute("SELECT count(*) FROM products").fetchall() == [(0,)]
    connection.close()

"""The migrated schema is compared with the models by what the server says of both."""

from collections.abc import Callable

import pytest
import sqlalchemy as sa
from alembic import command
from sqlalchemy import MetaData, event

from service.database import NAMING_CONVENTION, DatabaseSettings, create_db_engine
from service.migrator import schemas
from service.migrator.check import compare_with_database, compare_with_models
from service.migrator.connections import migration_engine
from service.migrator.errors import UsageError
from service.migrator.revisions import Revisions
from service.migrator.scratch import PREFIX, Scratch
from tests.support.databases import worker_name
from tests.support.postgres import temporary_role
from tests.support.revision_project import RevisionProject

Change = Callable[[sa.Table], object]


def models(change: Change = lambda _: None, *, colours: tuple[str, ...] = ("red",)) -> MetaData:
    """One table; each test changes one thing of it, which no revision does."""
    metadata = MetaData(naming_convention=NAMING_CONVENTION)
    table = sa.Table(
        "things",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("size", sa.Integer, nullable=False, server_default="1"),
        sa.Column("name", sa.String(20), comment="what it is called"),
        sa.Column("colour", sa.Enum(*colours, name="colour", create_constraint=True)),
        sa.CheckConstraint("size > 0", name="size_positive"),
    )
    change(table)
    return metadata


CREATE = """
op.create_table(
    "things",
    sa.Column("id", sa.Integer, nullable=False, autoincrement=False),
    sa.Column("size", sa.Integer, nullable=False, server_default="1"),
    sa.Column("name", sa.String(20), comment="what it is called"),
    sa.Column("colour", sa.Enum("red", name="colour", create_constraint=False)),
    sa.CheckConstraint("size > 0", name=op.f("ck_things_size_positive")),
    sa.PrimaryKeyConstraint("id", name=op.f("pk_things")),
    # The others have a type for it.
    *([sa.CheckConstraint("colour IN ('red')", name=op.f("ck_things_colour"))]
      if op.get_context().dialect.name == "sqlite" else []),
)
"""


def replace_check(table: sa.Table) -> None:
    (check,) = (c for c in table.constraints if c.name == "ck_things_size_positive")
    table.constraints.remove(check)
    table.append_constraint(sa.CheckConstraint("size > 1", name="size_positive"))


def change_default(table: sa.Table) -> None:
    table.c.size.server_default = sa.DefaultClause("2")


# What is changed, what is to be told of it, and whether Alembic's own check misses it.
CHANGES: dict[str, tuple[Change, str, bool]] = {
    "default": (change_default, "things.size", False),
    "check": (replace_check, "things.ck_things_size_positive", True),
    "new check": (
        lambda t: t.append_constraint(sa.CheckConstraint("id > 0", name="id_positive")),
        "things.ck_things_id_positive",
        True,
    ),
    "nullable": (lambda t: setattr(t.c.name, "nullable", False), "things.name", False),
    "column": (lambda t: t.append_column(sa.Column("more", sa.Text)), "things.more", False),
    "length": (lambda t: setattr(t.c.name, "type", sa.String(21)), "things.name", False),
    "index": (lambda t: sa.Index("ix_things_name", t.c.name), "things.ix_things_name", False),
}


def test_what_the_models_say_is_no_difference(project: RevisionProject, scratch: Scratch) -> None:
    project.add(CREATE, "op.drop_table('things')")
    assert compare_with_models(project.revisions(models()), scratch) == ()


@pytest.mark.parametrize("name", CHANGES)
def test_model_changed_without_a_revision_is_named_in_one_line(
    project: RevisionProject, scratch: Scratch, name: str
) -> None:
    change, what, is_missed = CHANGES[name]
    project.add(CREATE, "op.drop_table('things')")
    changed = project.revisions(models(change))
    (found,) = compare_with_models(changed, scratch)
    assert what in str(found)
    assert "\n" not in str(found)
    assert "the models" in str(found)
    if is_missed:
        assert_alembic_sees_nothing(changed, scratch)


def test_new_enum_value_is_found(project: RevisionProject, scratch: Scratch) -> None:
    project.add(CREATE, "op.drop_table('things')")
    changed = project.revisions(models(colours=("red", "sea")))
    found = [str(one) for one in compare_with_models(changed, scratch)]
    # An ENUM of PostgreSQL or MariaDB; a CHECK elsewhere.
    assert any("sea" in line for line in found), found
    if scratch.dialect_name == "postgresql":
        assert found == [
            "enum public.colour: values is 'red' in the revisions, 'red', 'sea' in the models"
        ]
        assert_alembic_sees_nothing(changed, scratch)


def assert_alembic_sees_nothing(revisions: Revisions, scratch: Scratch) -> None:
    with scratch.database() as engine:
        schemas.upgrade(engine, revisions)
        with engine.connect() as connection:
            revisions.config.attributes["connection"] = connection
            command.check(revisions.config)


# Further things that PostgreSQL has: the statement that only the models say.
FURTHER = {
    "collation": (
        'ALTER TABLE things ALTER name TYPE varchar(20) COLLATE "C"',
        "collation is none",
    ),
    "predicate": ("CREATE INDEX i1 ON things (name) WHERE size > 3", "things.i1"),
    "expression": ("CREATE INDEX i2 ON things (lower(name))", "things.i2"),
    "operator class": ("CREATE INDEX i3 ON things (name text_pattern_ops)", "things.i3"),
    "sequence": ("CREATE SEQUENCE numbers INCREMENT 5", "sequence public.numbers"),
    "function": (
        "CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql AS 'SELECT n * 2'",
        "function public.twice(n integer)",
    ),
    "type": ("CREATE TYPE pair AS (a int, b text)", "type public.pair"),
    "domain": ("CREATE DOMAIN positive AS int CHECK (VALUE > 0)", "domain public.positive"),
    "comment": ("COMMENT ON TABLE things IS 'more'", "comment is none in the revisions, more in"),
    "view": ("CREATE VIEW small AS SELECT * FROM things WHERE size < 3", "view public.small"),
    "rule": ("ALTER TABLE things ENABLE ROW LEVEL SECURITY", "row security is none"),
    "policy": ("CREATE POLICY mine ON things USING (size > 1)", "policy public.things.mine"),
    "validity": (
        "ALTER TABLE things ADD CONSTRAINT more CHECK (size < 9) NOT VALID",
        "NOT VALID",
    ),
    "statistics": ("CREATE STATISTICS s ON size, name FROM things", "statistics public.s"),
    "schema": ("CREATE SCHEMA more", "schema more"),
    "storage": ("ALTER TABLE things SET (fillfactor = 70)", "options is none"),
    "trigger": (
        "CREATE TRIGGER t AFTER UPDATE ON things EXECUTE FUNCTION tsvector_update_trigger()",
        "trigger public.things.t",
    ),
}


def test_whatever_the_server_knows_is_compared(
    project: RevisionProject, postgres_scratch: Scratch
) -> None:
    project.add(CREATE, "op.drop_table('things')")
    metadata = models()
    for statement, _ in FURTHER.values():
        event.listen(metadata, "after_create", sa.DDL(statement))  # type: ignore[no-untyped-call]
    changed = project.revisions(metadata)
    found = [str(one) for one in compare_with_models(changed, postgres_scratch)]
    missing = {
        name for name, (_, words) in FURTHER.items() if not any(words in one for one in found)
    }
    assert not missing, found


def test_shipped_revisions_make_what_the_models_say(scratch: Scratch) -> None:
    assert compare_with_models(Revisions(), scratch) == ()


def test_database_is_compared_with_the_revision_that_it_is_at(
    project: RevisionProject, scratch: Scratch
) -> None:
    first = project.add(CREATE, "op.drop_table('things')")
    project.add("op.add_column('things', sa.Column('later', sa.Text))")
    revisions = project.revisions()
    with scratch.url() as url, migration_engine(DatabaseSettings(url=url)) as engine:
        schemas.upgrade(engine, revisions, first)
        assert compare_with_database(engine, revisions, scratch) == ()
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE INDEX by_hand ON things (size)"))
        (found,) = compare_with_database(engine, revisions, scratch)
    assert "things.by_hand: only in the database" in str(found)


def test_scratch_database_is_gone_whatever_happened_in_it(
    postgres_scratch: Scratch, postgres_url: str
) -> None:
    engine = create_db_engine(postgres_url, pool_name="test")

    def there(name: str | None) -> bool:
        with engine.connect() as connection:
            query = sa.text("SELECT count(*) FROM pg_database WHERE datname = :name")
            return bool(connection.execute(query, {"name": name}).scalar_one())

    with pytest.raises(ZeroDivisionError), postgres_scratch.database() as scratch_engine:
        name = scratch_engine.url.database
        assert name is not None
        assert name.startswith(PREFIX)
        # Whoever is still connected is in nobody's way.
        held = scratch_engine.connect()
        assert there(name)
        raise ZeroDivisionError
    assert not there(name)
    held.invalidate()
    held.close()
    engine.dispose()


def test_role_that_may_not_create_databases_is_told_what_to_do(
    project: RevisionProject, postgres_url: str
) -> None:
    project.add("pass")
    with (
        temporary_role(postgres_url, f"narrow_{worker_name()}") as url,
        pytest.raises(UsageError, match=r"CREATEDB.*--scratch-url"),
    ):
        compare_with_models(project.revisions(), Scratch(DatabaseSettings(url=url)))


# The same for MariaDB.
FURTHER_ON_MARIADB = {
    "prefix": ("CREATE INDEX i1 ON things (name(3))", "things.i1"),
    "descending": ("CREATE INDEX i2 ON things (size DESC, id)", "things.i2"),
    "sequence": ("CREATE SEQUENCE numbers INCREMENT BY 5", "sequence numbers"),
    "function": (
        "CREATE FUNCTION twice(n INT) RETURNS INT DETERMINISTIC RETURN n * 2",
        "function twice",
    ),
    "parameter": ("CREATE PROCEDURE nothing(IN n INT) SELECT 1", "parameter nothing.1"),
    "view": ("CREATE VIEW small AS SELECT * FROM things WHERE size < 3", "view small"),
    "trigger": (
        "CREATE TRIGGER t BEFORE UPDATE ON things FOR EACH ROW SET NEW.size = 2",
        "trigger things.t",
    ),
    "comment": ("ALTER TABLE things COMMENT 'more'", "comment is none in the revisions, more in"),
    "collation": (
        "ALTER TABLE things MODIFY name VARCHAR(20) COLLATE utf8mb4_bin",
        "column things.name: collation is",
    ),
    "foreign key": (
        "CREATE TABLE others (id INT, CONSTRAINT f FOREIGN KEY (id) REFERENCES things (id))",
        "table others: only in the models",
    ),
    "action": (
        "ALTER TABLE things ADD CONSTRAINT g FOREIGN KEY (id) REFERENCES things (id)",
        "constraint things.g: only in the models: FOREIGN KEY (id) REFERENCES things (id)",
    ),
    "event": ("CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO SELECT 1", "event e"),
}


@pytest.mark.mariadb
def test_whatever_mariadb_knows_is_compared(project: RevisionProject, mariadb_url: str) -> None:
    project.add(CREATE, "op.drop_table('things')")
    metadata = models()
    for statement, _ in FURTHER_ON_MARIADB.values():
        event.listen(metadata, "after_create", sa.DDL(statement))  # type: ignore[no-untyped-call]
    scratch = Scratch(DatabaseSettings(url=mariadb_url))
    found = [str(one) for one in compare_with_models(project.revisions(metadata), scratch)]
    expected = {name: words for name, (_, words) in FURTHER_ON_MARIADB.items()}
    assert not {n for n, words in expected.items() if not any(words in one for one in found)}, found

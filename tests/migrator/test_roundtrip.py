"""Each revision goes up, down and up on tables that hold rows, and leaves nothing changed."""

import pytest
from sqlalchemy import func, select

from service.database import DatabaseSettings
from service.migrator import rows, schemas
from service.migrator.connections import migration_engine
from service.migrator.revisions import Revisions
from service.migrator.roundtrip import Trip, roundtrip
from service.migrator.scratch import Scratch
from tests.support.revision_project import RevisionProject

CREATE = """
op.create_table(
    "things",
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(20)),
)
"""
DROP = "op.drop_table('things')"


def trips(project: RevisionProject, scratch: Scratch) -> list[Trip]:
    return roundtrip(project.revisions(), scratch)


def test_revisions_that_come_back(project: RevisionProject, scratch: Scratch) -> None:
    project.add(CREATE, DROP)
    project.add(
        "op.add_column('things', sa.Column('size', sa.Integer, server_default='1'))",
        "with op.batch_alter_table('things') as table:\n    table.drop_column('size')",
    )
    done = trips(project, scratch)
    assert [(trip.problems, trip.notes) for trip in done] == [((), ()), ((), ())], done


def test_shipped_revisions_come_back(scratch: Scratch) -> None:
    told: list[Trip] = []
    done = roundtrip(Revisions(), scratch, told.append)
    assert done == told
    assert len(done) == len(Revisions().known)
    assert [trip.problems for trip in done] == [()] * len(done)


# What a downgrade leaves behind or forgets on PostgreSQL, and what is told of it.
LOSSES = {
    "sequence": (
        "op.execute('CREATE SEQUENCE IF NOT EXISTS s')",
        "pass",
        "sequence public.s: only in",
    ),
    "function": (
        "op.execute('CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS $$SELECT 1$$')",
        "pass",
        "function public.f(): only in",
    ),
    "changed function": (
        "op.execute('CREATE OR REPLACE FUNCTION f0() RETURNS int LANGUAGE sql AS $$SELECT 2$$')",
        "pass",
        "function public.f0(): definition is",
    ),
    "default": (
        "op.alter_column('things', 'name', server_default='x')",
        "pass",
        "column public.things.name: default is none in the schema before",
    ),
    "index": (
        "op.drop_index('ix_name', 'things')",
        "op.create_index('ix_name', 'things', ['name', 'id'], unique=True)",
        "index public.things.ix_name: definition is",
    ),
    "rows": ("pass", "op.execute('DELETE FROM things WHERE id = 1')", "down lost 1 rows of things"),
    "values": (
        "pass",
        (
            "op.drop_column('things', 'name')\n"
            "op.add_column('things', sa.Column('name', sa.String(20)))\n"
            "op.create_index('ix_name', 'things', ['name'])"
        ),
        "values of things.name",
    ),
}

# What leaves the database in no state to go on from.
FAILURES = {
    "type": (
        "op.execute('''CREATE TYPE mood AS ENUM ('a'); ALTER TABLE things ADD mood mood''')",
        "op.drop_column('things', 'mood')",
        "enum public.mood: only in the schema after up and down",
    ),
    "down that meets rows": (
        "op.alter_column('things', 'name', type_=sa.String(400))",
        "op.alter_column('things', 'name', type_=sa.Integer, postgresql_using='name::integer')",
        "down failed: ",
    ),
    "up that meets rows": (
        "op.add_column('things', sa.Column('more', sa.Integer, nullable=False))",
        "op.drop_column('things', 'more')",
        "up failed: ",
    ),
    "up that is a broken program": (
        "op.get_bind().nothing()",
        "pass",
        "up failed: AttributeError: ",
    ),
    "up that cannot go again": (
        "op.execute('CREATE SCHEMA more')",
        "op.execute('ALTER SCHEMA more RENAME TO rest')\nop.execute('CREATE SCHEMA more')",
        "up again failed: ",
    ),
    "no way back": ("pass", "raise NotImplementedError", "down failed: NotImplementedError"),
}


FIRST = f"""{CREATE}
op.create_index('ix_name', 'things', ['name'])
op.execute('CREATE FUNCTION f0() RETURNS int LANGUAGE sql AS $$SELECT 1$$')
"""


def test_what_a_round_trip_loses_is_named(
    project: RevisionProject, postgres_scratch: Scratch
) -> None:
    project.add(FIRST, f"op.execute('DROP FUNCTION f0')\n{DROP}")
    for up, down, _ in LOSSES.values():
        project.add(up, down)
    first, *others = trips(project, postgres_scratch)
    assert first.problems == ()
    for trip, (name, (_, _, expected)) in zip(others, LOSSES.items(), strict=True):
        assert any(expected in problem for problem in trip.problems), (name, trip)


@pytest.mark.parametrize("name", FAILURES)
def test_what_fails_on_the_way_is_told_and_ends_it(
    project: RevisionProject, postgres_scratch: Scratch, name: str
) -> None:
    up, down, expected = FAILURES[name]
    project.add(CREATE, DROP)
    project.add(up, down)
    project.add("pass")
    first, second = trips(project, postgres_scratch)
    assert first.problems == ()
    assert any(expected in problem for problem in second.problems), second


def test_contract_that_drops_data_is_noted_and_passes(
    project: RevisionProject, postgres_scratch: Scratch
) -> None:
    project.add(CREATE, DROP)
    project.add(
        "op.drop_column('things', 'name')",
        "op.add_column('things', sa.Column('name', sa.String(20)))",
        head='phase = "contract"',
    )
    _, contract = trips(project, postgres_scratch)
    assert contract.problems == ()
    assert contract.notes == ("down does not bring back 2 values of things.name",)


def test_irreversible_revision_needs_no_way_back(
    project: RevisionProject, scratch: Scratch
) -> None:
    project.add(CREATE, DROP)
    head = 'phase = "contract"\nirreversible = "the rows are gone"'
    project.add("op.execute('DELETE FROM things')", "raise NotImplementedError", head=head)
    project.add("op.create_index('i', 'things', ['name'])", "op.drop_index('i', 'things')")
    done = trips(project, scratch)
    assert [trip.problems for trip in done] == [(), (), ()]
    assert [trip.irreversible for trip in done] == [None, "the rows are gone", None]


RICH = """
op.execute("CREATE TYPE mood AS ENUM ('calm', 'wild')")
op.execute("CREATE DOMAIN grade AS int CHECK (VALUE BETWEEN 40 AND 50)")
op.execute('''
    CREATE TABLE parents (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        code char(2) NOT NULL UNIQUE,
        mood mood NOT NULL,
        state text NOT NULL CHECK (state IN ('draft', 'live')),
        share numeric(3, 2) NOT NULL CHECK (share > 0.5 AND share < 2),
        grade grade NOT NULL,
        born date NOT NULL, seen timestamptz NOT NULL, at time NOT NULL, lasts interval NOT NULL,
        flags boolean NOT NULL, data jsonb NOT NULL, words text[] NOT NULL, raw bytea NOT NULL,
        key uuid NOT NULL UNIQUE, address inet NOT NULL, span tstzrange NOT NULL,
        ratio double precision NOT NULL, small smallint NOT NULL,
        doubled int GENERATED ALWAYS AS (small * 2) STORED,
        boss bigint REFERENCES parents (id),
        UNIQUE (code, mood)
    )
''')
op.execute('''
    CREATE TABLE children (
        number serial PRIMARY KEY,
        parent bigint NOT NULL UNIQUE REFERENCES parents (id),
        code char(2) NOT NULL, mood mood NOT NULL,
        FOREIGN KEY (code, mood) REFERENCES parents (code, mood)
    )
''')
op.execute('CREATE SCHEMA more')
op.execute('CREATE TABLE more.others (id int PRIMARY KEY, child int REFERENCES public.children)')
"""


def test_rows_honour_types_keys_and_checks(
    project: RevisionProject, postgres_scratch: Scratch
) -> None:
    project.add(RICH)
    with postgres_scratch.url() as url, migration_engine(DatabaseSettings(url=url)) as engine:
        schemas.upgrade(engine, project.revisions())
        for number in (3, 6):
            with engine.begin() as connection:
                assert rows.fill(connection, {}) == []
                for table in rows.reflected(connection):
                    counted = connection.execute(select(func.count()).select_from(table)).scalar()
                    assert counted == number, table.fullname


def test_table_without_rows_is_a_problem_until_some_are_given(
    project: RevisionProject, scratch: Scratch
) -> None:
    create = """
    op.create_table(
        "things",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("word", sa.String(20), sa.CheckConstraint("length(word) = 17"), nullable=False),
    )
    """
    project.add(create, DROP)
    (trip,) = trips(project, scratch)
    (problem,) = trip.problems
    assert "sample_rows" in problem
    assert "table things" in problem
    project.files.clear()
    head = 'phase = "expand"\nsample_rows = {"things": [{"word": "seventeen letters"}]}'
    project.add(create, DROP, head=head)
    (trip,) = trips(project, scratch)
    assert trip.problems == ()

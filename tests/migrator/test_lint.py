"""What the linter says, and where; each rule beside the way that it leaves alone."""

import json
from pathlib import Path

import pytest

from service.migrator.errors import UsageError
from service.migrator.lint.findings import Finding
from service.migrator.lint.formats import WRITERS, Format, relative
from service.migrator.lint.linter import lint
from service.migrator.revisions import Revisions
from tests.support.revision_project import RevisionProject

# What is done to a table that was there before, and the rules that it breaks.
CASES: dict[str, tuple[str, set[str]]] = {
    "drop column": ("op.drop_column('things', 'name')", {"contract-drop-column"}),
    "drop table": ("op.drop_table('things')", {"contract-drop-table"}),
    "drop constraint": (
        "op.drop_constraint('ck_things_size', 'things')",
        {"contract-drop-constraint"},
    ),
    "rename column": (
        "op.alter_column('things', 'name', new_column_name='title')",
        {"contract-rename"},
    ),
    "rename table": ("op.rename_table('things', 'items')", {"contract-rename"}),
    "type": (
        "op.alter_column('things', 'size', type_=sa.BigInteger())",
        {"contract-type-change", "changing-column-type"},
    ),
    "not null": (
        "op.alter_column('things', 'name', nullable=False)",
        {"contract-not-null", "adding-not-nullable-field"},
    ),
    "drop default": (
        "op.alter_column('things', 'size', server_default=None)",
        {"contract-drop-default"},
    ),
    "several by hand": (
        (
            "op.execute('''alter table only \"things\" add x bigint, drop if exists name,"
            " drop constraint c''')"
        ),
        {"contract-drop-column", "contract-drop-constraint"},
    ),
    "drop type": ("op.execute('DROP TYPE IF EXISTS mood')", {"contract-drop-object"}),
    "rename value": (
        "op.execute(\"ALTER TYPE mood RENAME VALUE 'a' TO 'b'\")",
        {"contract-rename"},
    ),
    "truncate": ("op.execute('TRUNCATE things')", {"contract-truncate"}),
    "add column": ("op.add_column('things', sa.Column('more', sa.Text()))", set()),
    "drop of an index": ("op.drop_index('ix_things_name')", {"require-concurrent-index-deletion"}),
    "words in a literal": ("op.execute(\"COMMENT ON TABLE things IS 'DROP TABLE x; '\")", set()),
    "words in a comment": ("op.execute('SELECT 1 -- ; DROP TABLE things')", set()),
    "what was made here": (
        (
            "op.create_table('new', sa.Column('id', sa.BigInteger()), sa.Column('x', sa.Text()))\n"
            "op.drop_column('new', 'x')\n"
            "op.execute('INSERT INTO new (id) SELECT id FROM things')\n"
            "op.drop_table('new')"
        ),
        set(),
    ),
    "index": (
        "op.create_index('ix_things_name', 'things', ['name'])",
        {"require-concurrent-index-creation"},
    ),
    "concurrent index": (
        (
            "with op.get_context().autocommit_block():\n"
            "    op.create_index('i', 'things', ['name'], postgresql_concurrently=True)"
        ),
        set(),
    ),
    "concurrent index in a transaction": (
        "op.create_index('ix_things_name', 'things', ['name'], postgresql_concurrently=True)",
        {"ban-concurrent-index-creation-in-transaction"},
    ),
    "constraint that scans": (
        "op.create_check_constraint('c', 'things', 'size > 0')",
        {"constraint-missing-not-valid"},
    ),
    "constraint that does not": (
        "op.create_check_constraint('c', 'things', 'size > 0', postgresql_not_valid=True)",
        set(),
    ),
    "its validation": ("op.execute('ALTER TABLE things VALIDATE CONSTRAINT c')", set()),
    "column with a default": (
        "op.add_column('things', sa.Column('n', sa.Text, nullable=False, server_default=''))",
        set(),
    ),
    "required column": (
        "op.add_column('things', sa.Column('more', sa.Text(), nullable=False))",
        {"adding-required-field"},
    ),
    "squawk's own way to ignore": (
        (
            "op.execute('-- squawk-ignore require-concurrent-index-creation\\n"
            "CREATE INDEX i ON things (name)')"
        ),
        {"require-concurrent-index-creation"},
    ),
    "update": ("op.execute('UPDATE things SET size = 1')", {"data-in-transaction"}),
    "delete": ("op.execute('DELETE FROM things WHERE size = 1')", {"data-in-transaction"}),
    "insert from": (
        "op.execute('INSERT INTO others SELECT * FROM things')",
        {"data-in-transaction"},
    ),
    "update behind a with": (
        "op.execute('WITH x AS (SELECT 1) UPDATE things SET size = 1')",
        {"data-in-transaction"},
    ),
    "backfill": (
        (
            "from service.migrations.backfill import backfill\n"
            "things = sa.table('things', sa.column('id'), sa.column('size'))\n"
            "backfill(things, key='id', values={'size': sa.literal(1)}, where=things.c.size < 1)"
        ),
        set(),
    ),
    "a statement behind a backfill": (
        (
            "from service.migrations.backfill import backfill\n"
            "things = sa.table('things', sa.column('id'), sa.column('size'))\n"
            "backfill(things, key='id', values={'size': sa.literal(1)}, where=things.c.size < 1)\n"
            "with op.get_context().autocommit_block():\n"
            "    op.execute('DELETE FROM things')"
        ),
        {"data-not-batched"},
    ),
    "index by the service's own function": (
        (
            "from service.migrations.indexes import create_index_concurrently\n"
            "create_index_concurrently('i', 'things', ['name'])"
        ),
        set(),
    ),
    "question to the database": (
        "op.get_bind().execute(sa.text('SELECT 1')).scalar()",
        {"not-rendered"},
    ),
    "a row": ("op.execute(\"INSERT INTO things (name) VALUES ('SELECT ')\")", set()),
    "whole table outside": (
        (
            "with op.get_context().autocommit_block():\n"
            "    op.execute('UPDATE things SET size = 1 WHERE size IS NULL')"
        ),
        {"data-not-batched"},
    ),
    "batches": (
        (
            "with op.get_context().autocommit_block():\n"
            "    op.execute('UPDATE things SET size = 1 WHERE id IN"
            " (SELECT id FROM things WHERE size IS NULL LIMIT 1000)')"
        ),
        set(),
    ),
}


def found_in(project: RevisionProject) -> list[Finding]:
    revisions = project.revisions()
    return lint(revisions, revisions.known.values())


@pytest.mark.parametrize("name", CASES)
def test_rules_of_an_expand_revision(project: RevisionProject, name: str) -> None:
    body, expected = CASES[name]
    project.add(body)
    found = found_in(project)
    assert {finding.rule for finding in found} == expected, found


def test_contract_revision_may_take_away(project: RevisionProject) -> None:
    work = [body for body, rules in CASES.values() if any(r.startswith("contract") for r in rules)]
    project.add("\n".join(work), head='phase = "contract"')
    rules = {finding.rule for finding in found_in(project)}
    # What locks is no less of a danger for that.
    assert rules == {"changing-column-type", "adding-not-nullable-field"}


def test_finding_is_at_the_line_of_the_file_that_asks_for_it(project: RevisionProject) -> None:
    revision = project.add(
        """
        columns = ["name"]
        op.add_column(
            "things",
            sa.Column("more", sa.Text()),
        )
        for column in columns:
            op.create_index(
                f"ix_{column}", "things", [column],
            )
        op.drop_column("things", "name")
        op.execute('''
            ALTER TABLE things ADD CONSTRAINT f
            FOREIGN KEY (size) REFERENCES others (id)
        ''')
        """
    )
    second = project.add("op.drop_table('others')")
    third = project.add("x = 1\nop.get_bind().execute(sa.text('SELECT 1')).scalar()")
    lines = {(finding.path, finding.rule): finding.line for finding in found_in(project)}
    path = project.files[revision]
    assert lines == {
        (path, "require-concurrent-index-creation"): project.line(revision, "op.create_index("),
        (path, "contract-drop-column"): project.line(revision, "op.drop_column("),
        (path, "adding-foreign-key-constraint"): project.line(revision, "op.execute("),
        (path, "constraint-missing-not-valid"): project.line(revision, "op.execute("),
        (project.files[second], "contract-drop-table"): project.line(second, "drop_table"),
        (project.files[third], "not-rendered"): project.line(third, "get_bind"),
    }


def test_revision_without_a_phase_is_an_error(project: RevisionProject) -> None:
    project.add("pass", head="")
    project.add("pass", head='phase = "sideways"')
    first, second = found_in(project)
    assert first.rule == "phase-missing"
    assert 'phase = "expand"' in first.message
    assert "contract" in second.message


@pytest.mark.parametrize(
    ("ignores", "rules"),
    [
        ("{'contract-drop-column': 'no release ever read it'}", set()),
        ("{'contract-drop-column': ' '}", {"ignore-without-reason"}),
        ("{'contract-drop-column': None}", {"ignore-without-reason"}),
        ("{'contract-drop-column': 'x', 'ban-char-field': 'y'}", {"unused-ignore"}),
        ("['contract-drop-column']", {"ignore-malformed", "contract-drop-column"}),
    ],
)
def test_ignoring_a_rule_takes_a_reason_and_a_use(
    project: RevisionProject, ignores: str, rules: set[str]
) -> None:
    revision = project.add(
        "op.drop_column('things', 'name')", head=f'phase = "expand"\nlint_ignores = {ignores}'
    )
    found = found_in(project)
    assert {finding.rule for finding in found} == rules
    lines = {finding.line for finding in found if finding.rule != "contract-drop-column"}
    assert lines <= {project.line(revision, "lint_ignores")}


def test_ignores_cannot_be_ignored(project: RevisionProject) -> None:
    project.add("pass", head="phase = 'expand'\nlint_ignores = {'unused-ignore': 'why not'}")
    assert [finding.rule for finding in found_in(project)] == ["unused-ignore"]


def test_formats(project: RevisionProject) -> None:
    path = project.versions / "a,b.py"
    finding = Finding(path, 7, "some-rule", "100 % wrong:\nmend it")
    (short,) = relative([finding], project.versions)
    assert short.path == Path("a,b.py")
    assert WRITERS[Format.TEXT]([short]).startswith("a,b.py:7: some-rule: 100 % wrong")
    assert WRITERS[Format.GITHUB]([short]) == (
        "::error file=a%2Cb.py,line=7,title=some-rule::100 %25 wrong:%0Amend it"
    )
    assert json.loads(WRITERS[Format.JSON]([short]))["findings"] == [
        {"path": "a,b.py", "line": 7, "rule": "some-rule", "message": "100 % wrong:\nmend it"}
    ]
    (entry,) = json.loads(WRITERS[Format.GITLAB]([short]))
    assert entry["location"] == {"path": "a,b.py", "lines": {"begin": 7}}
    assert entry.keys() == {"description", "check_name", "fingerprint", "severity", "location"}
    assert WRITERS[Format.GITHUB]([]) == ""
    assert json.loads(WRITERS[Format.GITLAB]([])) == []


def test_shipped_revisions_pass() -> None:
    revisions = Revisions()
    assert lint(revisions, revisions.known.values()) == []


@pytest.mark.parametrize("version", [None, "squawk 1.5.0"])
def test_missing_or_other_squawk_says_how_to_install_it(
    project: RevisionProject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str | None
) -> None:
    if version:
        program = tmp_path / "squawk"
        program.write_text(f"#!/bin/sh\necho {version}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "elsewhere" / "python"))
    project.add("pass")
    with pytest.raises(UsageError, match=r"pip install 'squawk-cli==2\.70") as refused:
        found_in(project)
    assert refused.value.exit_code == 2

"""All rules on some revisions."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from alembic.script import Script

from service.migrator.errors import MigrationError
from service.migrator.lint import OLDEST_POSTGRESQL, data, phases, squawk
from service.migrator.lint.findings import Finding, line_of
from service.migrator.lint.ignores import without_ignored
from service.migrator.lint.sql import work_of
from service.migrator.phases import Phase, phase_of
from service.migrator.rendering import RenderedRevision, render
from service.migrator.revisions import Revisions


def lint(
    revisions: Revisions, scripts: Iterable[Script], *, pg_version: str = OLDEST_POSTGRESQL
) -> list[Finding]:
    """What is wrong with revisions, by the SQL that PostgreSQL would get.

    Args:
        revisions: All of them.
        scripts: Those to look at.
        pg_version: The oldest PostgreSQL that they are for.

    Raises:
        UsageError: There is no squawk, or another version of it.
    """
    scripts = [*scripts]
    rendered: list[RenderedRevision] = []
    found: dict[Path, list[Finding]] = defaultdict(list)
    for script in scripts:
        path = Path(script.path)
        try:
            phase_of(script)
            rendered += _render(revisions, script)
        except MigrationError as error:
            rule = "not-rendered" if hasattr(script.module, "phase") else "phase-missing"
            found[path].append(Finding(path, line_of(error.__cause__, path), rule, str(error)))
    for one in rendered:
        found[one.path] += _rules(one)
    for finding in squawk.check(rendered, pg_version=pg_version):
        found[finding.path].append(finding)
    return [
        finding
        for script in scripts
        for finding in sorted(without_ignored(script, found[Path(script.path)]))
    ]


def _render(revisions: Revisions, script: Script) -> list[RenderedRevision]:
    # One that joins branches has several before it.
    before = script.down_revision if isinstance(script.down_revision, str) else None
    written = render(revisions, "postgresql", before, script.revision)
    return [one for one in written if one.revision == script.revision]


def _rules(one: RenderedRevision) -> Iterator[Finding]:
    for work in work_of(one.statements):
        if one.phase is Phase.EXPAND:
            for rule, what in phases.contract_work(work):
                message = f"{what}: the former release still runs; do it in a contract revision"
                yield Finding(one.path, work.line, rule, message)
        for rule, what in data.held_locks(work):
            yield Finding(one.path, work.line, rule, what)

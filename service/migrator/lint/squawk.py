"""The rules of squawk, which knows what PostgreSQL locks; run on the SQL of the revisions."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from service.migrator.errors import UsageError
from service.migrator.lint.findings import Finding
from service.migrator.rendering import RenderedRevision
from service.migrator.source_lines import Statement

# Its rules come and go with its versions, and with them what a revision may have to ignore.
VERSION: Final = "2.70"
LEFT_OUT: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            *("ban-drop-column", "ban-drop-constraint", "ban-drop-default", "ban-drop-domain"),
            *("ban-drop-extension", "ban-drop-function", "ban-drop-schema", "ban-drop-sequence"),
            *("ban-drop-table", "ban-drop-type", "ban-drop-view", "ban-set-schema"),
            *("renaming-column", "renaming-object", "renaming-table"),
        ),
        "a rule of phases here",
    ),
    "prefer-bigint-over-int": "the models' choice; a counter of versions needs no 64 bits",
    "prefer-bigint-over-smallint": "the models' choice",
    "prefer-text-field": "the models' choice; to widen a VARCHAR takes no time since 9.2",
    # An index that a broken run left invalid would be taken for the one that is asked for.
    "prefer-robust-stmts": "the runner drops what a concurrent build left behind, and builds anew",
}
# The runner gives each connection its timeouts; squawk only asks that there are some.
_BEFORE: Final = ("SET lock_timeout = '5s';", "SET statement_timeout = '1h';")


def check(rendered: list[RenderedRevision], *, pg_version: str) -> Iterator[Finding]:
    """What squawk says of revisions, at the lines of their own files.

    Args:
        rendered: The revisions as PostgreSQL's SQL.
        pg_version: The oldest PostgreSQL that they are for, like "14.0".

    Raises:
        UsageError: There is no squawk, or it is not the version that the rules are chosen from.
    """
    program = _program()
    with tempfile.TemporaryDirectory(prefix="tidegate-lint-") as directory:
        lines = {one.revision: _write(one, Path(directory)) for one in rendered}
        told = _run(program, directory, pg_version) if rendered else []
    by_revision = {one.revision: one for one in rendered}
    for each in told:
        revision = Path(each["file"]).stem
        # Its lines count from 0.
        line = lines[revision][min(each["line"], len(lines[revision]) - 1)]
        message = " ".join(filter(None, (each["message"], each["help"])))
        yield Finding(by_revision[revision].path, line, each["rule_name"], message)


def _write(one: RenderedRevision, directory: Path) -> list[int]:
    """Write a revision's own statements; returns the line of its file for each line written."""
    written: list[str] = []
    lines: list[int] = []
    for statement in (*(Statement(sql, None) for sql in _BEFORE), *one.statements):
        is_frame = statement.sql in ("BEGIN;", "COMMIT;", *_BEFORE)
        if statement.line is None and not is_frame:
            continue
        # A revision ignores a rule by saying why, which squawk's own comments do not.
        sql = statement.sql.replace("squawk-ignore", "squawk_ignore")
        # What ends the statement would be part of a comment that ends it.
        text = [*sql.removesuffix(";").splitlines(), ";"]
        written += text
        lines += [statement.line or 1] * len(text)
    (directory / f"{one.revision}.sql").write_text("\n".join(written) + "\n", encoding="utf-8")
    return lines


def _run(program: str, directory: str, pg_version: str) -> list[dict[str, Any]]:
    # Not told that it runs in a transaction: the revisions' own BEGIN and COMMIT say where.
    done = subprocess.run(  # noqa: S603 - a program found by us, and no shell
        [
            program,
            *("--reporter", "json", "--pg-version", pg_version),
            *("--exclude", ",".join(LEFT_OUT)),
            *sorted(path.name for path in Path(directory).glob("*.sql")),
        ],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        told: list[dict[str, Any]] = json.loads(done.stdout)
    except ValueError:
        reason = (done.stderr or done.stdout).strip().partition("\n")[0]
        raise UsageError(f"squawk failed: {reason}") from None
    return told


def _program() -> str:
    beside = Path(sys.executable).parent / "squawk"
    program = str(beside) if beside.is_file() else shutil.which("squawk")
    if program is None:
        raise UsageError(
            f"lint needs squawk, which is not installed: pip install 'squawk-cli=={VERSION}.*'"
        )
    words = subprocess.run(  # noqa: S603 - as above
        [program, "--version"], capture_output=True, text=True, check=False
    ).stdout.split()
    found = words[-1] if words else "of no version"
    if not found.startswith(f"{VERSION}."):
        raise UsageError(
            f"lint is made for squawk {VERSION}, and {program} is {found}:"
            f" pip install 'squawk-cli=={VERSION}.*'"
        )
    return program

"""What a revision asks to be let off, each with its reason: `lint_ignores` in its file."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from alembic.script import Script

from service.migrator.lint.findings import Finding

NAME: Final = "lint_ignores"


def without_ignored(script: Script, found: Iterable[Finding]) -> Iterator[Finding]:
    """Leave out what a revision ignores, and tell of ignores that are wrong or of no use.

    Args:
        script: The revision.
        found: What the rules say of it.
    """
    given = getattr(script.module, NAME, {})
    path = Path(script.path)
    line = _line_of(path)
    if not isinstance(given, dict):
        yield Finding(path, line, "ignore-malformed", f'write {NAME} = {{"rule": "reason"}}')
        given = {}
    used = set()
    for finding in found:
        used.add(finding.rule)
        if finding.rule not in given:
            yield finding
    for rule, reason in given.items():
        if not isinstance(reason, str) or not reason.strip():
            yield Finding(path, line, "ignore-without-reason", f"say why {rule} does not matter")
        if rule not in used:
            yield Finding(path, line, "unused-ignore", f"{rule} says nothing here; take it out")


def _line_of(path: Path) -> int:
    """The line that assigns the ignores."""
    for node in ast.parse(path.read_bytes()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == NAME for target in targets):
            return node.lineno
    return 1

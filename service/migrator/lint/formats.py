"""How findings are shown to people, scripts, GitHub and GitLab."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

from service.migrator.lint.findings import Finding


class Format(StrEnum):
    """Who the findings are for."""

    TEXT = "text"
    JSON = "json"
    GITHUB = "github"
    GITLAB = "gitlab"


def text(findings: Sequence[Finding]) -> str:
    """A line for each, as compilers write it."""
    return "\n".join(map(str, findings))


def as_json(findings: Sequence[Finding]) -> str:
    """An object with them all."""
    return json.dumps({"findings": [finding.as_json() for finding in findings]}, indent=2)


def github(findings: Sequence[Finding]) -> str:
    """Workflow commands, which GitHub shows beside the lines.

    The escapes are those of GitHub's own toolkit.
    """
    return "\n".join(
        f"::error file={_property(str(finding.path))},line={finding.line},"
        f"title={_property(finding.rule)}::{_escaped(finding.message)}"
        for finding in findings
    )


def gitlab(findings: Sequence[Finding]) -> str:
    """A Code Quality report, as GitLab's documentation describes it."""
    return json.dumps(
        [
            {
                "description": finding.message,
                "check_name": finding.rule,
                "fingerprint": hashlib.sha256(str(finding).encode()).hexdigest(),
                "severity": "major",
                "location": {"path": str(finding.path), "lines": {"begin": finding.line}},
            }
            for finding in findings
        ],
        indent=2,
    )


WRITERS: Final[Mapping[Format, Callable[[Sequence[Finding]], str]]] = {
    Format.TEXT: text,
    Format.JSON: as_json,
    Format.GITHUB: github,
    Format.GITLAB: gitlab,
}


def relative(findings: Sequence[Finding], root: Path) -> list[Finding]:
    """The same with paths from a directory, as GitHub and GitLab expect, where they lie in it."""
    return [
        Finding(
            finding.path.relative_to(root) if finding.path.is_relative_to(root) else finding.path,
            finding.line,
            finding.rule,
            finding.message,
        )
        for finding in findings
    ]


def _escaped(words: str) -> str:
    return words.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(words: str) -> str:
    return _escaped(words).replace(":", "%3A").replace(",", "%2C")
